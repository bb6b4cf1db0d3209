"""``lit-imgproc ui``."""

import os
from contextlib import suppress
from typing import Annotated

import typer

from lit_imgproc.cli.arguments import Uri

GRACE = 10
"""Seconds that the server has to end."""


def ui(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Open this run; its first characters do.")
    ] = None,
    port: Annotated[int, typer.Option(help="Where to serve a local store.")] = 5000,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    uri: Uri = None,
) -> None:
    """Open the MLflow UI on the local store, or the page of a tracking server.

    Example: lit-imgproc ui ab12
    """
    import signal
    import socket
    import subprocess
    import time
    import webbrowser

    from lit_imgproc.errors import UserError
    from lit_imgproc.recipes.run import default_store
    from lit_imgproc.tracking.records import find_run, run_url, ui_command

    store = uri or default_store()
    remote = store.startswith(("http://", "https://"))
    server = store if remote else f"http://127.0.0.1:{port}"
    page = run_url(find_run(run, store), server) if run is not None else server
    if remote:
        print(page)
        if browser:
            webbrowser.open(page)
        return
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"something is served on port {port} already: choose another --port")
    # MLflow's queue for jobs of language models would be seven more processes of 250 MB each.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    # Ended as by Ctrl-C, so that the server does not outlive this command.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(ui_command(store, port), env=environment, start_new_session=True)
    try:
        while not _answers(server):
            if process.poll() is not None:
                raise UserError(f"the MLflow UI did not start on port {port}: try another --port")
            time.sleep(0.5)
        print(f"MLflow UI: {page} (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(page)
        process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        # The server is several processes, and now and then one of them does not heed that.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(server: str) -> bool:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{server}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
