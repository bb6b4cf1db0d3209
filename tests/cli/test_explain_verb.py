"""`lit-imgproc explain`."""

import json
import sys

import numpy as np
import pytest

from lit_imgproc.cli import main
from lit_imgproc.explain.explanation import Explanation, Report
from lit_imgproc.models.targets import Target


class Told:
    """A run that says what it was asked."""

    id = "5e69ab12cd"

    def __init__(self):
        self.asked, self.written = None, None
        self.report = Report(
            [
                Explanation("a.png", np.zeros((1, 8, 8)), {"label": "cat"}, Target(0), "cat"),
                Explanation("b.png", np.zeros((1, 8, 8)), {"label": "cat"}, None, ""),
            ],
            means={"grad_cam": {"deletion": 0.25, "insertion": 0.5}},
            failed=["grad_cam"],
        )

    def explain(self, images, **options):
        self.asked = images, options
        return self.report

    def write_explanations(self, report, folder, **options):
        assert report is self.report
        self.written = folder, options
        return folder / "index.html"


@pytest.fixture
def explain(monkeypatch, capsys):
    """Run the verb on a run: the run, exit code, lines of output, errors."""

    def explain(*arguments):
        run = Told()
        monkeypatch.setattr("lit_imgproc.recipes.run.load_run", lambda *_, **__: run)
        monkeypatch.setattr(sys, "argv", ["lit-imgproc", "explain", "5e", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        out, errors = capsys.readouterr()
        return run, ending.value.code, out.splitlines(), errors

    return explain


def test_what_is_asked_reaches_the_run(explain, tmp_path):
    run, code, lines, errors = explain(
        "a.png", "b.png", "--method", "grad_cam", "--method", "kernel_shap", "--target", "cat",
        "--box", "1,2,30,40.5", "--no-measure", "--features", "--output", tmp_path, "--seed", "3",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    images, options = run.asked
    assert list(options.pop("progress")("ab", "explained", None)) == ["a", "b"]
    assert [path.name for path in images] == ["a.png", "b.png"]
    assert options == {
        "methods": ["grad_cam", "kernel_shap"], "target": "cat", "box": (1, 2, 30, 40.5),
        "annotations": None, "count": 8, "measure": False, "seed": 3,
    }  # fmt: skip
    assert run.written == (tmp_path, {"features": True, "overwrite": False})
    assert lines == [
        "a.png: cat",
        "b.png: nothing found",
        "grad_cam: deletion 0.250, insertion 0.500  FAILS the sanity check",
        f"page: {tmp_path / 'index.html'}",
    ]


def test_without_images_it_is_those_of_validation_and_it_measures(explain, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run, code, lines, _ = explain("--json")
    assert code == 0
    assert run.asked[0] is None
    assert run.asked[1]["measure"] is True
    assert run.written[0].parts[0] == "explanations"
    assert run.written[0].name.startswith("5e69ab12-20")
    told = json.loads(lines[-1])
    assert told["run_id"] == run.id
    assert told["means"] == run.report.means
    assert told["images"][1] == {"id": "b.png", "target": "", "truth": "", "numbers": {}}


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "5,0,1,9", "0,9,5,9"])
def test_a_box_that_is_none(explain, box):
    run, code, _, errors = explain("--box", box)
    assert code == 2
    assert "LEFT,TOP,RIGHT,BOTTOM" in errors
    assert run.asked is None


def test_a_page_that_is_there_stops_it_before_the_work(explain, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    run, code, _, errors = explain("--output", tmp_path)
    assert (code, run.asked) == (2, None)
    assert "is there already" in errors
