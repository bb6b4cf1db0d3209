import json
import sys

import pytest

from lit_imgproc.cli import main
from lit_imgproc.launch.checks import Check


@pytest.fixture
def run(monkeypatch, capsys):
    """The verb with these checks: exit code and lines."""

    def run(checks, *arguments):
        monkeypatch.setattr("lit_imgproc.launch.doctor.examine", lambda uri: checks)
        monkeypatch.setattr(sys, "argv", ["lit-imgproc", "doctor", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as ending:
            main()
        return ending.value.code, capsys.readouterr().out.splitlines()

    return run


FINE = [Check("git", "ok", "2.39"), Check("disk", "warning", "1 GB free", "make room")]
BAD = [*FINE, Check("store", "problem", "gone", "start it")]


def test_a_line_a_check(run):
    assert run(FINE) == (0, ["ok       git: 2.39", "warning  disk: 1 GB free -> make room"])


def test_a_problem_is_exit_code_1(run):
    code, lines = run(BAD)
    assert (code, lines[-1]) == (1, "problem  store: gone -> start it")


@pytest.mark.parametrize(("checks", "code"), [(FINE, 0), (BAD, 1)])
def test_json_is_the_last_line(run, checks, code):
    ended, lines = run(checks, "--json")
    said = json.loads(lines[-1])
    assert (ended, said["ok"], len(said["checks"])) == (code, code == 0, len(checks))
    assert said["checks"][1] == {
        "name": "disk",
        "status": "warning",
        "found": "1 GB free",
        "advice": "make room",
    }
