"""A finished run as a value: found, rebuilt, asked, tested, gone on from."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from bright import run_of
from mlflow.tracking import MlflowClient

from lit_imgproc import load_recipe, load_run
from lit_imgproc.data.imagenet.datamodule import Digits, ImageFolder
from lit_imgproc.data.satellite.raster import Raster
from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec
from lit_imgproc.models.base import ImageModule
from lit_imgproc.tracking.records import RunNotFound
from lit_imgproc.tracking.store import StoreUnavailable

SMALL = (
    "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.log_every_n_steps=1",
    "data.batch_size=16", "data.num_workers=0", "model.optimizer.lr=0.003",
    "callbacks.explain=null", "callbacks.predictions=null",
)  # fmt: skip


def places(folder, store):
    """Overrides of a store in ``folder`` and of toy digits in it."""
    Digits.write_toy(folder / "digits")
    shutil.copy(store, folder / "mlflow.db")
    return (
        f"data.root={folder / 'digits'}",
        f"tracking.uri=sqlite:///{folder}/mlflow.db",
        f"tracking.artifacts={folder / 'artifacts'}",
    )


@pytest.fixture(scope="module")
def trained(empty_store, tmp_path_factory):
    """A run on grey digits and the untrained module of the same recipe."""
    folder = tmp_path_factory.mktemp("run")
    options = (*SMALL, *places(folder, empty_store))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = load_recipe("quickstart", *options).train()
        begin = load_recipe("quickstart", *options).module
    return SimpleNamespace(run=run, begin=begin, options=options, uri=run.uri)


@pytest.fixture
def run(trained):
    """The run, found again by the first characters of its id."""
    return load_run(trained.run.id[:8], uri=trained.uri)


@pytest.fixture(scope="module")
def colour(empty_store, tmp_path_factory):
    """A run on the colour images of a folder."""
    folder = tmp_path_factory.mktemp("colour")
    ImageFolder.write_toy(folder / "images")
    own = (
        "data={name: image_folder, image_size: 32, augment: null}",
        *SMALL, *places(folder, empty_store)[1:], f"data.root={folder / 'images'}",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return load_recipe("quickstart", *own).train()


# Finding -----------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_id_and_by_its_beginning(trained):
    for given in (trained.run.id, trained.run.id[:6]):
        found = load_run(given, uri=trained.uri)
        assert (found.id, found.status) == (trained.run.id, "FINISHED")
        assert found.metrics == trained.run.metrics
    assert repr(found).startswith(f"Run('{found.id}', FINISHED, test/accuracy 0.")


def test_the_store_is_that_of_the_environment_or_the_local_one(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreUnavailable, match=r"mlruns/mlflow\.db"):
        load_run(trained.run.id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    assert load_run(trained.run.id).id == trained.run.id


def test_what_cannot_be_found_is_said(trained, store):
    with pytest.raises(RunNotFound, match="begins with 'zz'"):
        load_run("zz", uri=trained.uri)
    client = MlflowClient(store.uri)
    ids = [client.create_run("0").info.run_id for _ in range(17)]  # two share a first character
    first = next(a for a in "0123456789abcdef" if sum(i.startswith(a) for i in ids) > 1)
    with pytest.raises(RunNotFound, match=f"runs begin with '{first}'.* give more characters"):
        load_run(first, uri=store.uri)


def test_a_run_that_left_nothing_says_so(store):
    run = load_run(MlflowClient(store.uri).create_run("0").info.run_id, uri=store.uri)
    with pytest.raises(RunNotFound, match="has left no checkpoint"):
        _ = run.checkpoint
    with pytest.raises(RunNotFound, match=r"no artifact recipe\.yaml"):
        _ = run.module


# The module --------------------------------------------------------------------------------------


def test_the_module_is_the_best_state_in_eval_mode(trained, run):
    module = run.module
    assert isinstance(module, ImageModule)
    assert not any(part.training for part in module.modules())
    assert run.checkpoint.name == "best.ckpt"
    saved = torch.load(run.checkpoint, weights_only=True)["state_dict"]
    assert saved
    for name, value in module.state_dict().items():
        assert value.equal(saved[name]), name
    assert module.class_names == list("0123456789")


def test_the_module_is_not_the_one_that_training_began_with(trained, run):
    before, after = trained.begin.network.conv1.weight, run.module.network.conv1.weight
    assert not before.equal(after)


def test_rebuilding_needs_neither_data_nor_pretrained_weights(trained, run, monkeypatch):
    """A recipe that began from a file of weights is rebuilt where the file is gone."""
    run.recipe["model"]["weights"] = "/no/such/file.pth"
    run.recipe["data"]["root"] = "/no/such/folder"
    assert run.predict(np.zeros((9, 9), np.uint8))[0]["label"] in list("0123456789")


# Predictions -------------------------------------------------------------------------------------


def digit(height=30, width=24):
    image = np.zeros((height, width), np.uint8)
    return cv2.putText(image, "7", (3, height - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 255, 3)


def test_a_prediction_is_plain_data(run):
    (answer,) = run.predict(digit())
    assert set(answer) == {"id", "label", "score", "probabilities"}
    assert answer["id"] == "0"
    assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert answer["score"] == answer["probabilities"][answer["label"]]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_predictions_are_those_of_the_network_on_prepared_pixels(run):
    pixels = torch.from_numpy(run.input_spec(digit())).permute(2, 0, 1).float()[None] / 255
    with torch.no_grad():
        wanted = run.module.export_network()(pixels)[0]
    (answer,) = run.predict(digit())
    torch.testing.assert_close(torch.tensor(list(answer["probabilities"].values())), wanted)


def same(answers, others):
    assert len(answers) == len(others)
    for one, other in zip(answers, others, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_arrays_of_every_shape_agree(run):
    grey = digit()
    wanted = run.predict(grey)
    same(run.predict(grey[..., np.newaxis]), wanted)
    same(run.predict(np.stack([grey] * 3, axis=-1)), wanted)  # a grey picture in three channels
    same(run.predict([grey, grey]), wanted * 2)
    same(run.predict(np.stack([grey, grey])[..., np.newaxis]), wanted * 2)
    assert [a["id"] for a in run.predict([grey, grey, grey])] == ["0", "1", "2"]


def test_a_colour_network_takes_grey_images_and_colour_ones(colour):
    grey = digit()
    rgb = np.stack([grey] * 3, axis=-1)
    same(colour.predict(rgb), colour.predict(grey))
    reddish = rgb // np.array([1, 4, 4], np.uint8)
    other_order = reddish[..., ::-1].copy()
    assert colour.predict(reddish)[0]["probabilities"] != pytest.approx(
        colour.predict(other_order)[0]["probabilities"], abs=1e-6
    )


def test_files_are_read_as_rgb(colour, tmp_path):
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[4:20, 8:24] = (250, 120, 10)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    same(colour.predict(tmp_path / "a.png"), colour.predict(rgb))


def test_a_folder_is_searched_in_order_and_other_files_are_left(run, tmp_path):
    (tmp_path / "b").mkdir()
    for name, height in (("c.png", 30), ("b/a.PNG", 40), ("b/z.png", 50)):
        cv2.imwrite(str(tmp_path / name.lower()), digit(height))
    (tmp_path / "notes.txt").write_text("no image")
    answers = run.predict(tmp_path)
    files = [str(tmp_path / name) for name in ("b/a.png", "b/z.png", "c.png")]
    assert [answer["id"] for answer in answers] == files
    same(answers, run.predict(files))
    same(answers, run.predict([digit(40), digit(50), digit(30)]))


def test_many_images_come_in_batches_and_in_order(run):
    images = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 1), dtype=np.uint8)
    same(run.predict(images, batch_size=3), run.predict(images))


@pytest.mark.parametrize(
    ("name", "sentence"), [("nowhere", "no file or folder"), ("empty", "holds no images")]
)
def test_what_holds_no_images_is_said(run, tmp_path, name, sentence):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        run.predict(tmp_path / name)


# Objects -----------------------------------------------------------------------------------------

FIT = InputSpec(3, (60, 80), "fit", interpolation="nearest")


def bright(height, width, *squares):
    """Pixels with bright rectangles: left, top, right, bottom, light."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom, light in squares:
        pixels[top:bottom, left:right] = light
    return pixels


def test_objects_are_answered_in_pixels_of_images_of_any_size(tmp_path):
    """The network sees 60x80, 60x60 and 60x30 pixels, so each pixel of the first is 2x2."""
    images = {
        "a.png": bright(120, 160, (20, 10, 60, 30, 255), (100, 100, 120, 120, 128)),
        "b.png": bright(30, 30, (3, 6, 9, 20, 255)),
        "c.png": bright(240, 120),
    }
    for name, pixels in images.items():
        cv2.imwrite(str(tmp_path / name), pixels)
    run = run_of({"name": "coco", "batch_size": 2}, FIT)
    answers = run.predict(tmp_path)
    assert [answer["id"] for answer in answers] == [str(tmp_path / name) for name in images]
    assert [answer["size"] for answer in answers] == [[120, 160], [30, 30], [240, 120]]
    first, second, third = answers
    assert first["boxes"] == [[20, 10, 60, 30], [100, 100, 120, 120]]
    assert first["labels"] == ["white", "grey"]
    assert first["scores"] == pytest.approx([1, 128 / 255])
    assert second["boxes"] == [[3, 6, 9, 20]]
    assert third["boxes"] == []
    assert run.module.sizes == [2, 1]  # as many at once as in training
    assert [answer["boxes"] for answer in run.predict([*images.values()])] == [
        answer["boxes"] for answer in answers
    ]


@pytest.fixture
def raster(tmp_path):
    """A raster of 300x500 pixels with objects on the seams of its tiles, and what they are."""
    rasterio = pytest.importorskip("rasterio")
    squares = [
        (10, 10, 20, 20, 255),  # within the first tile of 100
        (70, 60, 90, 110, 128),  # over the seams of four, but whole in one
        (150, 150, 420, 170, 255),  # over four tiles in a row, whole in none
        (480, 280, 500, 300, 128),  # at the lower right corner
    ]
    path = tmp_path / "scene.tif"
    profile = {"driver": "GTiff", "width": 500, "height": 300, "count": 3, "dtype": "uint8"}
    place = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    with rasterio.open(path, "w", crs="EPSG:32633", transform=place, **profile) as file:
        file.write(bright(300, 500, *squares).transpose(2, 0, 1))
    return path, squares


def raster_run(**data):
    block = {"name": "raster_boxes", "tile_size": 100, "batch_size": 4, **data}
    return run_of(block, InputSpec(3, (100, 100), "none"))


def test_objects_of_a_raster_are_found_tile_by_tile_and_once(raster, monkeypatch):
    path, squares = raster
    windows = []
    read = Raster.read
    monkeypatch.setattr(Raster, "read", lambda self, w=None: windows.append(w) or read(self, w))
    run = raster_run()
    other = bright(40, 30, (2, 3, 9, 9, 255))  # smaller than a tile
    cv2.imwrite(str(path.with_name("small.png")), other)
    found, small, again = run.predict([path, path.with_name("small.png"), path])
    assert sorted(found["boxes"]) == sorted([list(square[:4]) for square in squares])
    assert found["labels"] == ["white", "white", "grey", "grey"]
    assert (found["id"], found["size"]) == (str(path), [300, 500])
    assert (small["boxes"], small["size"]) == ([[2, 3, 9, 9]], [40, 30])
    assert again == found
    # 4 rows of 7 tiles, since a quarter is seen twice.
    assert {window[2:] for window in windows} == {(100, 100)}
    assert len(windows) == 28 + 1 + 28
    assert run.module.sizes == [4] * 14 + [1]


def test_tiles_without_data_are_not_looked_at_but_every_raster_is_answered(raster):
    rasterio = pytest.importorskip("rasterio")
    path, _ = raster
    with rasterio.open(path, "r+") as file:
        file.nodata = 0  # one tile in nine or so has objects
    run = raster_run()
    assert len(run.predict(path)[0]["boxes"]) == 4
    assert sum(run.module.sizes) < 28
    with rasterio.open(path, "r+") as file:
        file.write(np.zeros((3, 300, 500), np.uint8))
    assert run.predict(path)[0]["boxes"] == []


# Testing and going on ----------------------------------------------------------------------------


def test_testing_again_measures_what_training_measured_and_changes_no_status(trained, run):
    before = {k: v for k, v in trained.run.metrics.items() if k.startswith("test/")}
    end = run.record.info.end_time
    metrics = run.test()
    assert metrics == pytest.approx(before)
    after = load_run(run.id, uri=trained.uri)
    assert (after.status, after.record.info.end_time) == ("FINISHED", end)
    assert {k: v for k, v in after.metrics.items() if k.startswith("test/")} == pytest.approx(
        before
    )
    (first, second) = MlflowClient(trained.uri).get_metric_history(run.id, "test/accuracy")
    assert first.step == second.step  # of the same state


def test_predict_still_works_after_a_test(run):
    before = run.predict(digit())
    run.test()
    same(run.predict(digit()), before)


def test_an_experiment_begins_from_the_weights_of_a_run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = load_recipe("quickstart", *trained.options, f"model.weights=run:{trained.run.id}")
    for name, value in experiment.module.network.state_dict().items():
        assert value.equal(trained.run.module.network.state_dict()[name]), name
    # Its run is one of its own, which names the one it came from, and can be rebuilt.
    run = experiment.train()
    assert run.id != trained.run.id
    assert run.recipe["model"]["weights"] == f"run:{trained.run.id}"
    assert run.recipe["model"]["mean"] == trained.run.recipe["model"]["mean"]
    assert len(run.predict(digit())) == 1


def test_weights_of_a_run_that_is_not_there_are_a_sentence(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = load_recipe("quickstart", *trained.options, "model.weights=run:zz")
    with pytest.raises(RunNotFound, match="begins with 'zz'"):
        experiment.train()
    assert experiment.run_id is None
