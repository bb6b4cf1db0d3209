"""The Lightning logger that leaves a complete MLflow run and never makes training wait for it."""

import io
import json
import logging
import os
import shutil
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from mlflow.entities import DatasetInput, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from lit_imgproc.tracking.names import flatten, image_key
from lit_imgproc.tracking.store import (
    StoreUnavailable,
    artifact_location,
    local_path,
    open_client,
    open_experiment,
)
from lit_imgproc.tracking.writer import Writer

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
LONGEST_PARAM = 6000  # characters, MLflow's limit
PARAMS_PER_BATCH = 100  # MLflow's limit for one request
STAGING = "mlruns/staging"


class MLflowTracker(Logger):
    """One MLflow run, as a Lightning logger.

    The run exists when the constructor returns. Everything that is logged afterwards is written
    by a background thread, in order; a write that fails is repeated and never stops training.
    The run stays RUNNING until :meth:`end`, because Lightning's ``finalize`` cannot tell Ctrl-C
    from an error (see ``tracking.ending``). On ranks other than zero nothing touches the store:
    every method does nothing, and :meth:`attach` tells which run rank zero opened.

    Args:
        experiment: Name of the MLflow experiment, made if it is new.
        uri: The store, ``sqlite:///mlruns/mlflow.db`` or ``http://host:5000``.
        artifacts: Folder or URI for the artifacts of a new experiment. None: an ``artifacts``
            folder beside a SQLite file, the server's choice for a server.
        run_name: Name of a new run. None: MLflow invents one.
        tags: Tags of the run.
        run_id: An existing run to go on with, which is then RUNNING again.

    Raises:
        StoreUnavailable: The store does not answer or refuses the run.

    Example:
        >>> tracker = MLflowTracker(experiment="digits", uri="sqlite:///mlruns/mlflow.db",
        ...                         artifacts=None, run_name=None, tags=None)
        >>> with recorded(tracker):
        ...     Trainer(logger=tracker).fit(module, datamodule)
    """

    def __init__(
        self,
        *,
        experiment: str,
        uri: str,
        artifacts: str | None,
        run_name: str | None,
        tags: dict[str, str] | None,
        run_id: str | None = None,
    ) -> None:
        self.uri = uri
        self._name = experiment
        self._run_id = run_id
        self._artifact_dir: Path | None = None
        self._writer: Writer | None = None
        if getattr(rank_zero_only, "rank", 0) != 0:
            return
        # The writer repeats what fails, so MLflow's own minutes of repetition only hide an outage.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        # Standard output belongs to the command line, which ends it with one line of JSON.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._client = open_client(uri, create=True)
        self._resumed = run_id is not None
        try:
            if run_id is None:
                location = artifact_location(uri, artifacts)
                made = open_experiment(self._client, experiment, location)
                run = self._client.create_run(made.experiment_id, tags=tags, run_name=run_name)
            else:
                run = self._resume(run_id, tags or {})
        except MlflowException as error:
            raise StoreUnavailable(f"MLflow cannot open a run: {error}") from error
        self._run_id = run.info.run_id
        folder = local_path(run.info.artifact_uri)
        self._remote = folder is None
        self._artifact_dir = folder or Path(STAGING, self.run_id).resolve()
        self._artifact_dir.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(self._write_metrics)

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """The MLflow client. On other ranks, Lightning's stand-in that does nothing."""
        return self._client

    @property
    def name(self) -> str:
        """Name of the MLflow experiment."""
        return self._name

    @property
    def version(self) -> str | None:
        """The run id, under the name that Lightning uses."""
        return self._run_id

    @property
    def run_id(self) -> str:
        """The run id."""
        if self._run_id is None:
            raise RuntimeError("this rank was not told the run of rank zero: call attach()")
        return self._run_id

    @property
    def artifact_dir(self) -> Path:
        """The folder to write artifacts into.

        In a local store it is the artifact folder of the run itself: a file written here is
        logged. In a remote store it is a staging folder, and :meth:`publish` uploads from it.
        """
        if self._artifact_dir is None:
            raise RuntimeError("this rank was not told the run of rank zero: call attach()")
        return self._artifact_dir

    @property
    def is_open(self) -> bool:
        """Whether what is logged here goes anywhere: on rank zero, until :meth:`end`."""
        return self._writer is not None

    @property
    def save_dir(self) -> str | None:
        """What ``trainer.log_dir`` becomes: the artifact folder."""
        return None if self._artifact_dir is None else str(self._artifact_dir)

    def attach(self, run_id: str, artifact_dir: str | Path) -> None:
        """Tell this rank which run rank zero opened, and the folder of its artifacts."""
        self._run_id = run_id
        self._artifact_dir = Path(artifact_dir)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue the values of one step: a few microseconds, whatever the store does."""
        if self._writer is not None:
            values = {key: float(value) for key, value in metrics.items()}
            self._writer.add_metrics(values, step or 0)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Log parameters flattened to dotted names, in full.

        MLflow takes 6,000 characters; a longer value becomes the artifact ``params/NAME.txt`` and
        the parameter points to it. Parameters of MLflow do not change: when a run goes on, those
        it has are kept.
        """
        if self._writer is None:
            return
        flat = flatten(vars(params) if isinstance(params, Namespace) else params)
        for key, value in flat.items():
            if len(value) > LONGEST_PARAM:
                flat[key] = f"see the artifact params/{key}.txt"
                self.log_text(value, f"params/{key}.txt")
        self._writer.add_job("parameters", lambda: self._write_params(flat))

    def log_image(self, key: str, image: NDArray[np.uint8], step: int) -> None:
        """Log an image of a step; the MLflow UI shows the steps of one ``key`` with a slider.

        Args:
            key: Such as ``explanations/sneaker``. Characters that MLflow refuses in it (all but
                ASCII letters, digits and ``_-./`` and space) become ``_``.
            image: ``[H,W]``, ``[H,W,1]`` or ``[H,W,3]`` (RGB), 0..255.
            step: Optimizer step.
        """
        if self._writer is None:
            return
        key = image_key(key)
        pixels, milliseconds = image.copy(), int(time.time() * 1000)
        self._writer.add_job(
            f"the image {key}",
            lambda: self._client.log_image(
                self.run_id, pixels, key=key, step=step, timestamp=milliseconds
            ),
        )

    def log_figure(self, figure: Figure, path: str) -> None:
        """Log a matplotlib figure as the artifact ``path``, whose suffix gives the format."""
        if self._writer is None:
            return
        buffer = io.BytesIO()  # drawn here: matplotlib is not safe across threads
        figure.savefig(buffer, format=Path(path).suffix[1:], bbox_inches="tight")
        self._write_artifact(buffer.getvalue(), path)

    def log_text(self, text: str, path: str) -> None:
        """Log ``text`` as the artifact ``path``."""
        self._write_artifact(text.encode(), path)

    def log_dict(self, values: Mapping[str, Any], path: str) -> None:
        """Log plain data as the artifact ``path``, ``.json`` or ``.yaml``."""
        if path.endswith(".json"):
            text = json.dumps(values, indent=2)
        else:
            text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        self.log_text(text, path)

    def log_file(self, path: Path, folder: str) -> None:
        """Log a file into an artifact folder. One that was written there is not copied."""
        if self._writer is None:
            return
        target = self.artifact_dir / folder / path.name
        if path.resolve() != target.resolve():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        self.publish(f"{folder}/{path.name}".lstrip("/"))

    def publish(self, path: str) -> None:
        """Bring a file or folder that was written into ``artifact_dir`` to a remote store."""
        if self._writer is not None and self._remote:
            self._writer.add_job(f"the artifact {path}", lambda: self._upload(path))

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        if self._writer is not None:
            self._writer.add_job(
                f"the tag {key}", lambda: self._client.set_tag(self.run_id, key, value)
            )

    def log_inputs(self, datasets: list[DatasetInput]) -> None:
        """Log data sets that the run reads."""
        if self._writer is not None:
            self._writer.add_job(
                "the data set", lambda: self._client.log_inputs(self.run_id, datasets)
            )

    def flush(self) -> None:
        """Wait until what was logged is in the store, or the store has been away for 30 s."""
        if self._writer is not None:
            self._writer.flush()

    def finalize(self, status: str) -> None:
        """Flush. Lightning calls this after every fit and test; ``status`` is not to be trusted."""
        self.flush()

    def end(self, status: Status) -> None:
        """Deliver everything, then give the run its final status. Later calls do nothing."""
        if self._writer is None:
            return
        self._writer.add_job("the status", lambda: self._client.set_terminated(self.run_id, status))
        undelivered = self._writer.close()
        self._writer = None
        if undelivered:
            log.warning(
                "MLflow run %s: %d values or files did not reach the store",
                self._run_id,
                undelivered,
            )

    def _resume(self, run_id: str, tags: dict[str, str]) -> Run:
        run = self._client.get_run(run_id)
        self._client.update_run(run_id, status="RUNNING")
        for key, value in tags.items():
            self._client.set_tag(run_id, key, value)
        self._name = self._client.get_experiment(run.info.experiment_id).name
        return run

    def _write_metrics(self, metrics: list[Metric]) -> None:
        self._client.log_batch(self.run_id, metrics=metrics)

    def _write_params(self, flat: dict[str, str]) -> None:
        if self._resumed:
            there = self._client.get_run(self.run_id).data.params
            changed = [key for key, value in flat.items() if there.get(key, value) != value]
            if changed:
                log.warning("parameters of an MLflow run do not change, kept: %s", sorted(changed))
            flat = {key: value for key, value in flat.items() if key not in there}
        params = [Param(key, value) for key, value in flat.items()]
        for start in range(0, len(params), PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + PARAMS_PER_BATCH])

    def _write_artifact(self, content: bytes, path: str) -> None:
        if self._writer is None:
            return

        def write() -> None:
            target = self.artifact_dir / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            if self._remote:
                self._upload(path)

        self._writer.add_job(f"the artifact {path}", write)

    def _upload(self, path: str) -> None:
        source = self.artifact_dir / path
        if source.is_dir():
            self._client.log_artifacts(self.run_id, str(source), path)
        else:
            folder = str(Path(path).parent)
            self._client.log_artifact(self.run_id, str(source), None if folder == "." else folder)
