import json

import numpy as np
import pytest

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.coordinates import (
    boxes_to_corners,
    corners_to_boxes,
    read_geojson,
    reproject,
    write_geojson,
)
from lit_imgproc.data.satellite.raster import Raster

rasterio = pytest.importorskip("rasterio")
BOXES = np.asarray([[1, 2, 5.5, 9], [0, 0, 20, 20]], np.float64)


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_to_the_ground_and_back(turned):
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    if turned:
        transform = rasterio.Affine(8, 6, 500_000, 6, -8, 5_000_000)
    corners = boxes_to_corners(BOXES, transform)
    assert corners.shape == (2, 4, 2)
    if not turned:
        assert corners[0, 0].tolist() == [500_010, 4_999_980]
        assert corners[0, 2].tolist() == [500_055, 4_999_910]
    np.testing.assert_allclose(corners_to_boxes(corners, transform), BOXES, atol=1e-6)
    assert boxes_to_corners(np.zeros((0, 4)), transform).shape == (0, 4, 2)


@pytest.mark.parametrize("crs", ["EPSG:32633", None])
def test_geojson_round_trip(write_raster, tmp_path, crs):
    raster = Raster(write_raster("a.tif", np.zeros((1, 30, 30), np.uint8), crs=crs))
    write_geojson(tmp_path / "a.geojson", raster, BOXES, ["roof", "tree"], [0.5, 0.25])
    boxes, labels = read_geojson(tmp_path / "a.geojson", raster)
    np.testing.assert_allclose(boxes, BOXES, atol=1e-6)
    assert labels == ["roof", "tree"]
    written = json.loads((tmp_path / "a.geojson").read_text())
    assert ("crs" in written) == (crs is not None)
    assert written["features"][1]["properties"] == {"label": "tree", "score": 0.25}
    ring = written["features"][0]["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert len(ring) == 5


def test_geojson_of_another_crs(write_raster, tmp_path):
    raster = Raster(write_raster("a.tif", np.zeros((1, 30, 30), np.uint8)))
    corners = reproject(boxes_to_corners(BOXES, raster.transform), raster.crs, "EPSG:4326")
    assert 14 < corners[0, 0, 0] < 16
    polygon = {"type": "MultiPolygon", "coordinates": [[ring] for ring in corners.tolist()]}
    feature = {"type": "Feature", "properties": {"label": "a"}, "geometry": polygon}
    path = tmp_path / "a.geojson"  # of WGS 84, since it does not say
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    boxes, labels = read_geojson(path, raster)
    np.testing.assert_allclose(boxes, [[0, 0, 20, 20]], atol=1e-3)
    assert labels == ["a"]


def test_a_crs_without_a_code_is_written_as_wgs84(write_raster, tmp_path):
    odd = "+proj=laea +lat_0=48.3 +lon_0=14.7 +datum=WGS84 +units=m"
    raster = Raster(write_raster("a.tif", np.zeros((1, 30, 30), np.uint8), crs=odd))
    write_geojson(tmp_path / "a.geojson", raster, BOXES, ["a", "b"])
    assert "crs" not in json.loads((tmp_path / "a.geojson").read_text())
    np.testing.assert_allclose(read_geojson(tmp_path / "a.geojson", raster)[0], BOXES, atol=1e-3)


def test_what_is_no_geojson(write_raster, tmp_path):
    raster = Raster(write_raster("a.tif", np.zeros((1, 30, 30), np.uint8)))
    path = tmp_path / "a.geojson"
    for text in ("{", "[]", '{"type": "Feature"}'):
        path.write_text(text)
        with pytest.raises(DataError, match="no GeoJSON collection"):
            read_geojson(path, raster)
    point = {"properties": {"label": "a"}, "geometry": {"type": "Point", "coordinates": [1, 2]}}
    bare = {"properties": {}, "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}}
    path.write_text(json.dumps({"features": [point, bare]}))
    with pytest.raises(DataError) as error:
        read_geojson(path, raster)
    assert [line.split(": ")[1][:9] for line in str(error.value).splitlines()] == [
        "feature 0",
        "feature 1",
    ]
    crs = {"type": "name", "properties": {"name": "EPSG:nonsense"}}
    good = bare | {"properties": {"label": "a"}}
    path.write_text(json.dumps({"features": [good], "crs": crs}))
    with pytest.raises(DataError, match="EPSG:nonsense"):
        read_geojson(path, raster)
