"""Delivering what processes left in their spools when they ended or were killed."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lit_imgproc.errors import UserError
from lit_imgproc.tracking.courier import Courier
from lit_imgproc.tracking.lock import FolderInUse
from lit_imgproc.tracking.ops import described
from lit_imgproc.tracking.spool import Spool, SpoolError
from lit_imgproc.tracking.store import (
    STAGING,
    StoreUnavailable,
    open_client,
    redact,
    staged_artifacts,
)
from lit_imgproc.tracking.writer import Writer

PATIENCE = 30.0  # seconds without an answer after which a store is given up


@dataclass(frozen=True)
class Delivery:
    """What became of a spool.

    Args:
        run_id: Its run.
        status: The final status that was logged, None if the run has not ended.
        delivered: Writes that the store took now, by kind; of ``metrics``, their points.
        left: Writes that still wait.
        refused: Writes that the store refused for good, and that are gone.
        live: Whether the process of the run is alive, and delivers them itself.
        trouble: Why something is left, or why the spool cannot be read.
    """

    run_id: str
    status: str | None = None
    delivered: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    live: bool = False
    trouble: str = ""

    def __str__(self) -> str:
        run = self.run_id[:8]
        if self.live:
            return f"{run}: its process is alive and delivers it itself"
        parts = [f"{run}: delivered {described(Counter(self.delivered))}"]
        if self.refused:
            parts.append(f"the store refused {described(Counter(self.refused))}, dropped")
        if self.left:
            parts.append(f"{described(Counter(self.left))} left")
        if self.trouble:
            parts.append(self.trouble)
        elif self.status is None:
            parts.append(f"it has not ended, go on with `lit-imgproc train --resume {run}`")
        else:
            parts.append(f"{self.status}, nothing is left")
        return "; ".join(parts)


def sync(run: str | None, uri: str | None) -> list[Delivery]:
    """Deliver the spools of the working folder whose processes are gone, one after another.

    Runs that have ended and have nothing to deliver are not mentioned unless asked for. No run is
    given a status but the one that its process logged.

    Args:
        run: A run id or its first characters. None: all.
        uri: The store of all of them. None: what each spool says; where a user name belongs to
            it, which is in no spool, ``MLFLOW_TRACKING_URI``.

    Raises:
        UserError: No spool, or more than one, is that of ``run``.
    """
    folders = [folder for folder in _spools() if folder.parent.name.startswith(run or "")]
    if run is not None and len(folders) != 1:
        found = ", ".join(folder.parent.name for folder in folders) or "none"
        raise UserError(
            f"{run!r} should begin the id of one run of those that wait in {STAGING}, there it "
            f"begins: {found}. A run that is finished and delivered waits no more"
        )
    stores = _Stores(uri)
    deliveries = []
    for folder in folders:
        try:
            spool = Spool(folder)
        except FolderInUse:
            deliveries.append(Delivery(folder.parent.name, live=True))
        except SpoolError as error:
            deliveries.append(Delivery(folder.parent.name, trouble=str(error)))
        else:
            if run is not None or spool.status is None or spool.waiting.total():
                deliveries.append(_deliver(spool, stores))
            spool.close()
    return deliveries


def undelivered() -> list[str]:
    """The runs of the working folder whose processes are gone and have left something to deliver.

    A spool that cannot be read counts.
    """
    found = []
    for folder in _spools():
        try:
            spool = Spool(folder)
        except FolderInUse:
            continue
        except SpoolError:
            found.append(folder.parent.name)
            continue
        if spool.waiting.total():
            found.append(folder.parent.name)
        spool.close()
    return found


def _spools() -> list[Path]:
    return sorted(path.parent for path in Path(STAGING).glob("*/spool/journal.jsonl"))


class _Stores:
    """Clients by address, so that a store that is away is asked once for all its runs."""

    def __init__(self, uri: str | None) -> None:
        self._uri = uri
        self._found: dict[str, MlflowClient | StoreUnavailable] = {}

    def client(self, spool: Spool) -> MlflowClient:
        """The client of a spool's store, which has answered."""
        uri = self._uri or spool.header.uri
        if "://***@" in uri:
            uri = os.environ.get("MLFLOW_TRACKING_URI", "")
            if redact(uri) != spool.header.uri:
                raise StoreUnavailable(
                    f"its store is {spool.header.uri}: give that with its user name and password, "
                    "as --uri or in MLFLOW_TRACKING_URI"
                )
        if uri not in self._found:
            try:
                self._found[uri] = open_client(uri, create=False)
            except StoreUnavailable as error:
                self._found[uri] = error
        found = self._found[uri]
        if isinstance(found, StoreUnavailable):
            raise found
        return found


def _deliver(spool: Spool, stores: _Stores) -> Delivery:
    run_id, before = spool.header.run_id, +spool.waiting
    if not before:
        return Delivery(run_id, spool.status)
    try:
        client = stores.client(spool)
        if client.get_run(run_id).info.lifecycle_stage == "deleted":
            raise StoreUnavailable(f"the run was deleted, restore it or delete {spool.folder}")
    except (StoreUnavailable, MlflowException) as error:
        return Delivery(run_id, spool.status, left=dict(before), trouble=redact(str(error)))
    staging = staged_artifacts(run_id) if spool.header.remote else None
    courier = Courier(spool, Writer(client, run_id, staging).write)
    complete = courier.close(PATIENCE)
    left = +spool.waiting
    if complete and spool.status == "FINISHED" and not courier.refused:
        spool.remove()
    return Delivery(
        run_id,
        spool.status,
        delivered=dict(before - left - courier.refused),
        left=dict(left),
        refused=dict(courier.refused),
        trouble="" if complete else courier.trouble or f"no answer for {PATIENCE:.0f} s",
    )
