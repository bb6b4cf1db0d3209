"""Boxes among the coordinates of a raster and of the ground."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.handles import library
from lit_imgproc.data.satellite.raster import Raster

Boxes = NDArray[np.float32] | NDArray[np.float64]
WGS84 = "EPSG:4326"


def boxes_to_corners(boxes: Boxes, transform: Any) -> NDArray[np.float64]:
    """The corners ``[N,4,2]`` in the CRS of boxes ``[N,4]``, xyxy in pixels of a raster."""
    left, top, right, bottom = np.asarray(boxes, np.float64).reshape(-1, 4).T
    columns = np.stack([left, right, right, left], axis=1)
    rows = np.stack([top, top, bottom, bottom], axis=1)
    a, b, c, d, e, f = transform[:6]
    return np.stack([a * columns + b * rows + c, d * columns + e * rows + f], axis=2)


def corners_to_boxes(corners: NDArray[np.float64], transform: Any) -> NDArray[np.float64]:
    """The smallest boxes ``[N,4]``, xyxy in pixels of a raster, around points ``[N,P,2]``."""
    a, b, c, d, e, f = (~transform)[:6]
    x, y = corners[..., 0], corners[..., 1]
    columns, rows = a * x + b * y + c, d * x + e * y + f
    return np.stack([columns.min(1), rows.min(1), columns.max(1), rows.max(1)], axis=1)


def write_geojson(
    path: str | Path,
    raster: Raster,
    boxes: Boxes,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
) -> None:
    """Write boxes as polygons in the CRS of their raster.

    A CRS without an authority's code, which GeoJSON cannot name, becomes WGS 84 (RFC 7946). Of a
    raster without CRS the coordinates are what its transform gives, by default pixels.

    Args:
        path: The file.
        raster: What the boxes were found in.
        boxes: ``[N,4]``, xyxy in pixels of the raster.
        labels: Names of classes.
        scores: Of the boxes, if they have any.
    """
    corners = boxes_to_corners(boxes, raster.transform)
    collection: dict[str, Any] = {"type": "FeatureCollection"}
    if raster.crs is not None:
        crs = library().crs.CRS.from_user_input(raster.crs)
        if authority := crs.to_authority():
            name = "urn:ogc:def:crs:{}::{}".format(*authority)
            collection["crs"] = {"type": "name", "properties": {"name": name}}
        else:
            corners = reproject(corners, raster.crs, WGS84)
    rings = np.concatenate([corners, corners[:, :1]], axis=1).tolist()
    features = []
    for number, (ring, label) in enumerate(zip(rings, labels, strict=True)):
        properties: dict[str, Any] = {"label": label}
        if scores is not None:
            properties["score"] = float(scores[number])
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    Path(path).write_text(json.dumps(collection | {"features": features}) + "\n")


def read_geojson(path: str | Path, raster: Raster) -> tuple[NDArray[np.float64], list[str]]:
    """Boxes around the polygons of a GeoJSON file.

    Its coordinates are of the CRS that it names, of WGS 84 if it names none, and of a raster
    without CRS what its transform gives. A feature's class is its property ``label``.

    Returns:
        xyxy in pixels of the raster ``[N,4]``, and the labels.

    Raises:
        DataError: With a line for everything that is wrong.
    """
    try:
        collection = json.loads(Path(path).read_text(encoding="utf-8"))
        features = collection["features"]
        crs = collection.get("crs", {}).get("properties", {}).get("name", WGS84)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no GeoJSON collection of features ({error}).") from error
    boxes, labels, problems = np.zeros((0, 4)), [], []
    for number, feature in enumerate(features):
        try:
            label = str(feature["properties"]["label"])
            corners = _points(feature["geometry"])[np.newaxis]
        except (KeyError, TypeError, ValueError, IndexError):
            problems.append(f"{path}: feature {number} is no polygon with the property `label`.")
            continue
        if raster.crs is not None:
            corners = reproject(corners, crs, raster.crs)
        boxes = np.concatenate([boxes, corners_to_boxes(corners, raster.transform)])
        labels.append(label)
    if problems:
        raise DataError("\n".join(problems))
    return boxes, labels


def reproject(points: NDArray[np.float64], source: str, target: str) -> NDArray[np.float64]:
    """Points ``[...,2]`` from one CRS to another.

    Raises:
        DataError: One of them is unknown.
    """
    rasterio = library()
    try:
        here, there = (rasterio.crs.CRS.from_user_input(crs) for crs in (source, target))
        if here == there:
            return points
        flat = points.reshape(-1, 2)
        from rasterio.warp import transform

        x, y = transform(here, there, flat[:, 0], flat[:, 1])
    except (rasterio.errors.CRSError, ValueError) as error:  # a code that is no number
        raise DataError(f"no coordinate reference system is called {source!r}") from error
    return np.stack([x, y], axis=1).reshape(points.shape)


def _points(geometry: dict[str, Any]) -> NDArray[np.float64]:
    """The points ``[P,2]`` of the outer rings of a polygon or of several."""
    polygons = geometry["coordinates"]
    if geometry["type"] == "Polygon":
        polygons = [polygons]
    elif geometry["type"] != "MultiPolygon":
        raise ValueError(geometry["type"])
    return np.concatenate([np.asarray(rings[0], np.float64)[:, :2] for rings in polygons])
