"""How each write of a spool reaches an MLflow store. Each can be repeated and does no harm."""

import logging
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lit_imgproc.tracking.ops import Op

log = logging.getLogger(__name__)

METRICS_PER_BATCH = 1000  # MLflow's limit for one request
PARAMS_PER_BATCH = 100  # the same
LOGGED_IMAGES = "mlflow.loggedImages"  # tells the UI to show its slider
REFUSALS = {
    "BAD_REQUEST",
    "FEATURE_DISABLED",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}


class Writer:
    """Writes to one run.

    Metrics keep the time they were logged at: MLflow takes a point once that has the same key,
    time, step and value. Tags, parameters, data sets and the status are set to what they are, and
    artifacts are written over.

    Args:
        client: Of the run's store.
        run_id: The run.
        staging: Folder that artifacts are uploaded from. None: they are where they belong.
    """

    def __init__(self, client: MlflowClient, run_id: str, staging: Path | None) -> None:
        self._client = client
        self._run_id = run_id
        self._staging = staging
        self._images_are_announced = False

    def write(self, ops: list[Op]) -> None:
        """Write metrics of several steps, or one other thing.

        Raises:
            MlflowException, OSError: The store does not answer, or refuses: see :func:`passes`.
        """
        op, *more = ops
        match op["op"]:
            case "metrics":
                self._metrics([op, *more])
            case "params":
                self._params(op["params"])
            case "tag":
                self._client.set_tag(self._run_id, op["key"], op["value"])
            case "image":
                self._image(op["paths"])
            case "artifact":
                self._upload(op["path"])
            case "inputs":
                self._client.log_inputs(self._run_id, [_input(item) for item in op["inputs"]])
            case "dropped":
                self._client.set_tag(self._run_id, "tracking.dropped", str(op["total"]))
            case "status":
                self._status(op["status"], op["time"])
            case unknown:
                raise ValueError(f"a line that says {unknown!r}")

    def _metrics(self, ops: list[Op]) -> None:
        metrics = [
            Metric(key, value, op["time"], op["step"])
            for op in ops
            for key, value in op["values"].items()
        ]
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self._client.log_batch(self._run_id, metrics[start : start + METRICS_PER_BATCH])

    def _params(self, flat: dict[str, str]) -> None:
        there = self._client.get_run(self._run_id).data.params
        changed = sorted(key for key, value in flat.items() if there.get(key, value) != value)
        if changed:
            log.warning("parameters of an MLflow run do not change, kept: %s", changed)
        params = [Param(key, value) for key, value in flat.items() if key not in there]
        for start in range(0, len(params), PARAMS_PER_BATCH):
            self._client.log_batch(self._run_id, params=params[start : start + PARAMS_PER_BATCH])

    def _image(self, paths: list[str]) -> None:
        for path in paths:
            self._upload(path)
        if not self._images_are_announced:
            self._client.set_tag(self._run_id, LOGGED_IMAGES, "True")
            self._images_are_announced = True

    def _upload(self, path: str) -> None:
        if self._staging is None:
            return
        source = self._staging / path
        if source.is_dir():
            self._client.log_artifacts(self._run_id, str(source), path)
        else:
            folder = str(Path(path).parent)
            self._client.log_artifact(self._run_id, str(source), None if folder == "." else folder)

    def _status(self, status: str, time: int) -> None:
        if status == "RUNNING":
            self._client.update_run(self._run_id, status)
        else:
            self._client.set_terminated(self._run_id, status, end_time=time)


def passes(error: Exception) -> bool:
    """Whether a failure may pass: the store is away or busy, a password is missing, a disk full."""
    if isinstance(error, MlflowException):
        return error.error_code not in REFUSALS
    # Errors of the requests library are OSErrors too.
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def _input(item: dict[str, dict[str, str]]) -> DatasetInput:
    tags = [InputTag(key, value) for key, value in item["tags"].items()]
    return DatasetInput(Dataset(**item["dataset"]), tags)
