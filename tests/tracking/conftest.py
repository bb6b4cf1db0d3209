import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Spools lie in the working folder."""
    monkeypatch.chdir(tmp_path)


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
