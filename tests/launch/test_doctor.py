import importlib.metadata
import os
import sqlite3
import sys
import threading
from contextlib import closing
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_imgproc.launch import doctor
from lit_imgproc.launch.checks import Check, software, storage
from lit_imgproc.launch.doctor import examine
from lit_imgproc.tracking.spool import Header, Spool


def test_everything_is_looked_at_and_nothing_is_left(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    checks = examine(store.uri)
    assert {"python", "packages", "opencv", "git", "cpu", "memory", "cuda", "job", "store"} <= {
        check.name for check in checks
    }
    assert [check for check in checks if check.name == "store"] == [
        Check("store", "ok", f"{store.uri}, 1 experiments")
    ]
    assert all(check.advice for check in checks if check.status != "ok")
    assert all("\n" not in f"{check.found}{check.advice}" for check in checks)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_look_that_breaks_is_a_problem_and_others_follow(monkeypatch):
    def broken():
        raise OSError("no\nsuch thing")

    monkeypatch.setattr(software, "python", broken)
    monkeypatch.setattr(doctor, "LOOKS", ("software:python", "nowhere:at_all", "software:git"))
    python, nowhere, git = examine()
    assert (python.name, python.status) == ("python", "problem")
    assert python.found == "could not be looked at: OSError: no such thing"
    assert (nowhere.name, nowhere.status) == ("at all", "problem")
    assert git.status == "ok"


# Software ----------------------------------------------------------------------------------------


class Installed:
    """importlib.metadata with a distribution of ours that asks for some packages."""

    PackageNotFoundError = importlib.metadata.PackageNotFoundError

    def __init__(self, versions, requires=(), extras=(), python=">=3.11"):
        self.versions, self.asked, self.extras, self.python = versions, requires, extras, python

    def requires(self, name):
        return list(self.asked)

    def metadata(self, name):
        found = Message()
        found["Requires-Python"] = self.python
        for extra in self.extras:
            found["Provides-Extra"] = extra
        return found

    def version(self, name):
        if name not in self.versions:
            raise self.PackageNotFoundError(name)
        return self.versions[name]


@pytest.fixture
def installed(monkeypatch):
    def installed(*arguments, **options):
        fake = Installed(*arguments, **options)
        monkeypatch.setattr(software, "importlib", SimpleNamespace(metadata=fake))

    return installed


BASE = {"torch": "2.14.1+cu130", "lightning": "2.6.6", "mlflow": "3.17.2"}
ASKED = ("torch>=2.14.1,<2.15", "lightning>=2.6.6", "mlflow>=3.17,<3.18", "timm>=1; extra == 'x'")


def test_packages_as_they_are_asked_for(installed):
    installed(BASE, ASKED)
    (check,) = software.packages()
    assert check.status == "ok"
    assert check.found == (
        "torch 2.14.1+cu130, lightning 2.6.6, mlflow 3.17.2 and 0 others, as they are asked for"
    )


def test_another_version_is_a_warning_and_a_missing_package_a_problem(installed):
    installed(BASE | {"torch": "2.15.0"}, ASKED)
    (check,) = software.packages()
    assert (check.status, check.found) == ("warning", "torch is 2.15.0")
    assert check.advice == "pip install 'torch<2.15,>=2.14.1'"
    installed({"torch": "2.14.1", "lightning": "2.6.6"}, ASKED)
    (check,) = software.packages()
    assert (check.status, check.found) == ("problem", "mlflow is missing")


def test_python(installed):
    installed({})
    assert next(software.python()).status == "ok"
    installed({}, python="<3")
    (check,) = software.python()
    assert (check.status, check.advice) == ("problem", "make the environment with Python <3")


def test_extras_say_how_to_complete_them(installed):
    asked = (
        "a>=2",
        "b; extra == 'one'",
        "c>=3; extra == 'two'",
        "lit_imgproc[one,two]; extra == 'x'",
    )
    installed({"a": "2", "b": "1", "c": "2"}, asked, extras=("one", "two", "x"))
    one, two, both = software.extras()
    assert one == Check("extra one", "ok", "complete")
    assert (two.status, two.found) == ("ok", "not complete: c")
    assert two.advice == "for it: pip install 'lit_imgproc[two]'"
    assert both.found == "not complete: c"


def test_two_opencvs(installed):
    installed({"opencv-python": "4.1", "opencv-python-headless": "5.0"})
    (check,) = software.opencv()
    assert check.status == "warning"
    assert check.advice == (
        "pip uninstall opencv-python && "
        "pip install --force-reinstall --no-deps opencv-python-headless"
    )
    installed({"opencv-python-headless": "5.0"})
    assert next(software.opencv()).status == "ok"


def test_an_opencv_that_cannot_be_imported(installed, monkeypatch):
    installed({"opencv-python": "4.1"})
    monkeypatch.setitem(sys.modules, "cv2", None)
    (check,) = software.opencv()
    assert (check.status, check.found[:19]) == ("problem", "cannot be imported:")


def test_no_git(monkeypatch):
    monkeypatch.setattr(software.shutil, "which", lambda name: None)
    (check,) = software.git()
    assert (check.status, check.advice) == ("warning", "install git")


# Storage -----------------------------------------------------------------------------------------


def test_a_store_that_the_first_run_makes(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    (check,) = storage.store(uri)
    assert (check.status, list(tmp_path.iterdir())) == ("ok", [])
    monkeypatch.setattr(os, "access", lambda *_: False)
    (check,) = storage.store(uri)
    assert (check.status, f"{tmp_path} cannot be written to" in check.found) == ("problem", True)


def test_a_store_that_another_process_locks(store):
    file = store.uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        (check,) = storage.store(store.uri)
    assert (check.status, f"fuser {file}" in check.advice) == ("warning", True)


def test_a_store_that_is_none_or_may_not_be_written(store, tmp_path, monkeypatch):
    (tmp_path / "text.db").write_text("no database" * 100)
    (check,) = storage.store(f"sqlite:///{tmp_path}/text.db")
    assert (check.status, "not a database" in check.found) == ("problem", True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    (check,) = storage.store(store.uri)
    assert (check.status, "artifacts" in check.found) == ("problem", True)


def test_no_server(monkeypatch):
    (check,) = storage.store("http://me:hunter2@127.0.0.1:1")
    assert check.status == "problem"
    assert "no MLflow server answers" in check.found
    assert "hunter2" not in f"{check.found}{check.advice}"


@pytest.fixture
def server():
    """A server that says its version, and nothing else that MLflow asks of it."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.server.version if self.path == "/version" else None
            self.send_response(401 if body is None else 200)
            self.end_headers()
            self.wfile.write((body or "").encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("version", "status", "found"),
    [
        ("3.9.0", "ok", "on a server of MLflow 3.9.0"),
        ("2.22.0", "warning", "on a server of MLflow 2.22.0"),
        (None, "ok", "on a server that does not say its version"),
    ],
)
def test_the_version_of_a_server(server, monkeypatch, version, status, found):
    server.version = version
    client = SimpleNamespace(search_experiments=lambda max_results: [None] * 3)
    monkeypatch.setattr(storage, "open_client", lambda uri, create: client)
    uri = f"http://127.0.0.1:{server.server_port}"
    (check,) = storage.store(uri)
    assert (check.status, check.found) == (status, f"{uri}, 3 experiments, {found}")


@pytest.mark.parametrize(
    ("free", "status"), [(5_000_000_000, "ok"), (4_900_000_000, "warning"), (1, "problem")]
)
def test_disks(tmp_path, monkeypatch, free, status):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    # All on one file system: one line.
    (check,) = storage.disk(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    assert check.status == status
    assert check.found.endswith("GB free for store and artifacts, data, toy data")
    (check,) = storage.disk("http://127.0.0.1:1")
    assert check.found.endswith("GB free for data, toy data")


def test_what_is_not_delivered_yet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (check,) = storage.spool(None)
    assert check == Check("spool", "ok", "nothing waits to be delivered")
    for run, logs in (("a" * 32, True), ("b" * 32, False), ("c" * 32, True)):
        place = Path("mlruns/staging", run, "spool")
        spool = Spool(place, Header(run, "sqlite:///mlruns/mlflow.db", remote=False))
        if logs:
            spool.append({"op": "metrics", "time": 0, "step": 0, "values": {"loss": 0.5}})
        if run[0] != "c":  # its process is alive
            spool.close()
    (check,) = storage.spool(None)
    spool.close()
    assert check == Check(
        "spool", "warning", "not all delivered: aaaaaaaa", "run `lit-imgproc sync`"
    )
