"""What all tests share: quiet and offline libraries, one thread, a store of their own."""

import os

# Set before any library is imported: two busy processes with default OpenMP are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
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


class Server:
    """An MLflow server on a SQLite file, which can be killed and started again."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        """Return when it answers."""
        log = self.folder / "log"
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                    *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
                    *("--artifacts-destination", str(self.folder / "artifacts")),
                ],
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            except OSError:
                assert self.process.poll() is None, log.read_text()
                time.sleep(0.2)
            else:
                return
        pytest.fail(log.read_text())

    def send(self, number):
        """Send a signal to all of its processes."""
        os.killpg(self.process.pid, number)

    def kill(self):
        """Kill all of its processes, if it runs."""
        if self.process is not None:
            self.send(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def running_server(empty_store, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(empty_store, server.folder / "mlflow.db")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(running_server):
    """A server of this module, running when the test begins."""
    if running_server.process is None:
        running_server.start()
    return running_server
