"""Identity prediction over a raster larger than the memory it may take gives the raster back.

A GeoTIFF of four 16-bit bands, 2 GB of pixels by default, is written into a temporary folder. Then
a process of its own predicts every pixel as itself, in overlapping tiles with a Gaussian taper, and
puts them together. The result is compared with the raster window by window.

    python benchmarks/stitching.py                      # 2 GB, some minutes and 3 GB of disk
    python benchmarks/stitching.py --size 0.1 --json    # smaller, and a last line of JSON
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BANDS = 4
TILE, OVERLAP = 512, 64
ROWS = 1024


def write_raster(path, gigabytes):
    """Smooth ground with noise in its lowest bits, which compresses about as imagery does."""
    import rasterio

    side = math.ceil(math.sqrt(gigabytes * 1e9 / BANDS / 2) / 256) * 256
    random = np.random.default_rng(0)
    noise = random.integers(0, 64, (BANDS, ROWS, side), np.uint16)
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=BANDS, dtype="uint16",
        crs="EPSG:32633", transform=transform, nodata=65535, tiled=True, blockxsize=256,
        blockysize=256, compress="deflate", zlevel=1, bigtiff="if_safer",
    ) as file:  # fmt: skip
        columns = np.arange(side)
        for top in range(0, side, ROWS):
            rows = np.arange(top, min(top + ROWS, side))
            ground = 4000 + 3000 * np.sin(rows[:, np.newaxis] / 900) * np.cos(columns / 700)
            part = ground.astype(np.uint16)[np.newaxis] + np.roll(noise[:, : len(rows)], top, 2)
            file.write(part, window=rasterio.windows.Window(0, top, side, len(rows)))
    return side


def stitch(source, result):
    """What the process of its own does; prints its seconds and the most memory it had."""
    from lit_imgproc.data.satellite.mosaic import mosaic

    begun = time.perf_counter()
    mosaic(source, lambda images: images, result, dtype="uint16", tile_size=TILE, overlap=OVERLAP)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


def compare(source, result):
    """How many pixels differ, and whether the rest is the same."""
    import rasterio

    with rasterio.open(source) as given, rasterio.open(result) as made:
        keys = ("crs", "transform", "width", "height", "count", "nodata")
        same = all(getattr(given, key) == getattr(made, key) for key in keys)
        same &= given.dtypes == made.dtypes
        different = 0
        for top in range(0, given.height, ROWS):
            rows = min(ROWS, given.height - top)
            window = rasterio.windows.Window(0, top, given.width, rows)
            different += int((given.read(window=window) != made.read(window=window)).sum())
    return different, same


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=2.0, help="gigabytes of pixels")
    parser.add_argument("--folder", help="where to write, instead of the system's temporary one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stitch", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stitch:
        stitch(*arguments.stitch)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source, result = Path(folder, "raster.tif"), Path(folder, "mosaic.tif")
        side = write_raster(source, arguments.size)
        size = side * side * BANDS * 2
        print(f"{side} x {side} pixels, {BANDS} bands of uint16: {size / 1e9:.2f} GB", flush=True)
        command = [sys.executable, __file__, "--stitch", str(source), str(result)]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(ran.stdout)
        different, same = compare(source, result)
    found |= {"gigabytes": size / 1e9, "different_pixels": different, "same_geometry": same}
    print(f"stitched in {found['seconds']:.0f} s, {size / 1e6 / found['seconds']:.0f} MB/s")
    print(f"peak resident size {found['peak_mb']:.0f} MB")
    print(f"{different} values differ; CRS, transform, size, type and nodata equal: {same}")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
