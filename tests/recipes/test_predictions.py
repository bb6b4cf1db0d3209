"""What is written of predictions, read again by the tools that it is written for."""

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from bright import CLASSES, run_of
from faster_coco_eval.core import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lit_imgproc.data.decode import read_image
from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec
from lit_imgproc.pictures import annotate, colour, legend, paint
from lit_imgproc.recipes import predictions
from lit_imgproc.recipes.predictions import (
    Said,
    outputs,
    summary,
    whole_images,
    without_arrays,
    write_coco,
    write_picture,
)

SPEC = InputSpec(3, (64, 64), "none")


def open_quietly(make, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return make(*arguments)


@pytest.fixture
def photos(tmp_path):
    """A folder of two images, one with a spot of each class, and what a run with masks says."""
    pixels = np.zeros((50, 80, 3), np.uint8)
    pixels[10:20, 5:25] = 255
    cv2.circle(pixels, (60, 30), 8, (128, 128, 128), cv2.FILLED)
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), pixels)
    cv2.imwrite(str(tmp_path / "photos" / "deep" / "b.png"), np.zeros((20, 30, 3), np.uint8))
    run = run_of({"name": "coco", "target": "instances"}, SPEC, masks=True)
    return tmp_path / "photos", pixels, run.predict(tmp_path / "photos")


def test_a_summary_counts_what_scores_enough():
    answer = {"boxes": [[0] * 4] * 4, "labels": ["WBC", "RBC", "RBC", "RBC"]}
    answer["scores"] = [0.9, 0.8, 0.5, 0.49]
    assert summary(answer, 0.5) == "2 RBC, 1 WBC"
    assert summary(answer, 0.0) == "3 RBC, 1 WBC"
    assert summary(answer, 0.95) == "nothing"
    assert summary({"label": "cat", "score": 0.25}, 0.5) == "cat 0.250"
    assert summary({"label": ["cat", "dog"], "score": [0.6, 0.7]}, 0.5) == "cat, dog"


def test_answers_of_whole_images_are_left_as_they_are():
    boxes = {"id": "a", "boxes": [[1, 2, 3, 4]], "labels": ["x"], "scores": [0.5], "masks": ["m"]}
    geometry = {"path": "a", "size": [5, 6], "scale": [1, 1]}
    label = {"id": "b", "label": "x", "score": 0.5}
    whole = list(whole_images([Said(0, geometry, boxes), Said(1, geometry, label)]))
    assert whole == [{**boxes, "size": [5, 6]}, label]


# COCO --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_coco_file_of_its_own(photos, tmp_path):
    folder, pixels, answers = photos
    write_coco(tmp_path / "found.json", answers, CLASSES)
    found = open_quietly(COCO, tmp_path / "found.json")
    assert {i["file_name"]: (i["id"], i["height"], i["width"]) for i in found.loadImgs([1, 2])} == {
        str(folder / "a.png"): (1, 50, 80),
        str(folder / "deep" / "b.png"): (2, 20, 30),
    }
    assert [(c["id"], c["name"]) for c in found.loadCats([1, 2])] == [(1, "grey"), (2, "white")]
    white, grey = found.loadAnns(found.getAnnIds(imgIds=[1]))
    assert found.getAnnIds(imgIds=[2]) == []
    assert (white["bbox"], white["category_id"], white["area"]) == ([5, 10, 20, 10], 2, 200)
    assert (white["score"], grey["score"]) == (1, pytest.approx(128 / 255))
    np.testing.assert_array_equal(found.annToMask(white), pixels[:, :, 0] == 255)
    np.testing.assert_array_equal(found.annToMask(grey), pixels[:, :, 0] == 128)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_results_by_the_ids_of_an_annotation_file(photos, tmp_path, kind):
    folder, _, answers = photos
    images = [
        {"id": 71, "file_name": "deep/b.png", "height": 20, "width": 30},
        {"id": 72, "file_name": "a.png", "height": 50, "width": 80},
        {"id": 73, "file_name": "c.png", "height": 50, "width": 80},
    ]
    categories = [{"id": 5, "name": "white"}, {"id": 9, "name": "grey"}, {"id": 1, "name": "red"}]
    truth = [
        {"id": n, "image_id": 72, "category_id": {"grey": 9, "white": 5}[label], "iscrowd": 0,
         "bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y),
         "segmentation": mask}
        for n, ((x, y, right, bottom), label, mask) in enumerate(
            zip(answers[0]["boxes"], answers[0]["labels"], answers[0]["masks"], strict=True), 1
        )
    ]  # fmt: skip
    whole = {"images": images, "categories": categories, "annotations": truth}
    (tmp_path / "truth.json").write_text(json.dumps(whole))
    write_coco(tmp_path / "found.json", answers, CLASSES, tmp_path / "truth.json")
    assert {tuple(sorted(one)) for one in json.loads((tmp_path / "found.json").read_text())} == {
        ("bbox", "category_id", "image_id", "score", "segmentation")
    }

    def measured():
        known = COCO(tmp_path / "truth.json")
        evaluation = COCOeval(known, known.loadRes(str(tmp_path / "found.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats[0]

    assert open_quietly(measured) == pytest.approx(1)
    images[1]["file_name"] = f"{folder.name}/a.png"  # the longest end that is known
    (tmp_path / "truth.json").write_text(json.dumps(whole))
    write_coco(tmp_path / "found.json", answers, CLASSES, tmp_path / "truth.json")
    assert open_quietly(measured) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read as annotations of COCO"),
        ("[]", "cannot be read as annotations of COCO"),
        ('{"images": [], "categories": []}', r"truth\.json: has no image a\.png"),
        (
            '{"images": [{"file_name": "a.png", "id": 1}, {"file_name": "b.png", "id": 2}], '
            '"categories": [{"name": "white", "id": 1}]}',
            "has no category grey",
        ),
    ],
)
def test_annotations_that_do_not_fit(photos, tmp_path, text, sentence):
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        write_coco(tmp_path / "found.json", photos[2], CLASSES, tmp_path / "truth.json")
    assert not (tmp_path / "found.json").exists()


# Files of their own ------------------------------------------------------------------------------


def test_each_image_has_a_file_of_its_own(tmp_path):
    folder = tmp_path / "out"
    names = ["x/a.jpg", "x/y/a.jpg", "x/b.jpg", "x/b.png", "x/a.jpg"]
    files = [tmp_path / name for name in names]
    wanted = ["a.png", "y/a.png", "b.jpg.png", "b.png.png", "a.png"]
    assert outputs(files, folder, ".png", False) == [folder / name for name in wanted]
    assert outputs(files[:1], folder, ".geojson", False) == [folder / "a.geojson"]


def test_names_of_volumes_lose_both_of_their_endings_and_folders_nothing(tmp_path):
    files = [tmp_path / name for name in ("a.nii.gz", "b.NII.GZ", "c.d.nii", "1.2.840")]
    files[3].mkdir()
    found = [path.name for path in outputs(files, tmp_path / "out", ".nii.gz", False)]
    assert found == ["a.nii.gz", "b.nii.gz", "c.d.nii.gz", "1.2.840.nii.gz"]
    both = [tmp_path / "a.nii", tmp_path / "a.nii.gz"]
    found = [path.name for path in outputs(both, tmp_path / "out", ".nii.gz", False)]
    assert found == ["a.nii.nii.gz", "a.nii.gz.nii.gz"]


def test_nothing_is_overwritten_unasked_and_the_images_never(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [Path("a.png"), Path("b.jpg")]
    for file in (*files, Path("out/b.png")):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"out/b\.png is there already: .* or --overwrite"):
        outputs(files, Path("out"), ".png", False)
    assert outputs(files, Path("out"), ".png", True) == [Path("out/a.png"), Path("out/b.png")]
    with pytest.raises(UserError, match=r"a\.png is one of the images: give another folder"):
        outputs(files, Path("."), ".png", True)


# Pictures ----------------------------------------------------------------------------------------


def test_boxes_are_drawn_at_their_pixels():
    picture = np.full((300, 400, 3), 40, np.uint8)
    boxes = np.array([[100, 100, 200, 220], [150, 150, 260, 260]])
    drawn = annotate(picture, boxes, [0, 3], ["first 1.00", "second 0.50"])
    assert (picture == 40).all()
    assert drawn.shape == picture.shape
    for row, column in ((219, 150), (180, 100), (180, 199), (219, 199)):
        assert tuple(drawn[row, column]) == colour(0)
    for row, column in ((259, 250), (255, 150), (200, 259)):
        assert tuple(drawn[row, column]) == colour(3)
    assert (drawn[230:250, 110:140] == 40).all()
    assert (drawn[:80] == 40).all()  # the texts are just above the boxes
    text = drawn[88:100, 100:180].reshape(-1, 3)
    assert (text == colour(0)).all(1).any()
    assert (text == 0).all(1).any()


def test_texts_stay_in_the_picture():
    picture = np.full((60, 200, 3), 40, np.uint8)
    drawn = annotate(picture, np.array([[190, 0, 200, 60]]), [0], ["grenouille verte 0.97"])
    assert (drawn[:14, 60:180] != 40).any(2).all(0).any()
    assert (annotate(picture, np.zeros((0, 4)), [], []) == picture).all()


def test_masks_are_laid_over():
    picture = np.full((60, 80, 3), 100, np.uint8)
    mask = np.zeros((60, 80), np.bool_)
    mask[20:40, 30:50] = True
    drawn = annotate(picture, np.array([[30, 20, 50, 40]]), [1], ["x"], [mask])
    mixed = [round(100 * 0.55 + one * 0.45) for one in colour(0)]
    assert np.abs(drawn[30, 40].astype(int) - mixed).max() <= 1
    assert (drawn[50, 40] == 100).all()


def test_an_image_is_drawn_as_it_is_with_what_scores_enough(photos, tmp_path):
    folder, pixels, answers = photos
    for threshold, label in ((0.5, 2), (0.6, 1)):
        path = tmp_path / "new" / f"{label}.png"
        predictions.draw(
            path, lambda file: read_image(file, 3), folder / "a.png", answers[0], CLASSES, threshold
        )
        drawn = read_image(path, 3)
        assert drawn.shape == pixels.shape
        assert (drawn[26:34, 58:62] != pixels[26:34, 58:62]).any() == (label == 2)
        assert (drawn[12:18, 8:22] != pixels[12:18, 8:22]).any()


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (4, np.uint8), (6, np.float32)])
def test_images_of_any_bands_are_drawn(tmp_path, channels, dtype):
    pixels = np.linspace(0, 200, 40 * 50 * channels).reshape(40, 50, channels).astype(dtype)
    answer = {"boxes": [], "labels": [], "scores": [], "size": [40, 50]}
    path = tmp_path / "a.png"
    predictions.draw(path, lambda _: pixels, Path("a.tif"), answer, CLASSES, 0.5)
    drawn = read_image(path, 3)
    assert drawn.shape == (40, 50, 3)
    if dtype == np.uint8:
        np.testing.assert_array_equal(drawn, pixels[:, :, :3].repeat(4 - channels or 1, 2)[..., :3])
    else:
        assert (drawn.min(), drawn.max()) == (0, 255)


def test_what_is_too_large_is_not_drawn(tmp_path):
    answer = {"boxes": [], "labels": [], "scores": [], "size": [20_000, 20_000]}
    with pytest.raises(UserError, match=r"20,000x20,000 pixels are too many to draw"):
        predictions.draw(tmp_path / "a.png", None, Path("a.tif"), answer, CLASSES, 0.5)


def test_classes_are_laid_over_in_their_colours():
    picture = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[:10], mask[10:20] = 2, 255
    painted = paint(picture, mask)
    for row, ink in ((5, colour(2)), (15, (0, 0, 0))):
        mixed = [round(100 * 0.55 + one * 0.45) for one in ink]
        assert np.abs(painted[row, 30].astype(int) - mixed).max() <= 1
    assert (painted[20:] == 100).all()
    everything = paint(picture, mask, clear=None)
    assert (everything[20:] != 100).any(2).all()
    assert (everything[:20] == painted[:20]).all()


def test_a_legend_names_the_colours_in_as_many_rows_as_it_needs():
    names = ["building", "road", "vegetation", "water", "unpaved land"]
    wide, narrow = (
        legend(np.full((50, width, 3), 9, np.uint8), names, range(5)) for width in (700, 120)
    )
    for drawn in (wide, narrow):
        assert (drawn[:50] == 9).all()
        strip = drawn[50:].reshape(-1, 3)
        for number in range(5):
            assert (strip == colour(number)).all(1).sum() > 30
    assert narrow.shape[0] > wide.shape[0] + 40
    assert legend(wide, [], []).shape == wide.shape


# Real data ---------------------------------------------------------------------------------------


def test_cells_of_bccd(shared_data, tmp_path):
    """Cells are darker than what is between them: turned round, they are the bright spots."""
    run = run_of({"name": "coco"}, InputSpec(3, (480, 640), "fit"), masks=True)
    source = min((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))
    pixels = read_image(source, 3)
    blurred = cv2.GaussianBlur(255 - pixels[:, :, 1], (0, 0), 3)
    _, cells = cv2.threshold(blurred, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    cv2.imwrite(str(tmp_path / "cells.png"), cells)
    (answer,) = run.predict(tmp_path / "cells.png")
    assert answer["size"] == [480, 640]
    assert len(answer["boxes"]) > 5
    union = sum(rle.decode(mask) for mask in answer["masks"])
    np.testing.assert_array_equal(union, cells // 255)
    for (left, top, right, bottom), mask in zip(answer["boxes"], answer["masks"], strict=True):
        rows, columns = np.nonzero(rle.decode(mask))
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (
            left, top, right, bottom,
        )  # fmt: skip


@pytest.mark.parametrize("tile_size", [96, 150, 400])
@pytest.mark.parametrize(
    ("name", "count"), [("2018_SJER_3_252000_4107000_image_477", 6), ("OSBS_029", 20)]
)
def test_trees_of_neon_in_the_coordinates_of_their_raster(
    shared_data, tmp_path, name, count, tile_size
):
    """The crowns of a real raster that do not touch, painted bright and found tile by tile."""
    rasterio = pytest.importorskip("rasterio")
    from lit_imgproc.data.satellite.annotations import read_objects
    from lit_imgproc.data.satellite.coordinates import read_geojson
    from lit_imgproc.data.satellite.raster import Raster

    source = shared_data / "neon_trees" / f"{name}.tif"
    objects = read_objects([source.with_suffix(".csv")], Raster(source))
    painted = np.zeros((3, 400, 400), np.uint8)
    crowns = []
    for left, top, right, bottom in objects.boxes.astype(int).tolist():
        if not painted[:, max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1].any():
            painted[:, top:bottom, left:right] = 254  # 255 is nodata there
            crowns.append([left, top, right, bottom])
    with rasterio.open(source) as file:
        profile, bounds = file.profile, file.bounds
    with rasterio.open(tmp_path / "crowns.tif", "w", **profile) as file:
        file.write(painted)
    block = {"name": "raster_boxes", "tile_size": tile_size, "batch_size": 8}
    run = run_of(block, InputSpec(3, (tile_size, tile_size), "none"))
    (answer,) = run.predict(tmp_path / "crowns.tif")
    assert len(crowns) >= count
    assert sorted(answer["boxes"]) == sorted(crowns)

    path = tmp_path / "out" / "crowns.geojson"
    predictions.write_geojson(path, tmp_path / "crowns.tif", answer)
    raster = Raster(source)
    boxes, labels = read_geojson(path, raster)
    np.testing.assert_allclose(boxes, answer["boxes"], atol=1e-3)
    assert labels == ["white"] * len(crowns)
    written = json.loads(path.read_text())
    assert rasterio.crs.CRS.from_user_input(written["crs"]["properties"]["name"]) == raster.crs
    places = np.array([f["geometry"]["coordinates"][0] for f in written["features"]]).reshape(-1, 2)
    assert bounds.left <= places[:, 0].min() < places[:, 0].max() <= bounds.right
    assert bounds.bottom <= places[:, 1].min() < places[:, 1].max() <= bounds.top


def test_pictures_of_tiles_become_one_and_are_written(tmp_path):
    """Two tiles that overlap, of an image of 2x5 pixels: the later one lies on top."""

    def said(column, value):
        geometry = {"size": [2, 3], "window": [0, column, 2, 3]}
        return Said(0, geometry, {"id": "a.png", "image": np.full((2, 3, 3), value, np.uint8)})

    (answer,) = whole_images([said(0, 10), said(2, 200)])
    assert answer["image"][0, :, 0].tolist() == [10, 10, 200, 200, 200]
    assert summary(answer, 0.5) == "a picture of 5x2"
    assert without_arrays(answer) == {"id": "a.png"}
    coloured = (answer["image"] // [1, 2, 5]).astype(np.uint8)
    write_picture(tmp_path / "made" / "a.png", answer | {"image": coloured})
    read = cv2.imread(str(tmp_path / "made" / "a.png"), cv2.IMREAD_COLOR_RGB)
    assert read[0, 2].tolist() == [200, 100, 40]
    with pytest.raises(UserError, match="--pictures is for runs that make pictures"):
        write_picture(tmp_path / "b.png", {"id": "a.png", "label": "cat"})
