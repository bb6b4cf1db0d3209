"""The store of the runs, and the disks that they and the data lie on."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import mlflow

from lit_imgproc.launch.checks import Check, Status
from lit_imgproc.recipes.run import default_store
from lit_imgproc.tracking.store import SQLITE, StoreUnavailable, open_client, redact, sqlite_file
from lit_imgproc.tracking.sync import undelivered

GB = 10**9
LITTLE, NEXT_TO_NOTHING = 5 * GB, GB // 2
ELSEWHERE = "or record elsewhere: MLFLOW_TRACKING_URI, or tracking.uri in a recipe"


def store(uri: str | None) -> Iterator[Check]:
    """Whether the MLflow store answers and can be written to."""
    uri = uri or default_store()
    if uri.startswith(SQLITE):
        file = sqlite_file(uri)
        if not file.exists():
            yield _new_store(file)
            return
        if refusal := _refusal(file):
            yield refusal
            return
    try:
        client = open_client(uri, create=False)
        experiments = len(client.search_experiments(max_results=1000))
    except StoreUnavailable as error:
        yield Check("store", "problem", str(error), f"mend that, {ELSEWHERE}")
        return
    found = f"{redact(uri)}, {experiments} experiments"
    if uri.startswith(("http://", "https://")):
        yield _server(uri, found)
    else:
        yield Check("store", "ok", found)


def spool(uri: str | None) -> Iterator[Check]:
    """Whether runs of this folder have logged what their store has not got yet."""
    runs = undelivered()
    if not runs:
        yield Check("spool", "ok", "nothing waits to be delivered")
        return
    some = ", ".join(run[:8] for run in runs[:5]) + (", …" if len(runs) > 5 else "")
    yield Check("spool", "warning", f"not all delivered: {some}", "run `lit-imgproc sync`")


def disk(uri: str | None) -> Iterator[Check]:
    """Free space where runs, the generated data and the real data lie: a line a file system."""
    uri = uri or default_store()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_imgproc"
    places = {"data": Path(os.environ.get("LIT_IMGPROC_DATA", "data")), "toy data": cache}
    if uri.startswith(SQLITE):
        places = {"store and artifacts": sqlite_file(uri).parent} | places
    together: dict[int, dict[str, Path]] = {}
    for name, place in places.items():
        there = _existing(place)
        together.setdefault(there.stat().st_dev, {})[name] = there
    for names in together.values():
        free = shutil.disk_usage(next(iter(names.values()))).free
        status: Status = (
            "ok" if free >= LITTLE else "warning" if free >= NEXT_TO_NOTHING else "problem"
        )
        advice = (
            None if status == "ok" else "make room: a run keeps two checkpoints and its figures"
        )
        yield Check("disk", status, f"{free / GB:.1f} GB free for {', '.join(names)}", advice)


def _new_store(file: Path) -> Check:
    folder = _existing(file.parent)
    if os.access(folder, os.W_OK):
        return Check("store", "ok", f"none yet at {file}: the first run makes it")
    found = f"none yet at {file}, and {folder} cannot be written to"
    return Check("store", "problem", found, f"allow it, {ELSEWHERE}")


def _refusal(file: Path) -> Check | None:
    """Why a SQLite file cannot be written to now, if so. Takes its lock for a moment."""
    try:
        database = sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=1)
        with closing(database):
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.Error as error:
        if "locked" in str(error):
            advice = f"if it stays, end the process that `fuser {file}` names"
            return Check("store", "warning", f"{file} is locked: another process writes", advice)
        found = f"{file} cannot be written to: {error}"
        return Check("store", "problem", found, f"mend that, {ELSEWHERE}")
    if not os.access(file.parent, os.W_OK):
        found = f"{file.parent} cannot be written to, and artifacts go there"
        return Check("store", "problem", found, f"allow it, {ELSEWHERE}")
    return None


def _server(uri: str, found: str) -> Check:
    try:
        with urlopen(f"{uri.rstrip('/')}/version", timeout=10) as answer:
            version = answer.read(50).decode(errors="replace").strip()
    except OSError:  # behind a login, say
        return Check("store", "ok", f"{found}, on a server that does not say its version")
    found += f", on a server of MLflow {version}"
    if version.partition(".")[0] != mlflow.__version__.partition(".")[0]:
        advice = f"run the server with the MLflow that is here, {mlflow.__version__}"
        return Check("store", "warning", found, advice)
    return Check("store", "ok", found)


def _existing(place: Path) -> Path:
    """The nearest folder above, or the place itself, that is there."""
    place = place.resolve()
    return next(folder for folder in (place, *place.parents) if folder.is_dir())
