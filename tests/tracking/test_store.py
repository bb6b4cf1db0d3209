from pathlib import Path

import pytest

from lit_imgproc.tracking.store import artifact_location, local_path, redact, sqlite_file


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/data/my runs/ab", Path("/data/my runs/ab")),
        ("file:///data/my%20runs/ab", Path("/data/my runs/ab")),
        ("mlflow-artifacts:/1/ab/artifacts", None),
        ("s3://bucket/ab", None),
    ],
)
def test_only_folders_of_this_machine_are_local(uri, path):
    assert local_path(uri) == path


def test_artifacts_of_a_sqlite_file_lie_beside_it_whatever_the_working_folder(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    uri = "sqlite:///mlruns/mlflow.db"
    assert sqlite_file(uri) == tmp_path / "mlruns/mlflow.db"
    assert artifact_location(uri, None) == str(tmp_path / "mlruns/artifacts")
    assert artifact_location(uri, "elsewhere") == str(tmp_path / "elsewhere")
    assert artifact_location(uri, "s3://bucket/x") == "s3://bucket/x"
    assert artifact_location("http://host:5000", None) is None


def test_redact_removes_passwords_and_nothing_else():
    assert redact("tracking.uri=http://me:pw@host:5000/x") == "tracking.uri=http://***@host:5000/x"
    assert redact("me@example.org http://host/a@b") == "me@example.org http://host/a@b"
