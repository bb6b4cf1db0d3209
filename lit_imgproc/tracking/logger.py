"""The Lightning logger that leaves a complete MLflow run and never makes training wait for it."""

import io
import json
import logging
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from mlflow.entities import DatasetInput, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from lit_imgproc.tracking.courier import Courier
from lit_imgproc.tracking.files import write_file, write_image
from lit_imgproc.tracking.names import entity_name, flatten, image_key
from lit_imgproc.tracking.ops import described
from lit_imgproc.tracking.spool import Header, Spool
from lit_imgproc.tracking.store import (
    StoreUnavailable,
    artifact_location,
    local_path,
    logged_steps,
    open_client,
    open_experiment,
    redact,
    spool_folder,
    staged_artifacts,
)
from lit_imgproc.tracking.writer import Writer

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
LONGEST_PARAM = 6000  # characters, MLflow's limit
SYSTEM = "system/"  # how MLflow names what it measures of a machine
PATIENCE = 30.0  # seconds without an answer after which the end of a run gives up a store
BETWEEN = 5.0  # the same between a fit and a test


class MLflowTracker(Logger):
    """One MLflow run, as a Lightning logger.

    The run exists when the constructor returns. Everything that is logged afterwards goes to a
    spool on disk, ``mlruns/staging/RUN_ID/spool`` of the working folder, and from there a thread
    brings it to the store, in order and once. Logging costs microseconds, whatever the store does,
    and never raises: a store that is away is tried again with growing pauses of up to 30 s, and
    what is not delivered when the process ends or is killed waits for ``lit-imgproc sync``, or for
    the run to go on. Up to 256 MiB wait; beyond that further metric points are dropped, which a
    warning and the run's tag ``tracking.dropped`` tell, and everything else is still taken.

    The run stays RUNNING until :meth:`end`, because Lightning's ``finalize`` cannot tell Ctrl-C
    from an error (see ``tracking.ending``). On ranks other than zero nothing touches the store or
    the disk: every method does nothing.

    Args:
        experiment: Name of the MLflow experiment, made if it is new.
        uri: The store, ``sqlite:///mlruns/mlflow.db`` or ``http://host:5000``.
        artifacts: Folder or URI for the artifacts of a new experiment. None: an ``artifacts``
            folder beside a SQLite file, the server's choice for a server.
        run_name: Name of a new run. None: MLflow invents one.
        tags: Tags of the run.
        run_id: An existing run to go on with, which is then RUNNING again. See :meth:`rewind`.

    Raises:
        StoreUnavailable: The store does not answer or refuses the run.
        FolderInUse: Another process is training this run, or delivering it.

    Example:
        >>> tracker = MLflowTracker(experiment="digits", uri="sqlite:///mlruns/mlflow.db",
        ...                         artifacts=None, run_name=None, tags=None)
        >>> Trainer(logger=tracker).fit(module, datamodule)
        >>> tracker.end("FINISHED")
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
        self._spool: Spool | None = None
        self._repeated: Counter[str] = Counter()
        if getattr(rank_zero_only, "rank", 0) != 0:
            return
        self._client = open_client(uri, create=True)
        try:
            if run_id is None:
                made = open_experiment(self._client, experiment, artifact_location(uri, artifacts))
                run = self._client.create_run(made.experiment_id, tags=tags, run_name=run_name)
                self._spool = self._open_spool(run, is_new=True)
            else:
                run = self._client.get_run(run_id)
                self._spool = self._open_spool(run, is_new=False)
                self._go_on(run, tags or {})
        except MlflowException as error:
            if self._spool is not None:
                self._spool.close()
            raise StoreUnavailable(f"MLflow cannot open a run: {redact(str(error))}") from error
        writer = Writer(self._client, self.run_id, self._artifact_dir if self._remote else None)
        self._courier = Courier(self._spool, writer.write)

    def _open_spool(self, run: Run, *, is_new: bool) -> Spool:
        """Open the spool that an earlier process left, or make one that knows what it logged."""
        self._run_id = run.info.run_id
        folder = local_path(run.info.artifact_uri)
        self._remote = folder is None
        self._artifact_dir = folder or staged_artifacts(self.run_id)
        self._artifact_dir.mkdir(parents=True, exist_ok=True)
        where = spool_folder(self.run_id)
        if Spool.exists(where):
            return Spool(where)
        logged = {} if is_new else logged_steps(self._client, run)
        points = {key: len(steps) for key, steps in logged.items()}
        last = {key: max(steps) for key, steps in logged.items() if steps}
        return Spool(where, Header(self.run_id, redact(self.uri), self._remote, points, last))

    def _go_on(self, run: Run, tags: dict[str, str]) -> None:
        """Make the run RUNNING again, now, and after a final status that was not delivered yet."""
        self._name = self._client.get_experiment(run.info.experiment_id).name
        self._client.update_run(self.run_id, "RUNNING")
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)
        self._append("status", status="RUNNING")

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
            raise RuntimeError("only rank zero has a run")
        return self._run_id

    @property
    def artifact_dir(self) -> Path:
        """The folder to write artifacts into.

        In a local store it is the artifact folder of the run itself: a file written here is
        logged. In a remote store it is a staging folder, and :meth:`publish` uploads from it.
        """
        if self._artifact_dir is None:
            raise RuntimeError("only rank zero has a run")
        return self._artifact_dir

    @property
    def is_open(self) -> bool:
        """Whether what is logged here goes anywhere: on rank zero, until :meth:`end`."""
        return self._spool is not None

    @property
    def save_dir(self) -> str | None:
        """What ``trainer.log_dir`` becomes: the artifact folder."""
        return None if self._artifact_dir is None else str(self._artifact_dir)

    # What is logged ------------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the values of one step."""
        step = step or 0
        values = {entity_name(key): float(value) for key, value in metrics.items()}
        new = {key: value for key, value in values.items() if not self._is_repeated(key, step)}
        if new:
            self._append("metrics", step=step, values=new)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Log parameters flattened to dotted names, in full.

        MLflow takes 6,000 characters; a longer value becomes the artifact ``params/NAME.txt`` and
        the parameter points to it. Parameters of MLflow do not change: when a run goes on, those
        it has are kept.
        """
        flat = flatten(vars(params) if isinstance(params, Namespace) else params)
        for key, value in flat.items():
            if len(value) > LONGEST_PARAM:
                flat[key] = f"see the artifact params/{key}.txt"
                self.log_text(value, f"params/{key}.txt")
        self._append("params", params=flat)

    def log_image(self, key: str, image: NDArray[np.uint8], step: int) -> None:
        """Log an image of a step; the MLflow UI shows the steps of one ``key`` with a slider.

        Args:
            key: Such as ``explanations/sneaker``. Characters that MLflow refuses in it (all but
                ASCII letters, digits and ``_-./`` and space) become ``_``.
            image: ``[H,W]``, ``[H,W,1]`` or ``[H,W,3]`` (RGB), 0..255.
            step: Optimizer step.
        """
        key = image_key(key)
        if self._spool is None or self._is_repeated(f"image:{key}", step):
            return
        paths = write_image(self.artifact_dir, key, image, step, _now())
        if paths is not None:
            self._append("image", key=key, step=step, paths=paths)

    def log_figure(self, figure: Figure, path: str) -> None:
        """Log a matplotlib figure as the artifact ``path``, whose suffix gives the format."""
        if self._spool is None:
            return
        buffer = io.BytesIO()
        figure.savefig(buffer, format=Path(path).suffix[1:], bbox_inches="tight")
        self._write(path, buffer.getvalue())

    def log_text(self, text: str, path: str) -> None:
        """Log ``text`` as the artifact ``path``."""
        if self._spool is not None:
            self._write(path, text.encode())

    def log_dict(self, values: Mapping[str, Any], path: str) -> None:
        """Log plain data as the artifact ``path``, ``.json`` or ``.yaml``."""
        if path.endswith(".json"):
            text = json.dumps(values, indent=2)
        else:
            text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        self.log_text(text, path)

    def publish(self, path: str) -> None:
        """Bring a file or folder that was written into ``artifact_dir`` to a remote store."""
        if self._spool is not None and self._remote:
            self._append("artifact", path=path)

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        self._append("tag", key=key, value=value)

    def log_inputs(self, datasets: list[DatasetInput]) -> None:
        """Log data sets that the run reads."""
        self._append("inputs", inputs=[item.to_dictionary() for item in datasets])

    def _write(self, path: str, content: bytes) -> None:
        if write_file(self.artifact_dir / path, content):
            self.publish(path)

    def _append(self, op: str, **details: Any) -> None:
        if self._spool is not None:
            self._spool.append({"op": op, "time": _now(), **details})

    # Going on from a checkpoint ------------------------------------------------------------------

    def position(self) -> dict[str, int]:
        """How many points of each key this training has logged, over all its processes.

        A checkpoint keeps it for :meth:`rewind`. Images count under ``image:KEY``; what is
        measured of the machine (``system/``) is not part of the training.
        """
        if self._spool is None:
            return {}
        logged = Counter(dict(self._spool.points)) - self._repeated
        return {key: count for key, count in logged.items() if not key.startswith(SYSTEM)}

    def rewind(self, position: Mapping[str, int]) -> None:
        """Go back to a checkpoint: what was logged after it comes again and is not logged twice.

        To be called before anything else is logged, on a tracker that was opened with ``run_id``.

        Args:
            position: What :meth:`position` was when the checkpoint was saved.
        """
        self._repeated = Counter()
        self._repeated = Counter(self.position()) - Counter(position)

    def system_step(self) -> int:
        """How often this run's machines have been measured: the step of the next measurement."""
        points = {} if self._spool is None else dict(self._spool.points)
        return max((points[key] for key in points if key.startswith(SYSTEM)), default=0)

    def _is_repeated(self, key: str, step: int) -> bool:
        if self._spool is None or not self._repeated[key]:
            return False
        if step > self._spool.steps.get(key, -1):
            # It goes on from another place than it did, as the test after a longer training does.
            del self._repeated[key]
            return False
        self._repeated[key] -= 1
        return True

    # The end -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until what was logged is in the store, or it has not answered for 30 s."""
        if self._spool is not None:
            self._courier.flush(PATIENCE)

    def finalize(self, status: str) -> None:
        """Flush, for 5 s where the store does not answer.

        Lightning calls this after every fit and test; ``status`` is not to be trusted.
        """
        if self._spool is not None:
            self._courier.flush(BETWEEN)

    def end(self, status: Status | None) -> None:
        """Deliver everything, then give the run its final status. Later calls do nothing.

        A store that does not answer is given up after 30 s: the spool stays, and a warning says so.

        Args:
            status: None leaves the run RUNNING, for a process that goes on with it.
        """
        if self._spool is None:
            return
        spool, self._spool = self._spool, None
        if status is not None:
            spool.append({"op": "status", "time": _now(), "status": status})
        delivered = self._courier.close(PATIENCE)
        if not delivered:
            log.warning(
                "MLflow run %s: %s have not reached the store and wait in %s; "
                "`lit-imgproc sync` delivers them",
                self._run_id,
                described(spool.waiting),
                spool.folder,
            )
        if delivered and status == "FINISHED" and not self._courier.refused:
            spool.remove()
        else:
            spool.close()


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000
