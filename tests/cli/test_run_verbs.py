"""The verbs that make and read runs, as the console script that a shell or a scheduler starts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from bright import run_of
from mlflow.tracking import MlflowClient

from lit_imgproc.cli import main
from lit_imgproc.cli.ui import ui
from lit_imgproc.data.imagenet.datamodule import Digits
from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec

SCRIPT = Path(sys.executable).with_name("lit-imgproc")
RECIPE = """\
extends: quickstart.yaml
model: {optimizer: {lr: 0.003}}
data: {root: digits, batch_size: 16, num_workers: 0}
trainer: {accelerator: cpu, max_epochs: 1, log_every_n_steps: 1}
callbacks: {explain: null, predictions: null}
tracking: {experiment: verbs, artifacts: artifacts}
"""


class Shell:
    """A folder with a recipe, toy data and a store, in which verbs are run."""

    def __init__(self, folder, store):
        self.folder = folder
        self.client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        self.environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        shutil.copy(store, folder / "mlflow.db")
        Digits.write_toy(folder / "digits")
        (folder / "mine.yaml").write_text(RECIPE)

    def start(self, *arguments, stderr=subprocess.PIPE):
        return subprocess.Popen(
            [SCRIPT, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def __call__(self, *arguments):
        """Run a verb to its end: exit code, lines of output, errors."""
        process = self.start(*arguments)
        out, errors = process.communicate(timeout=300)
        return process.returncode, out.splitlines(), errors

    def runs(self):
        """Ids of the runs in the store, with their status."""
        experiments = [item.experiment_id for item in self.client.search_experiments()]
        found = self.client.search_runs(experiments)
        return {run.info.run_id: run.info.status for run in found}


@pytest.fixture(scope="module")
def shell(empty_store, tmp_path_factory):
    return Shell(tmp_path_factory.mktemp("verbs"), empty_store)


@pytest.fixture(scope="module")
def trained(shell):
    """The lines that one training printed, and what its last line says."""
    code, lines, errors = shell("train", "mine.yaml", "seed=3", "--json")
    assert code == 0, errors
    return lines, json.loads(lines[-1])


@pytest.fixture
def within(shell, monkeypatch, capsys):
    """Run a verb in the same folder within this process, which starts faster."""
    monkeypatch.chdir(shell.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shell.environment["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr(sys, "path", list(sys.path))

    def within(*arguments):
        monkeypatch.setattr(sys, "argv", ["lit-imgproc", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
        out, errors = capsys.readouterr()
        return ending.value.code, out.splitlines(), errors

    return within


def test_train_ends_with_one_line_of_json(shell, trained):
    lines, result = trained
    assert set(result) == {"run_id", "status", "metrics"}
    assert result["status"] == "FINISHED"
    run = shell.client.get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert result["metrics"] == run.data.metrics
    assert f"test/accuracy {result['metrics']['test/accuracy']:.4f}" in lines
    assert f"run {result['run_id']} FINISHED" in lines
    assert any(line.startswith("epoch 1/1 train/loss ") for line in lines)
    assert run.data.tags["command"] == "lit-imgproc train mine.yaml seed=3 --json"
    assert run.data.params["seed"] == "3"


def test_the_command_that_train_says_shows_the_run(trained):
    lines, result = trained
    (said,) = (line for line in lines if line.startswith("see it: "))
    assert said.endswith(f" ui {result['run_id'][:8]}")
    assert Path(said.split()[2]).is_file()


def test_test_measures_the_same_again(shell, trained):
    _, result = trained
    code, lines, errors = shell("test", result["run_id"][:8], "--json")
    assert code == 0, errors
    again = json.loads(lines[-1])
    assert (again["run_id"], again["status"]) == (result["run_id"], "FINISHED")
    before = {k: v for k, v in result["metrics"].items() if k.startswith("test/")}
    assert again["metrics"] == pytest.approx(before)
    assert f"test/accuracy {before['test/accuracy']:.4f}" in lines


def test_predict_answers_for_files_and_folders_and_writes_them(shell, trained):
    _, result = trained
    photos = shell.folder / "photos"
    photos.mkdir()
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(photos / name), np.full((20, 30, 3), 90, np.uint8))
    cv2.imwrite(str(shell.folder / "one.png"), np.zeros((8, 8), np.uint8))
    code, lines, errors = shell(
        "predict", result["run_id"], "one.png", "photos", "--output", "answers.json", "--json"
    )
    assert code == 0, errors
    said = json.loads(lines[-1])
    assert said["run_id"] == result["run_id"]
    answers = said["predictions"]
    assert [answer["id"] for answer in answers] == ["one.png", "photos/a.jpg", "photos/b.png"]
    assert set(answers[0]["probabilities"]) == set("0123456789")
    assert json.loads((shell.folder / "answers.json").read_text()) == answers
    assert f"one.png: {answers[0]['label']} {answers[0]['score']:.3f}" in lines


@pytest.fixture
def cells(monkeypatch, tmp_path):
    """A folder of two photographs with bright spots, and a run that finds these."""
    run = run_of({"name": "coco"}, InputSpec(3, (60, 80), "fit", interpolation="nearest"))
    monkeypatch.setattr("lit_imgproc.recipes.run.load_run", lambda *_, **__: run)
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[10:30, 20:60], pixels[40:50, 100:120], pixels[80:90, 20:60] = 255, 192, 100
    (tmp_path / "cells").mkdir()
    cv2.imwrite(str(tmp_path / "cells" / "a.png"), pixels)
    cv2.imwrite(str(tmp_path / "cells" / "b.png"), np.zeros((60, 60, 3), np.uint8))
    return tmp_path


def test_predict_counts_objects_and_writes_them(cells, within):
    folder, out = cells / "cells", cells / "out"
    names = {name: str(cells / f"{name}.json") for name in ("all", "coco")}
    drawn = ("--draw", str(out), "--coco", names["coco"])
    code, lines, errors = within("predict", "b4", str(folder), "--output", names["all"], *drawn)
    assert (code, errors) == (0, "")
    # Of what is below 0.5 all files know; it is neither counted nor drawn.
    assert lines == [f"{folder}/a.png: 2 white", f"{folder}/b.png: nothing"]
    answers = json.loads(Path(names["all"]).read_text())
    assert answers[0]["boxes"] == [[20, 10, 60, 30], [100, 40, 120, 50], [20, 80, 60, 90]]
    assert [len(answer["boxes"]) for answer in answers] == [3, 0]
    coco = json.loads(Path(names["coco"]).read_text())
    assert [one["bbox"] for one in coco["annotations"]][:2] == [[20, 10, 40, 20], [100, 40, 20, 10]]
    assert [one["name"] for one in coco["categories"]] == ["grey", "white"]
    before, after = (cv2.imread(str(where / "a.png")) for where in (folder, out))
    assert before.shape == after.shape
    assert (before != after)[10:30, 20:60].any()
    assert (before == after)[78:92, 18:62].all()
    assert (cv2.imread(str(out / "b.png")) == 0).all()

    code, lines, _ = within("predict", "b4", str(folder), "--threshold", "0", "--json")
    assert lines[0] == f"{folder}/a.png: 2 white, 1 grey"
    assert json.loads(lines[-1]) == {"run_id": "b419", "predictions": answers}


def test_predict_replaces_drawings_only_if_told(cells, within):
    folder, out = cells / "cells", cells / "out"
    asked = ("predict", "b4", str(folder), "--draw")
    assert within(*asked, str(out))[0] == 0
    code, lines, errors = within(*asked, str(out))
    assert (code, lines) == (2, [])  # before anything was predicted
    assert "a.png is there already: give another folder, or --overwrite" in errors
    assert within(*asked, str(out), "--overwrite")[0] == 0
    code, lines, errors = within(*asked, str(folder), "--overwrite")
    assert (code, lines) == (2, [])
    assert "a.png is one of the images: give another folder" in errors


def test_predict_uses_the_ids_of_annotations(cells, within):
    images = [{"id": 30, "file_name": "b.png"}, {"id": 40, "file_name": "a.png"}]
    categories = [{"id": 8, "name": "white"}, {"id": 9, "name": "grey"}]
    truth = cells / "truth.json"
    truth.write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    found = cells / "found.json"
    asked = ("predict", "b4", str(cells / "cells"), "--annotations", str(truth))
    assert within(*asked, "--coco", str(found))[0] == 0
    results = json.loads(found.read_text())
    assert [(one["image_id"], one["category_id"]) for one in results] == [(40, 8), (40, 8), (40, 9)]
    code, _, errors = within(*asked)
    assert code == 2
    assert "--coco" in errors


def test_predict_writes_geojson_for_each_raster(cells, within):
    rasterio = pytest.importorskip("rasterio")
    path = cells / "roofs.tif"
    profile = {"driver": "GTiff", "width": 160, "height": 120, "count": 3, "dtype": "uint8"}
    place = rasterio.Affine(2, 0, 500_000, 0, -2, 5_000_000)
    pixels = cv2.imread(str(cells / "cells" / "a.png"))
    with rasterio.open(path, "w", crs="EPSG:32633", transform=place, **profile) as file:
        file.write(pixels.transpose(2, 0, 1))
    code, _, errors = within("predict", "b4", str(path), "--geojson", str(cells / "out"))
    assert (code, errors) == (0, "")
    written = json.loads((cells / "out" / "roofs.geojson").read_text())
    assert written["crs"]["properties"]["name"].endswith("32633")
    assert [one["properties"]["label"] for one in written["features"]] == ["white", "white", "grey"]
    first = written["features"][0]["geometry"]["coordinates"][0]
    assert first[0] == [500_040, 4_999_980]
    assert first[2] == [500_120, 4_999_940]


def test_a_classifier_has_no_objects_to_write(shell, trained, within):
    cv2.imwrite(str(shell.folder / "two.png"), np.zeros((8, 8), np.uint8))
    code, lines, errors = within("predict", trained[1]["run_id"], "two.png", "--draw", "drawn")
    assert code == 2
    assert "are for runs that detect objects" in errors
    assert lines[0].startswith("two.png: ")
    assert not (shell.folder / "drawn").exists()


def test_runs_lists_the_newest_first(shell, trained, within):
    _, result = trained
    code, lines, errors = shell("runs", "--experiment", "verbs", "--json")
    assert code == 0, errors
    rows = json.loads(lines[-1])
    assert result["run_id"] in [row["run_id"] for row in rows]
    assert [row["start"] for row in rows] == sorted((row["start"] for row in rows), reverse=True)
    row = next(row for row in rows if row["run_id"] == result["run_id"])
    assert (row["experiment"], row["status"]) == ("verbs", "FINISHED")
    assert row["metrics"]["test/accuracy"] == result["metrics"]["test/accuracy"]
    # For people: a line a run, whole, where the output is no terminal.
    code, lines, _ = within("runs")
    assert code == 0
    found = [line for line in lines if result["run_id"][:8] in line]
    assert len(found) == 1, lines
    (line,) = found
    for cell in ("verbs", "FINISHED", f"accuracy {row['metrics']['test/accuracy']:.4f}"):
        assert f" {cell} " in line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "quikstart"], "did you mean quickstart?"),
        (["train", "mine.yaml", "data.root=nowhere"], "nowhere"),
    ],
)
def test_what_a_person_can_mend_is_a_sentence_and_exit_code_2(shell, arguments, sentence):
    before = shell.runs()
    code, lines, errors = shell(*arguments, "--json")
    assert (code, lines) == (2, []), errors
    assert sentence in errors
    assert "Traceback" not in errors
    assert shell.runs() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "mine.yaml", "tracking.uri=http://127.0.0.1:1"], "no MLflow server answers"),
        (["test", "zz"], "begins with 'zz'"),
        (["predict", "zz", "one.png", "--uri", "sqlite:///none.db"], "no MLflow store at"),
        (["runs", "--experiment", "vrbs"], "there are: "),
        (["ui", "zz"], "begins with 'zz'"),
    ],
)
def test_so_is_what_cannot_be_found(shell, trained, within, arguments, sentence):
    before = shell.runs()
    code, _, errors = within(*arguments)
    assert code == 2
    assert sentence in errors
    assert shell.runs() == before


def test_a_training_that_fails_is_failed_with_its_traceback(shell, tmp_path):
    # The images have one channel: the first batch raises.
    code, lines, errors = shell("train", "mine.yaml", "model.network.in_channels=3", "--json")
    assert code == 1
    assert "RuntimeError" in errors
    result = json.loads(lines[-1])
    assert result["status"] == "FAILED"
    assert shell.runs()[result["run_id"]] == "FAILED"
    kept = shell.client.download_artifacts(
        result["run_id"], "provenance/traceback.txt", str(tmp_path)
    )
    text = Path(kept).read_text()
    assert text.startswith("Traceback (most recent call last)")
    (error,) = (line for line in text.splitlines() if line.startswith("RuntimeError: "))
    assert "expected input" in error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_ended_is_killed(shell, number, code):
    process = shell.start("train", "mine.yaml", "trainer.max_epochs=100000", "--json")
    try:
        next(line for line in process.stdout if line.startswith("epoch 2/"))
        process.send_signal(number)
        out, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    result = json.loads(out.splitlines()[-1])
    assert result["status"] == "KILLED"
    assert shell.runs()[result["run_id"]] == "KILLED"
    assert result["metrics"]["train/loss"] > 0  # what was measured until then is there
    kept = shell.client.list_artifacts(result["run_id"], "checkpoints")
    names = ["best", "last-1", "last"]
    assert [item.path for item in kept] == [f"checkpoints/{name}.ckpt" for name in names]


def test_ui_serves_the_page_of_a_run_until_ctrl_c(shell, trained):
    _, result = trained
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = ("ui", result["run_id"][:8], "--no-browser", "--port", str(port))
    process = shell.start(*asked, stderr=subprocess.DEVNULL)  # the server's log
    with process.stdout:
        try:
            said = next((line for line in process.stdout if line.startswith("MLflow UI: ")), "")
            assert f" http://127.0.0.1:{port}/#/experiments/" in said
            assert f"/runs/{result['run_id']} " in said
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
                assert page.status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            process.wait()
    # The server has ended with it: the port is free again.
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_ui_does_not_show_what_something_else_serves(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match="choose another --port"):
            ui(None, port, False, f"sqlite:///{tmp_path}/mlflow.db")
