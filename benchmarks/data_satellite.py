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
    filename_glob = "*.tif"


class TheirMasks(RasterDataset):
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
    count, height, width = image.shape
    crops = [image, image[:, ::-1], image[:, :, ::-1], image[:, ::-1, ::-1]]
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(FILES):
        whole = np.concatenate(
            [
                np.concatenate([crops[(r * 3 + c + number) % 4] for c in range(side // width + 1)], 2)
                for r in range(side // height + 1)
            ],
            1,
        )[:, :side, :side]
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


def ours(root, sampling, windows, arguments, workers):
    data = RasterTiles(
        root=str(root), class_names=CLASSES, tile_size=arguments.tile, sampling=sampling,
        splits={"train": ["*"], "val": ["0.tif"]} if False else None, batch_size=arguments.batch,
        num_workers=workers,
    )  # fmt: skip
    return data
