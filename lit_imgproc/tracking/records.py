"""Reading runs back from a store, for every verb that takes a run id."""

import os
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow.entities import Experiment, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lit_imgproc.errors import UserError
from lit_imgproc.tracking.names import entity_name
from lit_imgproc.tracking.store import (
    SQLITE,
    local_path,
    open_client,
    redact,
    sqlite_file,
    staged_artifacts,
)

MOST_NAMED = 5  # runs that an ambiguous prefix is answered with
PAGE = 1000


class RunNotFound(UserError):
    """No run, or more than one, or not the file of a run that was asked for."""


def find_run(id_or_prefix: str, uri: str) -> Run:
    """The one run whose id is or begins with ``id_or_prefix``.

    Raises:
        RunNotFound: None does, or several do, which are named.
        StoreUnavailable: The store does not answer.
    """
    client = open_client(uri, create=False)
    try:
        return client.get_run(id_or_prefix)
    except MlflowException:
        pass  # not a whole id
    runs = _search(client, client.search_experiments(), None)
    found = [run for run in runs if run.info.run_id.startswith(id_or_prefix)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise RunNotFound(f"no run in {redact(uri)} has an id that begins with {id_or_prefix!r}")
    names = [f"{run.info.run_id} ({run.info.run_name})" for run in found[:MOST_NAMED]]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    raise RunNotFound(
        f"{len(found)} runs begin with {id_or_prefix!r}: {', '.join(names)}{more}; "
        "give more characters of the id"
    )


def list_runs(uri: str, experiment: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """The newest runs first, as plain rows.

    Each row has ``run_id``, ``name``, ``experiment``, ``recipe`` (the run's tag of that name or
    None), ``status``, ``start`` (ISO 8601, local time), ``seconds`` (None while it runs) and
    ``metrics`` (last value of each).

    Raises:
        RunNotFound: There is no such experiment.
        StoreUnavailable: The store does not answer.
    """
    client = open_client(uri, create=False)
    experiments = client.search_experiments()
    names = {item.experiment_id: item.name for item in experiments}
    if experiment is not None and experiment not in names.values():
        known = ", ".join(sorted(names.values()))
        raise RunNotFound(f"there is no experiment {experiment!r} in the store; there are: {known}")
    wanted = [item for item in experiments if experiment in (None, item.name)]
    rows = []
    for run in _search(client, wanted, limit):
        info = run.info
        rows.append(
            {
                "run_id": info.run_id,
                "name": info.run_name,
                "experiment": names[info.experiment_id],
                "recipe": run.data.tags.get("recipe"),
                "status": info.status,
                "start": datetime.fromtimestamp(info.start_time / 1000).isoformat(
                    timespec="seconds"
                ),
                "seconds": (info.end_time - info.start_time) / 1000 if info.end_time else None,
                "metrics": dict(run.data.metrics),
            }
        )
    return rows


def artifact_file(run: Run, path: str, uri: str) -> Path:
    """A local path of an artifact (file or folder) of a run, fetched if it lies elsewhere.

    What is fetched lies in ``$XDG_CACHE_HOME/lit_imgproc/runs/RUN_ID`` and is fetched anew each
    time, since the artifacts of a run can change.

    Raises:
        RunNotFound: The run has no such artifact.
    """
    folder = local_path(run.info.artifact_uri)
    missing = f"run {run.info.run_id} has no artifact {path}"
    if folder is not None:
        if not (folder / path).exists():
            raise RunNotFound(f"{missing} (looked in {folder})")
        return folder / path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "lit_imgproc" / "runs" / run.info.run_id
    target.mkdir(parents=True, exist_ok=True)
    try:
        fetched = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path=path, dst_path=str(target), tracking_uri=uri
        )
    except (MlflowException, OSError) as error:
        raise RunNotFound(f"{missing} that can be fetched: {error}") from error
    return Path(fetched)


def checkpoint_folder(run: Run) -> Path:
    """Where a training on this machine has written, or would write, the checkpoints of a run."""
    folder = local_path(run.info.artifact_uri)
    if folder is None:
        folder = staged_artifacts(run.info.run_id)
    return folder / "checkpoints"


def tagged_run(uri: str, tag: str, value: str) -> Run | None:
    """The newest run whose ``tag`` has that value, in any experiment.

    Raises:
        StoreUnavailable: The store does not answer.
    """
    client = open_client(uri, create=True)
    runs = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        filter_string=f"tags.`{tag}` = '{value}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0] if runs else None


def add_metrics(run: Run, metrics: dict[str, float], *, step: int, uri: str) -> None:
    """Add what was measured after a run has ended; its status stays as it is.

    Raises:
        StoreUnavailable: The store does not answer.
    """
    now = int(time.time() * 1000)
    points = [Metric(entity_name(name), value, now, step) for name, value in metrics.items()]
    open_client(uri, create=False).log_batch(run.info.run_id, metrics=points)


def add_artifacts(run: Run, files: Iterable[Path], path: str, *, uri: str) -> None:
    """Add files to the artifact folder ``path`` after a run has ended.

    Raises:
        StoreUnavailable: The store does not answer.
    """
    client = open_client(uri, create=False)
    for file in files:
        client.log_artifact(run.info.run_id, str(file), path)


def ui_command(uri: str, port: int = 5000) -> list[str]:
    """The command that shows a store in a browser: MLflow's UI, or the server's own page."""
    if uri.startswith(("http://", "https://")):
        return [sys.executable, "-m", "webbrowser", uri]
    if uri.startswith(SQLITE):
        uri = f"{SQLITE}{sqlite_file(uri)}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    return [*command, "--port", str(port), "--workers", "1"]


def run_url(run: Run, server: str = "http://127.0.0.1:5000") -> str:
    """The page of a run in the MLflow UI at ``server``."""
    return f"{server.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def _search(client: MlflowClient, experiments: list[Experiment], limit: int | None) -> list[Run]:
    """The newest ``limit`` runs of ``experiments``, or all of them."""
    runs: list[Run] = []
    token = None
    while limit is None or len(runs) < limit:
        page = client.search_runs(
            [item.experiment_id for item in experiments],
            max_results=PAGE if limit is None else min(PAGE, limit - len(runs)),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs
