"""An MLflow store: opening it, and telling where its artifacts lie."""

import logging
import os
import re
import ssl
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import sqlalchemy
from filelock import FileLock
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lit_imgproc.errors import UserError

SQLITE = "sqlite:///"
USER = r"://[^/\s@]+@"  # user name and password in a URL
STAGING = "mlruns/staging"  # in the working folder: RUN_ID/spool, RUN_ID/artifacts


class StoreUnavailable(UserError):
    """The MLflow store of a run cannot be opened."""


def open_client(uri: str, *, create: bool) -> MlflowClient:
    """A client of the store at ``uri``, after one look that the store answers.

    Args:
        uri: ``sqlite:///path/mlflow.db``, ``http(s)://host:port`` of an MLflow server, or any other
            database URI that MLflow knows.
        create: Make a SQLite file, and the folders to it, where there is none yet.

    Raises:
        StoreUnavailable: in one sentence, within seconds. MLflow alone retries for many minutes.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow's own minutes of repetition only hide an outage, from a person and from the courier.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    # Standard output belongs to the command line, which ends it with one line of JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow and Alembic announce each table that a new store gets, urllib3 each attempt that fails.
    for name, level in (("mlflow", "WARNING"), ("alembic", "WARNING"), ("urllib3", "ERROR")):
        logging.getLogger(name).setLevel(level)
    if uri.startswith(("http://", "https://")):
        _ask_server(uri)
    else:
        _ask_database(uri, create=create)
    try:
        with _one_migration(uri) if create else nullcontext():
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = redact(str(error))
        raise StoreUnavailable(f"the MLflow store {redact(uri)} refused: {reason}") from error
    return client


def open_experiment(client: MlflowClient, name: str, location: str | None) -> Experiment:
    """The experiment of that name, made with that artifact location if it is new.

    Raises:
        StoreUnavailable: It was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            client.create_experiment(name, location)
        except MlflowException as error:
            # Another process may have made it since we looked.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)
    assert found is not None
    if found.lifecycle_stage == "deleted":
        raise StoreUnavailable(
            f"the MLflow experiment {name!r} was deleted: restore it with `mlflow experiments "
            f"restore --experiment-id {found.experiment_id}` or set tracking.experiment to another "
            "name"
        )
    return found


def artifact_location(uri: str, artifacts: str | None) -> str | None:
    """Where the artifacts of a new experiment go, absolute; None leaves it to the server."""
    if artifacts is None:
        if not uri.startswith(SQLITE):
            return None
        return str(sqlite_file(uri).parent / "artifacts")
    return artifacts if "://" in artifacts else str(Path(artifacts).resolve())


def local_path(artifact_uri: str) -> Path | None:
    """The folder behind an artifact URI, or None where artifacts lie on another machine."""
    if "://" not in artifact_uri and not re.match(r"[a-z-]{2,}:", artifact_uri):
        return Path(artifact_uri)
    if artifact_uri.startswith("file:"):
        return Path(unquote(urlsplit(artifact_uri).path))
    return None


def spool_folder(run_id: str) -> Path:
    """Where this machine keeps what a run logs until its store has it, absolute."""
    return Path(STAGING, run_id, "spool").resolve()


def staged_artifacts(run_id: str) -> Path:
    """Where this machine keeps the artifacts of a run that have to be uploaded, absolute."""
    return Path(STAGING, run_id, "artifacts").resolve()


def logged_steps(client: MlflowClient, run: Run) -> dict[str, list[int]]:
    """The steps of the points of each metric in a store, and of images under ``image:KEY``."""
    run_id = run.info.run_id
    steps = {
        key: [point.step for point in client.get_metric_history(run_id, key)]
        for key in run.data.metrics
    }
    for item in client.list_artifacts(run_id, "images"):
        name, _, rest = Path(item.path).name.partition("+step+")
        if rest.endswith(".png"):
            key = f"image:{name.replace('~', '/')}"
            steps.setdefault(key, []).append(int(rest.partition("+")[0]))
    return steps


def sqlite_file(uri: str) -> Path:
    """The file behind a ``sqlite:///`` URI, absolute."""
    return Path(uri.removeprefix(SQLITE)).resolve()


def redact(text: str) -> str:
    """``text`` without the user names and passwords of the URLs in it."""
    return re.sub(USER, "://***@", text)


def _one_migration(uri: str) -> AbstractContextManager[object]:
    """Two jobs that meet a new SQLite file would both make its tables, and one would fail."""
    return FileLock(f"{sqlite_file(uri)}.lock") if uri.startswith(SQLITE) else nullcontext()


def _ask_server(uri: str) -> None:
    try:
        address = re.sub(USER, "://", uri)  # which urllib takes for a part of the host's name
        urlopen(f"{address.rstrip('/')}/health", timeout=10).close()
    except HTTPError:
        return  # any answer is an answer: it may want a password, which MLflow will send
    except (OSError, ValueError) as error:
        if isinstance(error, URLError) and isinstance(error.reason, ssl.SSLError):
            return  # MLflow has settings of its own for certificates
        raise StoreUnavailable(
            f"no MLflow server answers at {redact(uri)}: start it, or set tracking.uri to another "
            "store such as sqlite:///mlruns/mlflow.db"
        ) from error


def _ask_database(uri: str, *, create: bool) -> None:
    statement = "SELECT 1"
    if uri.startswith(SQLITE):
        path = sqlite_file(uri)
        statement = "PRAGMA schema_version"  # reads the file, which opening it does not
        if create:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreUnavailable(
                    f"the folder of the MLflow store {path} cannot be made: {error}"
                ) from error
        elif not path.is_file():
            raise StoreUnavailable(f"there is no MLflow store at {path}: a first run makes it")
    try:
        engine = sqlalchemy.create_engine(uri)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()
    except ModuleNotFoundError as error:
        raise StoreUnavailable(
            f"the MLflow store {redact(uri)} needs the Python module {error.name}: install it "
            "(for postgresql+psycopg2:// URIs: pip install 'lit_imgproc[server]')"
        ) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        raise StoreUnavailable(
            f"the MLflow store {redact(uri)} cannot be opened: {redact(reason)}"
        ) from error
