"""A finished run as a value: found, rebuilt, asked, tested, gone on from."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from lit_imgproc import load_recipe, load_run
from lit_imgproc.data.imagenet.datamodule import Digits, ImageFolder
from lit_imgproc.errors import UserError
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
