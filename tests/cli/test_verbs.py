import json
import sys
from pathlib import Path

import pytest

from lit_imgproc import __version__
from lit_imgproc.cli import main
from lit_imgproc.recipes.text import read

WRONG = """\
model:
  name: classifier
  network: {name: resnet21}
  optimizer: {name: sgd, lr: fast}
  schedule: {name: cosine, warmup: 5}
  label_smoothing: 2
data:
  name: digits
  batch_size: 8.5
trainer: {max_epoch: 3}
tracking: {experiment: null}
"""


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a verb in an empty folder: exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lit-imgproc", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
        monkeypatch.setattr(sys, "path", path)
        return ending.value.code, *capsys.readouterr()

    return run


def test_list(run):
    code, out, _ = run("list")
    assert code == 0
    assert any(
        line.startswith("classification/resnet20_fashion_mnist ") for line in out.splitlines()
    )


def test_list_json_is_one_line(run):
    code, out, _ = run("list", "--json")
    rows = {row["name"]: row for row in json.loads(out.splitlines()[-1])}
    assert code == 0
    assert {"name", "system", "family", "paper", "expects"} <= set(rows["quickstart"])
    assert rows["classification/resnet20_fashion_mnist"]["family"] == "classification"


def test_list_survives_a_strange_file(run):
    folder = Path("experiments")
    folder.mkdir()
    (folder / "a.yaml").write_text("recipe: {title: T, expects: {test/accuracy: 0.9}}")
    (folder / "b.yaml").write_text("- [")
    (folder / "c.yaml").write_text(
        "recipe: {system: S, expects: {f1: {value: 0.9, tolerance: 0.1}}}"
    )
    code, out, _ = run("list")
    assert code == 0
    assert "f1 0.9 ± 0.1" in out


def test_show_is_a_recipe(run):
    code, out, _ = run("show", "quickstart", "model.optimizer.lr=3e-4", "seed=5")
    values, _, _ = read(out, "out")
    assert code == 0
    assert values["model"]["optimizer"]["lr"] == 3e-4
    assert values["seed"] == 5
    assert "extends" not in values


def test_show_keeps_secrets(run, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@host")
    _, out, _ = run("show", "quickstart")
    assert "hunter2" not in out
    assert "${oc.env:MLFLOW_TRACKING_URI" in out


def test_show_reports_what_does_not_compose(run):
    code, out, errors = run("show", "quickstart", "nonsense", "seed=${nope}")
    assert (code, out) == (2, "")
    assert errors.splitlines() == [
        "override: got nonsense; key=value is needed, such as trainer.max_epochs=3",
        "override: seed: got ${nope}; no such key",
    ]


def test_check(run):
    assert run("check", "quickstart", "model.optimizer.lr=0.1")[:2] == (0, "ok\n")
    assert run("check", "quickstart", "--toy")[:2] == (0, "ok\n")


def test_seven_mistakes_are_seven_lines_and_exit_code_2(run):
    Path("wrong.yaml").write_text(WRONG)
    code, out, errors = run("check", "wrong.yaml")
    assert (code, out) == (2, "")
    assert [line.split(": ")[:2] for line in sorted(errors.splitlines())] == [
        ["wrong.yaml:10", "trainer.max_epoch"],
        ["wrong.yaml:11", "tracking.experiment"],
        ["wrong.yaml:3", "model.network.name"],
        ["wrong.yaml:4", "model.optimizer.lr"],
        ["wrong.yaml:5", "model.schedule.warmup"],
        ["wrong.yaml:6", "model.label_smoothing"],
        ["wrong.yaml:9", "data.batch_size"],
    ]


def test_a_recipe_may_name_a_class_beside_it(run):
    Path("my_networks.py").write_text("from torch import nn\nclass Mine(nn.Module): pass\n")
    assert run("check", "quickstart", "model.network={name: 'my_networks:Mine'}")[:2] == (0, "ok\n")


def test_unknown_recipe(run):
    code, _, errors = run("check", "quikstart")
    assert code == 2
    assert "did you mean quickstart?" in errors
    assert "Traceback" not in errors


def test_schema(run):
    code, out, _ = run("schema")
    assert code == 0
    assert json.loads(out)["title"] == "A lit_imgproc recipe"
    assert run("schema", "--output", "s.json")[:2] == (0, "")
    assert json.loads(Path("s.json").read_text()) == json.loads(out)


@pytest.mark.parametrize("arguments", [[], ["list"], ["show"], ["check"], ["schema"]])
def test_every_help_has_an_example(run, arguments):
    code, out, _ = run(*arguments, "--help")
    assert code == 0
    assert "Example: lit-imgproc " in out


def test_version(run):
    assert run("--version")[:2] == (0, f"{__version__}\n")


def test_usage_errors_end_with_2(run):
    assert run("show")[0] == 2
    assert run("lst")[0] == 2


def test_completion_of_recipe_names():
    from lit_imgproc.cli.arguments import complete_recipe

    assert "quickstart" in complete_recipe("quick")
    assert complete_recipe("zzz") == []


def test_ctrl_c_is_130(run, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_imgproc.recipes.catalog.headers", interrupted)
    assert run("list")[0] == 130
