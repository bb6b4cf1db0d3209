"""`lit-imgproc predict` of runs that segment."""

import json
import sys

import cv2
import numpy as np
import pytest
from bright import run_of as spots_of
from levels import run_of, segmenter
from PIL import Image

from lit_imgproc.cli import main
from lit_imgproc.data.medical import toy
from lit_imgproc.inputs import InputSpec
from lit_imgproc.pictures import colour


@pytest.fixture
def predict(monkeypatch, capsys):
    """Run the verb in this process on a given run: exit code, lines of output, errors."""

    def predict(run, *arguments):
        monkeypatch.setattr("lit_imgproc.recipes.run.load_run", lambda *_, **__: run)
        monkeypatch.setattr(sys, "argv", ["lit-imgproc", "predict", "5e", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        out, errors = capsys.readouterr()
        return ending.value.code, out.splitlines(), errors

    return predict


@pytest.fixture
def streets(tmp_path):
    """A folder of two images: a quarter of the first is road, all of the second."""
    (tmp_path / "streets").mkdir()
    for name, road in (("a", 20), ("b", 80)):
        pixels = np.zeros((60, 80, 3), np.uint8)
        pixels[:, :road] = 255
        cv2.imwrite(str(tmp_path / "streets" / f"{name}.png"), pixels)
    return tmp_path / "streets"


def street_run():
    spec = InputSpec(3, (60, 80), "fit", interpolation="nearest")
    module = segmenter(("roof", "road"), [0.0, 1.0])
    return run_of({"name": "coco", "target": "semantic"}, spec, module)


def test_predict_writes_and_draws_masks_in_one_go(streets, predict, tmp_path):
    out, drawn, output = tmp_path / "masks", tmp_path / "drawn", tmp_path / "all.json"
    run = street_run()
    code, lines, errors = predict(
        run, streets, "--masks", out, "--draw", drawn, "--output", output, "--json"
    )
    assert (code, errors) == (0, "")
    a, b = (f"{streets}/{name}.png" for name in "ab")
    assert lines[:2] == [f"{a}: roof 75 %, road 25 %", f"{b}: road 100 %"]
    answers = json.loads(output.read_text())
    assert answers == [
        {"id": a, "classes": {"roof": 0.75, "road": 0.25}, "size": [60, 80],
         "mask_file": str(out / "a.png")},
        {"id": b, "classes": {"road": 1.0}, "size": [60, 80], "mask_file": str(out / "b.png")},
    ]  # fmt: skip
    assert json.loads(lines[2]) == {"run_id": "5e69", "predictions": answers}
    assert len(run.module.network.shapes) == 1  # both at once, and once
    with Image.open(out / "a.png") as image:
        mask = np.asarray(image)
    np.testing.assert_array_equal(mask, np.repeat([1, 0], [20, 60])[np.newaxis].repeat(60, 0))
    picture = cv2.imread(str(drawn / "a.png"))[:, :, ::-1]
    assert picture.shape[0] > 60  # a legend is below
    for column, one, light in ((10, 1, 255), (50, 0, 0)):
        mixed = [round(light * 0.55 + ink * 0.45) for ink in colour(one)]
        assert np.abs(picture[30, column].astype(int) - mixed).max() <= 1
        assert (picture[60:] == colour(one)).all(2).any()


def test_predict_answers_without_masks_in_json(streets, predict, tmp_path):
    output = tmp_path / "all.json"
    code, _, errors = predict(street_run(), streets / "a.png", "--output", output)
    assert (code, errors) == (0, "")
    assert json.loads(output.read_text()) == [
        {
            "id": f"{streets}/a.png",
            "classes": {"roof": 0.75, "road": 0.25},
            "size": [60, 80],
        }
    ]


def test_options_that_do_not_fit_the_run(streets, predict, tmp_path):
    detector = spots_of({"name": "coco"}, InputSpec(3, (60, 80), "fit"))
    code, lines, errors = predict(detector, streets, "--masks", tmp_path / "out")
    assert (code, lines) == (2, [])
    assert "this run has no masks to write" in errors
    for option in ("--coco", "--geojson"):
        code, _, errors = predict(street_run(), streets, option, tmp_path / "out")
        assert code == 2
        assert "--coco and --geojson are for runs that detect objects" in errors
    assert not (tmp_path / "out").exists()


def test_masks_replace_files_only_if_told(streets, predict, tmp_path):
    assert predict(street_run(), streets, "--masks", tmp_path / "out")[0] == 0
    code, lines, errors = predict(street_run(), streets, "--masks", tmp_path / "out")
    assert (code, lines) == (2, [])
    assert "a.png is there already: give another folder, or --overwrite" in errors
    assert predict(street_run(), streets, "--masks", tmp_path / "out", "--overwrite")[0] == 0


def test_a_raster_is_drawn_from_the_mask_that_was_written(predict, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "roofs.tif"
    pixels = np.zeros((3, 100, 140), np.uint8)
    pixels[:, :, :35] = 255
    profile = {"driver": "GTiff", "width": 140, "height": 100, "count": 3, "dtype": "uint8"}
    place = rasterio.Affine(2, 0, 500_000, 0, -2, 5_000_000)
    with rasterio.open(path, "w", crs="EPSG:32633", transform=place, **profile) as file:
        file.write(pixels)
    module = segmenter(("roof", "road"), [0.0, 1.0])
    run = run_of({"name": "raster_tiles", "tile_size": 64}, InputSpec(3, (64, 64), "none"), module)
    folders = ("--masks", tmp_path / "masks", "--draw", tmp_path / "drawn")
    code, lines, errors = predict(run, path, *folders)
    assert (code, errors) == (0, "")
    assert lines == [f"{path}: roof 75 %, road 25 %"]
    picture = cv2.imread(str(tmp_path / "drawn" / "roofs.png"))[:, :, ::-1]
    mixed = [round(ink * 0.45) for ink in colour(0)]
    assert np.abs(picture[50, 100].astype(int) - mixed).max() <= 1


def test_volumes_are_written_and_not_drawn(predict, tmp_path):
    nib = pytest.importorskip("nibabel")
    toy.write_volumes(tmp_path / "toy")
    source = tmp_path / "toy" / "imagesTr" / "toy_001.nii.gz"
    module = segmenter(("background", "shell", "core"), [-200.0, 60.0, 260.0], 3, channels=1)
    spec = InputSpec(1, (16, 16), "none", value_range=(-500.0, 500.0))
    run = run_of({"name": "medical_volumes", "patch_size": [16, 16, 16]}, spec, module)
    code, lines, errors = predict(run, source, "--masks", tmp_path / "out")
    assert (code, errors) == (0, "")
    assert lines[0].startswith(f"{source}: shell ")
    made = nib.load(tmp_path / "out" / "toy_001.nii.gz")
    assert made.shape == nib.load(source).shape
    code, _, errors = predict(run, source, "--draw", tmp_path / "drawn")
    assert code == 2
    assert "volumes are not drawn: give --masks instead" in errors
