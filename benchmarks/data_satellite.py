"""Windows of large rasters with their masks: how many a second, beside torchgeo's samplers.

Real imagery is repeated into a few large tiled and compressed GeoTIFFs with a CRS and masks: RGB of
8 bits, and four bands of 16 bits. Both sides read the same files through a loader with the same
size of windows and of batches, image and mask together: at random places (RandomGeoSampler) and
along a grid (GridGeoSampler). Each is measured in turns; the best of the rounds counts.

    LIT_IMGPROC_DATA=… python benchmarks/data_satellite.py            # a table
    LIT_IMGPROC_DATA=… python benchmarks/data_satellite.py --json     # and a last line of JSON
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import rasterio
import torch
from torch.utils.data import DataLoader
from torchgeo.datasets import RasterDataset, stack_samples
from torchgeo.samplers import GridGeoSampler, RandomGeoSampler

from lit_imgproc.data.satellite.segmentation import RasterTiles

CLASSES = ["dark", "middle", "bright"]
FILES = 3


class TheirImages(RasterDataset):
    """Torchgeo's images."""

    filename_glob = "*.tif"


class TheirMasks(RasterDataset):
    """Torchgeo's masks."""

    filename_glob = "*.tif"
    is_image = False


def imagery(kind, folder):
    """A real image ``[C,H,W]`` to repeat."""
    if kind == "uint8":
        with rasterio.open(folder / "neon_trees/OSBS_029.tif") as file:
            return file.read()
    with rasterio.open(folder / "geo_samples/spacenet/ms1.tif") as file:
        return file.read().astype(np.uint16)


def write_files(root, image, megabytes):
    """Three rasters and their masks; turned and mirrored copies side by side."""
    side = int((megabytes * 1e6 / image[:, 0, 0].nbytes / FILES) ** 0.5) // 512 * 512
    height, width = image.shape[1:]
    crops = [image, image[:, ::-1], image[:, :, ::-1], image[:, ::-1, ::-1]]
    down, across = side // height + 1, side // width + 1
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(FILES):
        rows = [
            np.concatenate([crops[(row * 3 + column + number) % 4] for column in range(across)], 2)
            for row in range(down)
        ]
        whole = np.concatenate(rows, 1)[:, :side, :side]
        levels = np.quantile(whole[0, :1024], [0.33, 0.66])
        mask = np.digitize(whole[0], levels).astype(np.uint8)[np.newaxis]
        for kind, pixels in (("images", whole), ("masks", mask)):
            with rasterio.open(
                root / kind / f"{number}.tif", "w", driver="GTiff", width=side, height=side,
                count=len(pixels), dtype=pixels.dtype.name, crs="EPSG:32633", tiled=True,
                blockxsize=512, blockysize=512, compress="deflate", predictor=2,
                transform=rasterio.Affine(1, 0, 500_000 + 2 * side * number, 0, -1, 5_000_000),
            ) as file:  # fmt: skip
                file.write(pixels)
    return side


def our_loader(data, way):
    return data.train_dataloader() if way == "random" else data.val_dataloader()


def their_loader(root, files, way, length, arguments):
    paths = [[root / kind / file for file in files] for kind in ("images", "masks")]
    both = TheirImages(paths[0]) & TheirMasks(paths[1])
    if way == "random":
        sampler = RandomGeoSampler(both, size=arguments.tile, length=length)
    else:
        sampler = GridGeoSampler(both, size=arguments.tile, stride=arguments.tile)
    return DataLoader(
        both,
        batch_size=arguments.batch,
        sampler=sampler,
        num_workers=arguments.workers,
        collate_fn=stack_samples,
        persistent_workers=arguments.workers > 0,
    )


def windows_per_second(loader):
    """One pass; the windows must come whole."""
    begun, count = time.perf_counter(), 0
    for batch in loader:
        assert batch["image"].shape[-2:] == batch["mask"].shape[-2:]
        count += len(batch["image"])
    return count / (time.perf_counter() - begun)


def measure(root, way, arguments):
    """The best rates of both, taken in turns."""
    data = RasterTiles(
        root=str(root),
        class_names=CLASSES,
        tile_size=arguments.tile,
        sampling="random",
        splits={"train": ["[01].tif"], "val": ["2.tif"]},
        batch_size=arguments.batch,
        num_workers=arguments.workers,
    )
    split, files = ("train", ["0.tif", "1.tif"]) if way == "random" else ("val", ["2.tif"])
    loaders = {
        "ours": our_loader(data, way),
        "torchgeo": their_loader(root, files, way, data.splits()[split], arguments),
    }
    rates = dict.fromkeys(loaders, 0.0)
    for _ in range(arguments.rounds):
        for name, loader in loaders.items():
            rates[name] = max(rates[name], windows_per_second(loader))
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=300, help="megabytes of pixels of a kind")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(os.environ.get("LIT_IMGPROC_DATA", "data"))
    ratios = {}
    with tempfile.TemporaryDirectory() as temporary:
        for kind in ("uint8", "uint16"):
            root = Path(temporary, kind)
            side = write_files(root, imagery(kind, folder), arguments.size)
            for way in ("random", "grid"):
                rates = measure(root, way, arguments)
                ratios[f"{kind} {way}"] = round(rates["ours"] / rates["torchgeo"], 2)
                print(
                    f"{kind:6} {FILES} files of {side}x{side}, {way:6} "
                    f"ours {rates['ours']:6.0f}  torchgeo {rates['torchgeo']:6.0f} windows/s  "
                    f"ratio {ratios[f'{kind} {way}']:.2f}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps(ratios))


if __name__ == "__main__":
    main()
