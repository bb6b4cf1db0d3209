"""What all tests share: quiet and offline libraries, one thread, a store of their own."""

import os

# Set before any library is imported: two busy processes with default OpenMP are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data():
    """The folder of small real data sets, kept beside the project."""
    folder = Path(os.environ.get("LIT_IMGPROC_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip("the real data sets are not here: set LIT_IMGPROC_DATA to their folder")
    return folder


@dataclass(frozen=True)
class Store:
    """An MLflow store of one test: a migrated SQLite file and an artifact folder."""

    uri: str
    artifacts: str


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A migrated SQLite file. Migration takes seconds, a copy of the file does not."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the spools of runs lie
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return Store(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """Nothing a test does by default lands in the checkout or in the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
