"""Small made-up rasters in the real formats, always the same pixels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.satellite.coordinates import write_geojson
from lit_imgproc.data.satellite.handles import library, open_quietly
from lit_imgproc.data.satellite.raster import Raster

SENTINEL_BANDS = (
    *(f"B{number:02}" for number in range(1, 13)),
    "B8A",  # the last one in EuroSAT's files
)
CRS = "EPSG:32633"
LAND_COVERS = ("water", "field", "forest", "town")
FIELD_BANDS = ("blue", "green", "red", "nir")
ROOFS = ("flat", "tiled")
ROOF_COLOURS = ((200, 200, 210), (200, 90, 60))
SIDE = 32


def write_scenes(root: Path, band_names: Sequence[str]) -> None:
    """16 training, 4 validation and 8 test images of each of four land covers, as uint16.

    All have the same shapes, the same mean over the bands and a random brightness: a class shows
    in the ratios of the bands and in nothing else.
    """
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4), ("test", 8)):
        for number, name in enumerate(LAND_COVERS):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                image = _scene(random, number, len(band_names), SIDE)
                write(folder / f"{name}_{index}.tif", image, names=band_names, origin=index)


def write_eurosat(root: Path, classes: Sequence[str]) -> None:
    """Ten images of each class."""
    random = np.random.default_rng(0)
    for number, name in enumerate(classes):
        folder = root / "EuroSAT_MS" / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(1, 11):
            image = _scene(random, number, len(SENTINEL_BANDS), side=64)
            write(folder / f"{name}_{index}.tif", image, origin=index)


def write_rasters(root: Path) -> None:
    """Six rasters of 128x160 pixels and four bands with their masks; a corner of each is empty."""
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    spectra = np.stack([_spectrum(number, len(FIELD_BANDS)) for number in range(4)], axis=1)
    for index in range(6):
        fields = random.integers(0, 4, (4, 5))
        mask = np.kron(fields, np.ones((32, 32), int)).astype(np.uint8)
        texture = _texture(random, *mask.shape)
        image = (spectra[:, mask] * texture * 2000).astype(np.uint16)
        image[:, :20, :20] = 0
        write(root / "images" / f"{index}.tif", image, FIELD_BANDS, origin=index, nodata=0)
        write(root / "masks" / f"{index}.tif", mask[np.newaxis], origin=index)
    classes = {"classes": list(LAND_COVERS)}
    (root / "classes.json").write_text(json.dumps(classes) + "\n")


def write_boxes(root: Path) -> None:
    """Six rasters of 160x160 pixels, 8 bits, RGB, with the boxes of their roofs."""
    random = np.random.default_rng(0)
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index in range(6):
        image = random.integers(20, 80, (160, 160, 3), np.uint8)
        boxes, labels = [], []
        for row in range(0, 160, 40):
            for column in range(0, 160, 40):
                height, width = random.integers(12, 30, 2).tolist()
                top, left = row + 4, column + 4
                roof = int(random.integers(2))
                image[top : top + height, left : left + width] = ((200, 200, 210), (200, 90, 60))[
                    roof
                ]
                boxes.append([left, top, left + width, top + height])
                labels.append(ROOFS[roof])
        path = root / "images" / f"{index}.tif"
        write(path, image.transpose(2, 0, 1), ("red", "green", "blue"), origin=index)
        annotations = root / "annotations" / str(index)
        if index % 2:
            write_geojson(
                f"{annotations}.geojson", Raster(path), np.asarray(boxes, np.float64), labels
            )
        else:
            rows = (",".join(map(str, [*b, name])) for b, name in zip(boxes, labels, strict=True))
            text = "\n".join(["xmin,ymin,xmax,ymax,label", *rows, ""])
            Path(f"{annotations}.csv").write_text(text)


def write(
    path: Path,
    bands: NDArray[Any],
    names: Sequence[str] = (),
    *,
    origin: int = 0,
    nodata: float | None = None,
) -> None:
    """Write ``[C,H,W]`` as a GeoTIFF of 10 m pixels, ``origin`` kilometres from the others."""
    transform = library().Affine(10, 0, 500_000 + 1000 * origin, 0, -10, 5_000_000)
    count, height, width = bands.shape
    with open_quietly(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=bands.dtype.name,
        crs=CRS,
        transform=transform,
        nodata=nodata,
        compress="deflate",
    ) as file:
        file.write(bands)
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)


def _scene(random: np.random.Generator, number: int, bands: int, side: int) -> NDArray[np.uint16]:
    spectrum = _spectrum(number, bands)[:, np.newaxis, np.newaxis]
    noise = random.normal(1, 0.05, (bands, side, side))
    brightness = random.uniform(0.6, 1.4)
    return (2000 * brightness * spectrum * _texture(random, side, side) * noise).astype(np.uint16)


def _spectrum(number: int, bands: int) -> NDArray[np.float64]:
    """A class's reflectance in each band, with mean 1: waves of different length and sign."""
    wave = np.sin(2 * np.pi * (number // 2 + 1) * (np.arange(bands) + 0.25) / bands)
    return np.asarray(1 + (0.4 if number % 2 else -0.4) * (wave - wave.mean()))


def _texture(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Smooth spots around 1."""
    spots = cv2.GaussianBlur(random.normal(size=(height, width)), (0, 0), 3)
    return np.asarray(1 + 0.2 * spots / np.abs(spots).max())
