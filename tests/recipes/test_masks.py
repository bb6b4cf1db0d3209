"""Masks that a run writes, read again by the libraries of their formats."""

import json
from pathlib import Path

import numpy as np
import pytest
from levels import run_of, segmenter
from PIL import Image

from lit_imgproc.data.medical import toy
from lit_imgproc.data.medical.geometry import grid_of
from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec
from lit_imgproc.models.segmentation.instance_module import InstanceSegmenter
from lit_imgproc.pictures import colour
from lit_imgproc.recipes.masks import labels_in_file, write_image
from lit_imgproc.recipes.predictions import summary, without_arrays

GREY = ("background", "grey", "white")
LIGHT = [0.0, 0.5, 1.0]


def stripes(height, width):
    """Pixels whose thirds are black, grey and white, and their classes."""
    classes = np.minimum(np.arange(width) * 3 // width, 2)
    classes = np.repeat(classes[np.newaxis], height, 0).astype(np.uint8)
    pixels = np.array([0, 128, 255], np.uint8)[classes]
    return np.repeat(pixels[..., np.newaxis], 3, 2), classes


# Images ------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """A folder of images of two sizes."""
    for name, size in (("a.png", (60, 90)), ("deep/b.jpg", (45, 30)), ("deep/c.png", (60, 90))):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stripes(*size)[0]).save(path, quality=95)
    return tmp_path / "photos"


def photo_run(**options):
    spec = InputSpec(3, (60, 90), "fit", interpolation="nearest")
    block = {"name": "coco", "target": "semantic", "batch_size": 2}
    return run_of(block, spec, segmenter(GREY, LIGHT, **options))


def test_images_become_indexed_png_of_their_size(photos, tmp_path):
    out = tmp_path / "out"
    paths = photo_run().write_masks([photos], out)
    assert paths == [out / name for name in ("a.png", "deep/b.png", "deep/c.png")]
    for path, size in zip(paths, [(60, 90), (45, 30), (60, 90)], strict=True):
        with Image.open(path) as image:
            assert image.mode == "P"
            palette = image.getpalette()
            np.testing.assert_array_equal(np.asarray(image), stripes(*size)[1])
        assert palette[:9] == [0, 0, 0, *colour(1), *colour(2)]


def test_a_first_class_that_is_something_has_its_colour(tmp_path):
    write_image(tmp_path / "a.png", {"mask": np.zeros((4, 5), np.uint8)}, ["roof", "road"])
    with Image.open(tmp_path / "a.png") as image:
        assert image.getpalette()[:6] == [*colour(0), *colour(1)]


def test_answers_have_the_mask_and_the_shares_of_the_classes(photos):
    (answer,) = photo_run().predict(photos / "a.png")
    assert answer["id"] == str(photos / "a.png")
    assert (answer["size"], answer["mask"].dtype) == ([60, 90], np.uint8)
    np.testing.assert_array_equal(answer["mask"], stripes(60, 90)[1])
    assert answer["classes"] == pytest.approx(dict.fromkeys(GREY, 1 / 3))
    assert summary(answer, 0.5) == "grey 33 %, white 33 %"
    plain = without_arrays(answer)
    assert set(plain) == {"id", "classes", "size"}
    assert json.loads(json.dumps(plain)) == plain
    array, _ = stripes(30, 60)
    (of_array,) = photo_run().predict(array)
    np.testing.assert_array_equal(of_array["mask"], stripes(30, 60)[1])


def test_small_shares_are_told_and_nothing_is_nothing():
    assert summary({"classes": {"background": 0.9, "cell": 0.0042}}, 0.5) == "cell 0.4 %"
    assert summary({"classes": {"background": 1.0}}, 0.5) == "nothing"
    answer = {"classes": {"road": 0.124, "building": 0.876}}
    assert summary(answer, 0.5) == "building 88 %, road 12 %"


def test_objects_are_numbered_beside(tmp_path):
    numbers = np.zeros((20, 30), np.int32)
    numbers[2:5, 3:9], numbers[10:12, 20:25] = 1, 300
    answer = {"id": "a", "mask": (numbers > 0).astype(np.uint8), "instances": numbers}
    write_image(tmp_path / "new" / "a.png", answer, ["background", "cell"])
    with Image.open(tmp_path / "new" / "a.instances.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), numbers)
    numbers[0, 0] = 2**16
    with pytest.raises(UserError, match=r"a: has more than 65,535 objects"):
        write_image(tmp_path / "new" / "b.png", answer, ["background", "cell"])


def test_a_run_that_tells_objects_apart_numbers_them_as_it_answers(tmp_path):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[10:20, 5:25], pixels[30:50, 40:70] = 255, 255
    source = tmp_path / "cells.png"
    Image.fromarray(pixels).save(source)
    module = segmenter(("background", "cell"), [0.0, 1.0], kind=InstanceSegmenter)
    run = run_of({"name": "label_images", "target": "semantic"}, InputSpec(3, (60, 90)), module)
    (path,) = run.write_masks([source], tmp_path / "out")
    (answer,) = run.predict(source)
    with Image.open(path) as mask, Image.open(path.with_name("cells.instances.png")) as numbers:
        np.testing.assert_array_equal(np.asarray(mask), pixels[:, :, 0] == 255)
        np.testing.assert_array_equal(np.asarray(numbers), answer["instances"])
    for number, (left, top, right, bottom) in enumerate(answer["boxes"], start=1):
        assert (answer["instances"][int(top) : int(bottom), int(left) : int(right)] == number).all()
    assert summary(answer, 0.5) == "2 cell"
    json.dumps(without_arrays(answer))
    path.unlink()
    with pytest.raises(UserError, match=r"cells\.instances\.png is there already"):
        run.write_masks([source], tmp_path / "out")


def test_masks_are_not_written_over_unasked(photos, tmp_path):
    run = photo_run()
    run.write_masks([photos / "a.png"], tmp_path / "out")
    with pytest.raises(UserError, match=r"a\.png is there already: .* or --overwrite"):
        run.write_masks([photos], tmp_path / "out")
    assert run.module.network.shapes == [(1, 3, 60, 90)]  # nothing was predicted for nothing
    run.write_masks([photos], tmp_path / "out", overwrite=True)
    with pytest.raises(UserError, match="is one of the images"):
        run.write_masks([photos], photos, overwrite=True)


def test_a_nucleus_image_gets_a_mask_of_its_size(shared_data, tmp_path):
    source = min((shared_data / "nuclei" / "images").glob("*.png"))
    spec = InputSpec(3, (128, 128), "fit")
    run = run_of({"name": "label_images"}, spec, segmenter(GREY, LIGHT))
    (path,) = run.write_masks([source], tmp_path)
    with Image.open(source) as image, Image.open(path) as mask:
        assert image.size == mask.size
        assert set(np.unique(np.asarray(mask))) <= {0, 1, 2}


# Rasters -----------------------------------------------------------------------------------------


def raster_run(tile_size=64, channels=3, levels=LIGHT, value_range=(0.0, 255.0), **options):
    spec = InputSpec(channels, (tile_size, tile_size), "none", value_range=value_range)
    module = segmenter(("field", "grey", "white"), levels, channels=channels, **options)
    return run_of({"name": "raster_tiles", "tile_size": tile_size, "batch_size": 3}, spec, module)


@pytest.fixture
def scene(tmp_path):
    """A raster of 150x230 pixels without data in a corner, and its classes."""
    rasterio = pytest.importorskip("rasterio")
    pixels, classes = stripes(150, 230)
    pixels[:40, :50], classes[:40, :50] = 7, 255
    path = tmp_path / "scenes" / "a.tif"
    path.parent.mkdir()
    place = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    with rasterio.open(
        path, "w", driver="GTiff", width=230, height=150, count=3, dtype="uint8", nodata=7,
        crs="EPSG:32633", transform=place,
    ) as file:  # fmt: skip
        file.write(pixels.transpose(2, 0, 1))
    return path, classes


def test_rasters_become_geotiffs_where_they_lie(scene, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    source, classes = scene
    run = raster_run()
    (path,) = run.write_masks([source.parent], tmp_path / "out")
    assert path == tmp_path / "out" / "a.tif"
    with rasterio.open(source) as given, rasterio.open(path) as made:
        assert (given.crs, given.transform, given.shape) == (made.crs, made.transform, made.shape)
        assert (made.count, made.dtypes, made.nodata) == (1, ("uint8",), 255)
        np.testing.assert_array_equal(made.read(1), classes)
    assert {shape[1:] for shape in run.module.network.shapes} == {(3, 64, 64)}
    # Tiles overlap by half: 4 rows of 7, none of them wholly without data.
    assert [shape[0] for shape in run.module.network.shapes] == [3] * 9 + [1]


def test_rasters_are_answered_as_a_whole(scene):
    source, classes = scene
    array = np.full((20, 30, 3), 255, np.uint8)
    (first, second, third) = raster_run().predict([source, array, source])
    np.testing.assert_array_equal(first["mask"], classes)
    assert (first["id"], first["size"]) == (str(source), [150, 230])
    there = np.bincount(classes[classes != 255]) / (classes != 255).sum()
    names = ("field", "grey", "white")
    assert first["classes"] == pytest.approx(dict(zip(names, there, strict=True)))
    assert (second["id"], second["mask"].shape, second["mask"].min()) == ("1", (20, 30), 2)
    np.testing.assert_array_equal(third["mask"], classes)


def test_bands_of_another_number_are_a_sentence(scene, tmp_path):
    with pytest.raises(UserError, match="has 3 channels where 4 are needed"):
        raster_run(channels=4).write_masks([scene[0]], tmp_path / "out")
    assert not [*(tmp_path / "out").glob("*")]


@pytest.mark.parametrize(
    "name",
    ["rasterio/RGB.byte.tif", "spacenet/rgb_unmasked.tif", "rasterio/float_raster_with_nodata.tif"],
)
def test_real_rasters(shared_data, tmp_path, name):
    """Against a look at the whole raster at once."""
    rasterio = pytest.importorskip("rasterio")
    from lit_imgproc.data.satellite.raster import Raster

    source = shared_data / "geo_samples" / name
    raster = Raster(source)
    read = raster.read()
    eight_bit = raster.dtype == "uint8"
    values = read.image[:, :, 0].astype(np.float32) / (255 if eight_bit else 1)
    low, high = values[read.valid].min(), values[read.valid].max()
    levels = np.linspace(low, high, 3, dtype=np.float32).tolist()
    run = raster_run(
        256, raster.channels, levels, (0.0, 255.0) if eight_bit else (float(low), float(high))
    )
    (path,) = run.write_masks([source], tmp_path)
    with rasterio.open(source) as given, rasterio.open(path) as made:
        assert (given.crs, given.transform, given.shape) == (made.crs, made.transform, made.shape)
        found = made.read(1)
    far = np.abs(values[..., np.newaxis] - levels)
    expected = np.where(read.valid, far.argmin(2), 255)
    near = np.sort(far, 2)
    sure = near[..., 1] - near[..., 0] > 1e-3 * (high - low)  # nearer to one level than to others
    np.testing.assert_array_equal(found[sure], expected[sure])


# Volumes -----------------------------------------------------------------------------------------

VOXELS = ("background", "shell", "core")


def volume_run(module="volumes", levels=(-200.0, 60.0, 260.0), **data):
    solid = module == "volumes"
    size = {"patch_size": [16, 16, 16]} if solid else {"image_size": 40, "axis": "coronal"}
    block = {"name": f"medical_{module}", "batch_size": 5, **size, **data}
    spec = InputSpec(1, (40, 40), "none", value_range=(-1024.0, 3000.0))
    # Hounsfield units are in the hundreds: their squares leave nothing undecided.
    return run_of(block, spec, segmenter(VOXELS, list(levels), 3 if solid else 2, channels=1))


def write_series(folder, seed):
    """A CT series of 24x20 pixels whose names tell nothing; its values ``[D,H,W]``."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(seed).integers(-1000, 1000, (6, 24, 20)).astype(np.int16)
    for number, one in enumerate(values):
        position = [-10.0, -12.0, 40 + 2.5 * number]
        dataset = toy.dicom_slice(one, position, f"1.2.{seed + 1}", f"P{seed}")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{number}"
        dataset.save_as(folder / f"IM{(7 * number) % 6}", enforce_file_format=True)
    return values


def nearest(values, levels):
    return np.abs(values[..., np.newaxis] - np.asarray(levels)).argmin(-1)


@pytest.mark.parametrize("module", ["volumes", "slices"])
def test_volumes_of_all_orientations_come_back_in_their_own_voxels(tmp_path, module):
    nib = pytest.importorskip("nibabel")
    toy.write_volumes(tmp_path / "toy")
    sources = sorted((tmp_path / "toy" / "imagesTr").iterdir())[:4]
    codes = {"".join(nib.aff2axcodes(nib.load(source).affine)) for source in sources}
    assert len(codes) == 4
    run = volume_run(module)
    answers = run.predict(sources)
    paths = run.write_masks(sources, tmp_path / "out")
    assert [path.name for path in paths] == [f"toy_00{n}.nii.gz" for n in range(4)]
    for source, path, answer in zip(sources, paths, answers, strict=True):
        given, made = nib.load(source), nib.load(path)
        assert (made.shape, made.get_data_dtype()) == (given.shape, np.uint8)
        np.testing.assert_array_equal(made.affine, given.affine)
        found = np.asarray(made.dataobj)
        np.testing.assert_array_equal(found, nearest(given.get_fdata(), (-200, 60, 260)))
        np.testing.assert_array_equal(answer["mask"], found.T)
        assert answer["size"] == list(found.shape[::-1])
        assert set(answer["classes"]) == set(VOXELS)


def test_labels_of_resampled_volumes_are_better_than_those_of_the_nearest_voxel():
    """Balls of 2.2 mm, resampled from voxels of 1 mm to 1.7 and brought back by both ways."""
    grid = grid_of("x.nii", (24, 24, 24), np.eye(4), "RAS", (1.7, 1.7, 1.7))
    dice = []
    for middle in np.random.default_rng(0).uniform(10, 13, (10, 3)):
        place = np.indices((24, 24, 24)).reshape(3, -1).T - middle
        ball = (np.linalg.norm(place, axis=1) < 2.2).reshape(24, 24, 24)
        inside = grid.resample(ball.astype(np.float32), order=1)
        scores = np.stack([1 - inside, inside])
        found, geometry = labels_in_file([(scores, grid.to_dict())])
        assert geometry["spacing"] is None
        assert tuple(geometry["stored"]) == found.shape == ball.shape
        nearest_voxel = grid.restore(scores.argmax(0).astype(np.uint8), order=0)
        both = [one > 0 for one in (found, nearest_voxel)]
        dice.append([2 * (one & ball).sum() / (one.sum() + ball.sum()) for one in both])
    probabilities, labels = np.mean(dice, 0)
    assert probabilities > labels + 0.1
    assert probabilities > 0.75


def test_a_volume_of_other_channels_is_a_sentence(tmp_path):
    nib = pytest.importorskip("nibabel")
    nib.save(nib.Nifti1Image(np.zeros((9, 8, 7, 2), np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"a\.nii: has 2 channels where 1 are needed"):
        volume_run().write_masks([tmp_path / "a.nii"], tmp_path / "out")


def test_what_no_slice_holds_is_background():
    grid = grid_of("x.nii", (4, 10, 10), np.eye(4), "RAS")
    parts = [
        (np.stack([np.zeros((6, 6)), np.ones((6, 6))]).astype(np.float32),
         grid.box((row, 2, 2), (1, 6, 6)).to_dict())
        for row in (0, 1, 3)
    ]  # fmt: skip
    found, _ = labels_in_file(parts)
    expected = np.zeros((4, 10, 10), np.uint8)
    expected[[0, 1, 3], 2:8, 2:8] = 1
    np.testing.assert_array_equal(found, expected)


def test_folders_of_dicom_series_are_volumes(tmp_path):
    nib = pytest.importorskip("nibabel")
    first = write_series(tmp_path / "cases" / "1.2.840", 0)
    second = write_series(tmp_path / "cases" / "deep" / "scan", 1)
    run = volume_run(levels=(-900.0, 0.0, 900.0))
    paths = run.write_masks([tmp_path / "cases"], tmp_path / "out")
    names = ("1.2.840.nii.gz", "deep/scan.nii.gz")
    assert paths == [tmp_path / "out" / name for name in names]
    for path, values in zip(paths, (first, second), strict=True):
        made = nib.load(path)
        assert made.header.get_zooms() == (0.5, 0.5, 2.5)
        np.testing.assert_array_equal(
            np.asarray(made.dataobj).T, nearest(values, (-900.0, 0.0, 900.0))
        )
    (answer,) = run.predict(tmp_path / "cases" / "1.2.840")
    assert answer["id"] == str(tmp_path / "cases" / "1.2.840")


@pytest.mark.parametrize("orientation", ["RAS", "LPS", None])
@pytest.mark.parametrize("spacing", [None, [2.0, 1.0, 0.5]])
def test_arrays_are_volumes_as_the_run_was_trained_on(orientation, spacing):
    values = np.random.default_rng(0).uniform(-1000, 1000, (7, 9, 8)).astype(np.float32)
    run = volume_run(orientation=orientation, spacing=spacing)
    expected = nearest(values, (-200, 60, 260))
    for array in (values, values[..., np.newaxis], values[np.newaxis, ..., np.newaxis]):
        (answer,) = run.predict(array)
        np.testing.assert_array_equal(answer["mask"], expected)
        assert (answer["id"], answer["size"]) == ("0", [7, 9, 8])
    assert [answer["id"] for answer in run.predict([values, values[:5]])] == ["0", "1"]
    with pytest.raises(UserError, match=r"\[D,H,W\] or \[D,H,W,C\] with 1 channels"):
        run.predict([np.zeros((4, 5, 6, 2), np.float32)])


@pytest.mark.parametrize("spacing", [None, [1.3, 0.9, 1.1]])
def test_a_hippocampus_comes_back_as_it_was(shared_data, tmp_path, spacing):
    nib = pytest.importorskip("nibabel")
    source = min((shared_data / "hippocampus" / "imagesTr").glob("*.nii*"))
    given = nib.load(source)
    values = given.get_fdata()
    levels = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    run = volume_run(levels=levels, spacing=spacing)
    (path,) = run.write_masks([source], tmp_path)
    made = nib.load(path)
    np.testing.assert_array_equal(made.affine, given.affine)
    assert made.shape == given.shape
    found = np.asarray(made.dataobj)
    assert set(np.unique(found)) == {0, 1, 2}
    if spacing is None:
        np.testing.assert_array_equal(found, nearest(values, levels))
    else:
        assert (found == nearest(values, levels)).mean() > 0.8


# Runs of recipes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [
        ("unet_nuclei", ".png", ()),
        ("unet_dubai", ".tif", ()),
        ("unet_3d_hippocampus", ".nii.gz", ("model.test_time_augmentation=none",)),
    ],
)
def test_a_run_writes_masks_of_files_wherever_its_data_are(
    store, tmp_path, monkeypatch, name, kind, own
):
    from lit_imgproc import load_recipe, load_run

    monkeypatch.chdir(tmp_path)
    where = (f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}")
    limits = [f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test")]
    short = ("callbacks.predictions=null", "callbacks.explain=null", *limits)
    trained = load_recipe(f"segmentation/{name}", *where, *short, *own, toy=True).train()
    root = Path(trained.recipe["data"]["root"])
    root.rename(tmp_path / "moved")
    run = load_run(trained.id, uri=store.uri)
    images = min(path for path in (tmp_path / "moved").iterdir() if path.name.startswith("images"))
    sources = run.predictor().files([images])[:2]
    paths = run.write_masks(sources, tmp_path / "out")
    names = run.recipe["model"]["class_names"]
    for source, path, answer in zip(sources, paths, run.predict(sources), strict=True):
        assert path.name.endswith(kind)
        assert answer["id"] == str(source)
        assert sum(answer["classes"].values()) == pytest.approx(1)
        assert set(answer["classes"]) <= set(names)
        assert answer["mask"].shape == tuple(answer["size"])
        if kind == ".png":
            with Image.open(path) as image:
                np.testing.assert_array_equal(np.asarray(image), answer["mask"])
