"""The memory that a run needs to segment a raster larger than it, and a large volume.

A GeoTIFF of 20,000 x 10,000 pixels and three bands, 600 MB, and a NIfTI volume of 320 x 320 x 160
voxels are written into a temporary folder. Then a process of its own for each segments it with a
network of one convolution, as `lit-imgproc predict --masks` does, and says the most memory that it
had, and what it had of that before it began (Python and its libraries). All scores of the raster,
float32 of five classes, would take 4 GB.

    python benchmarks/segmentation_memory.py                      # some minutes
    python benchmarks/segmentation_memory.py --scale 0.2 --json   # smaller, a last line of JSON
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROWS = 1000
CLASSES = ["background", "field", "forest", "water", "roof"]
TILE = 512
PATCH = 96


def write_raster(path, height, width):
    """Ground that goes up and down, with noise, in three bands."""
    import rasterio

    random = np.random.default_rng(0)
    noise = random.integers(0, 16, (3, ROWS, width), np.uint8)
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
        crs="EPSG:32633", transform=transform, tiled=True, blockxsize=256, blockysize=256,
    ) as file:  # fmt: skip
        for top in range(0, height, ROWS):
            rows = np.arange(top, min(top + ROWS, height))[:, np.newaxis]
            ground = 110 + 100 * np.sin(rows / 300) * np.cos(np.arange(width) / 200)
            part = ground.astype(np.uint8) + noise[:, : len(rows)]
            file.write(part, window=rasterio.windows.Window(0, top, width, len(rows)))


def write_volume(path, shape):
    """Noise, as an uncompressed NIfTI file."""
    from lit_imgproc.data.medical.nifti import write_nifti

    values = np.random.default_rng(0).integers(-1000, 1000, shape, np.int16)
    write_nifti(path, values, np.diag([-0.8, 0.8, 1.5, 1.0]))


def make_run(volumes):
    """A run as ``load_run`` gives it, with a network that is as small as one can be."""
    from torch import nn

    from lit_imgproc.inputs import InputSpec
    from lit_imgproc.models.segmentation.module import Segmenter
    from lit_imgproc.optim import SGD
    from lit_imgproc.recipes.run import Run

    channels = 1 if volumes else 3
    network = (nn.Conv3d if volumes else nn.Conv2d)(channels, len(CLASSES), 1)
    module = Segmenter(
        network=network, num_classes=len(CLASSES), class_names=CLASSES, optimizer=SGD(lr=0.1),
        mean=[0.0] * channels, std=[1000.0 if volumes else 1.0] * channels,
        window=PATCH if volumes else None,
    ).eval()  # fmt: skip
    run = Run(SimpleNamespace(info=SimpleNamespace(run_id="none")), "sqlite:///none.db")
    if volumes:
        data = {"name": "medical_volumes", "patch_size": [PATCH] * 3, "root": ""}
        spec = InputSpec(1, (PATCH, PATCH), "none", value_range=(-1000, 1000))
    else:
        data = {"name": "raster_tiles", "tile_size": TILE, "batch_size": 4, "root": ""}
        spec = InputSpec(3, (TILE, TILE), "none")
    run.__dict__ |= {"module": module, "recipe": {"data": data}, "input_spec": spec}
    return run


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def segment(kind, source, folder):
    """What the processes of their own do; prints seconds and memory."""
    run = make_run(kind == "volume")
    assert run.reader is not None
    before, begun = peak_mb(), time.perf_counter()
    (path,) = run.write_masks([source], folder)
    seconds = time.perf_counter() - begun
    found = {"seconds": seconds, "before_mb": before, "peak_mb": peak_mb()}
    print(json.dumps(found | {"mask_mb": path.stat().st_size / 1e6}))


def measure(kind, source, folder, values):
    """Segment a file in a process of its own, and say what that took."""
    command = [sys.executable, __file__, "--segment", kind, str(source), str(folder)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    scores = values * len(CLASSES) * 4 / 1e6
    print(f"{kind}: {source.stat().st_size / 1e6:.0f} MB, {found['seconds']:.0f} s")
    print(
        f"  peak resident size {found['peak_mb']:.0f} MB, {found['before_mb']:.0f} MB of it before "
        f"it began; all scores would be {scores:.0f} MB"
    )
    return found | {"scores_mb": scores}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of all sides")
    parser.add_argument("--folder", help="where to write, instead of the system's temporary one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--segment", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.segment:
        segment(*arguments.segment)
        return
    height, width = (round(side * arguments.scale) for side in (10_000, 20_000))
    shape = tuple(round(side * arguments.scale) for side in (160, 320, 320))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        raster, volume = Path(folder, "raster.tif"), Path(folder, "volume.nii")
        write_raster(raster, height, width)
        write_volume(volume, shape)
        masks = Path(folder, "masks")
        found = {
            "raster": measure("raster", raster, masks, height * width),
            "volume": measure("volume", volume, masks, int(np.prod(shape))),
        }
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
