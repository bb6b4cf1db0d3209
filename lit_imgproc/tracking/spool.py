"""What a run logs, on disk from the moment it is logged until the store has taken it."""

import errno
import json
import logging
import os
import shutil
import threading
from collections import Counter, deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lit_imgproc.errors import UserError
from lit_imgproc.tracking.lock import FolderLock
from lit_imgproc.tracking.ops import Op, parse, points, weight

log = logging.getLogger(__name__)

FORMAT = 1
SEGMENT = 16 * 2**20  # bytes; a longer journal begins anew as soon as all of it is delivered
LIMIT = 256 * 2**20  # bytes that may wait; beyond them metric points are dropped
CHUNK = 2**20  # bytes that are read at once


class SpoolError(UserError):
    """The spool of a run cannot be read."""


@dataclass(frozen=True)
class Header:
    """The first line of a journal.

    Args:
        run_id: The run.
        uri: Its store, without user name and password.
        remote: Whether its artifacts have to be uploaded.
        points: How many points of each key were logged before this journal begins.
        steps: The last step of each of these keys.
        start: Bytes of writes that were delivered before this journal begins.
        dropped: Points that were dropped before this journal begins.
        status: Final status that the run has been given, None while it is RUNNING.
        format: Version of what this docstring says.
    """

    run_id: str
    uri: str
    remote: bool
    points: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    start: int = 0
    dropped: int = 0
    status: str | None = None
    format: int = FORMAT


class Entry(NamedTuple):
    """An undelivered write, and its bytes in the journal."""

    op: Op
    size: int


class Spool:
    """A journal of writes that outlives the process, and how much of it is delivered.

    ``journal.jsonl`` is a header and then a JSON line a write, appended with one system call, so
    that a process that is killed has it on disk (of a power cut the last seconds may be lost). A
    line that was being written at that moment is cut off when the journal is opened again.
    ``delivered`` is the number of bytes that the store has taken. It is saved after they were
    taken, so that after a crash the last writes may be delivered again: they must bear that.

    While the disk takes no more, writes wait in memory. When more than ``LIMIT`` bytes wait,
    metric points are dropped and counted, in the journal too; other writes are still taken.

    Args:
        folder: The spool's own folder.
        new: Makes a new spool, with this header. None opens the one that is there.

    Raises:
        FolderInUse: Another process, or another object of this one, has it open.
        SpoolError: It cannot be read.
    """

    def __init__(self, folder: Path, new: Header | None = None) -> None:
        self.folder = folder.resolve()
        self._path = self.folder / "journal.jsonl"
        self._file = -1
        self._header_size = self._delivered = 0
        self.header: Header
        self.points: Counter[str] = Counter()
        """How many points of each key were ever logged."""
        self.steps: dict[str, int] = {}
        """The last step of each of these keys."""
        self.dropped = 0
        self.status: str | None = None
        self._mutex = threading.RLock()  # a signal handler may log, too
        self._held: deque[bytes] = deque()  # lines that the disk did not take
        self._held_bytes = 0
        self._lost: Counter[str] = Counter()  # dropped points that no line tells of yet
        self._warned: set[str] = set()
        self._unsaved = False  # whether something was delivered that no line tells of
        self.waiting: Counter[str] = Counter()
        """Undelivered writes of each kind; of metrics, their points."""
        self.appended = self.marked = 0
        """Writes that were taken and delivered, counted since the spool was opened."""
        try:
            if new is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder)
        except OSError as error:
            raise SpoolError(f"the spool {self.folder} cannot be opened: {error}") from error
        try:
            if new is not None:
                os.close(self._begin(new)[0])
                _replace(self.folder / "delivered", str(new.start).encode())
            self._open()
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._lock.release()
            raise SpoolError(
                f"the spool {self.folder} cannot be read ({error}): delete the folder to go on "
                "from what the store has"
            ) from error

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a spool in ``folder``."""
        return (folder / "journal.jsonl").is_file()

    # Writing -------------------------------------------------------------------------------------

    def append(self, op: Op) -> None:
        """Take a write. It never raises; what the disk refuses waits in memory."""
        with self._mutex:
            if op["op"] == "metrics" and self._undelivered() > LIMIT:
                self._drop(op)
                return
            if self._lost:
                self._admit()
            self._take(op)

    def _take(self, op: Op) -> None:
        line = json.dumps(op, separators=(",", ":")).encode() + b"\n"
        self._held.append(line)
        self._held_bytes += len(line)
        self._note(op)
        self._wait_for(op)
        self._write_held()

    def _write_held(self) -> None:
        """Bring lines from memory to the journal: usually the one that has just come."""
        while self._held:
            line, end = self._held.popleft(), self._end()
            try:
                if os.write(self._file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._held.appendleft(line)
                with suppress(OSError):
                    os.ftruncate(self._file, end)
                self._warn(
                    f"the spool {self.folder} cannot be written ({error.strerror}): what is logged "
                    "waits in memory and is lost if the process is killed"
                )
                return
            self._held_bytes -= len(line)

    def _drop(self, op: Op) -> None:
        self.points.update(points(op))
        self._lost.update(points(op))
        self._warn(
            f"more than {LIMIT // 2**20} MiB wait for the store in {self.folder}: metric points "
            "are dropped until some of it is delivered"
        )

    def _admit(self) -> None:
        """Write down which points were dropped."""
        lost, self._lost = self._lost, Counter()
        self.points.subtract(lost)  # they are counted again with the line
        total = self.dropped + lost.total()
        self._take({"op": "dropped", "points": dict(lost), "total": total})

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            log.warning("%s", sentence)

    # Delivering ----------------------------------------------------------------------------------

    def read(self, most: int) -> list[Entry]:
        """The oldest undelivered writes, at most ``most``."""
        with self._mutex:
            if self._file < 0:
                return []
            if self._lost and self._undelivered() <= LIMIT:
                self._admit()
            self._write_held()
            if self._delivered == self._logical_end():
                return [Entry(json.loads(line), len(line)) for line in list(self._held)[:most]]
            start, end = self._offset(self._delivered), self._end()
            lines = self._lines(start, end)[:most]
        return [Entry(parse(line), len(line)) for line in lines]

    def mark(self, entries: list[Entry]) -> None:
        """Note that the first undelivered writes, which were read before, are delivered."""
        with self._mutex:
            if self._file < 0:
                return
            size = sum(entry.size for entry in entries)
            on_disk = min(size, self._logical_end() - self._delivered)
            self._delivered += on_disk
            while size > on_disk:
                line = self._held.popleft()
                self._held_bytes -= len(line)
                size -= len(line)
                self._unsaved = True
            for entry in entries:
                self.waiting[entry.op["op"]] -= weight(entry.op)
            self.marked += len(entries)
            _replace(self.folder / "delivered", str(self._delivered).encode())

    def compact(self, least: int = SEGMENT) -> None:
        """Begin the journal anew if all is delivered and it has at least ``least`` bytes."""
        with self._mutex:
            if self._undelivered() or self._lost:
                return
            if self._end() < least and not self._unsaved:
                return
            header = Header(
                self.header.run_id,
                self.header.uri,
                self.header.remote,
                dict(self.points),
                dict(self.steps),
                self._delivered,
                self.dropped,
                self.status,
            )
            with suppress(OSError):  # a full disk: another time
                file, size = self._begin(header)
                os.close(self._file)
                self.header, self._header_size, self._file = header, size, file
                self._unsaved = False

    def close(self) -> None:
        """Let other processes open it. What is undelivered stays; later calls do nothing."""
        with self._mutex:
            if self._file >= 0:
                if self._lost:
                    self._admit()
                self.compact(0)
                os.close(self._file)
                self._file = -1
                self._lock.release()

    def remove(self) -> None:
        """Close and delete it, and the artifacts that were staged beside it."""
        self.close()
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    # The file ------------------------------------------------------------------------------------

    def _begin(self, header: Header) -> tuple[int, int]:
        """Put a journal of only ``header`` in place; its open file, and the header's bytes."""
        line = json.dumps(asdict(header)).encode() + b"\n"
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(line)
        file = os.open(temporary, os.O_RDWR | os.O_APPEND)
        os.replace(temporary, self._path)
        return file, len(line)

    def _open(self) -> None:
        with self._path.open("rb") as journal:
            first = journal.readline()
            values = json.loads(first)
            if values["format"] != FORMAT:
                raise ValueError("another version of lit_imgproc wrote it")
            self.header = Header(**values)
            self._header_size = len(first)
            self._delivered = self._saved_position()
            self.points.update(self.header.points)
            self.steps.update(self.header.steps)
            self.dropped, self.status = self.header.dropped, self.header.status
            position = self._read_accounts(journal)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND)
        os.ftruncate(self._file, position)  # of a line that was being written
        self._delivered = min(self._delivered, self._logical_end())

    def _read_accounts(self, journal: BinaryIO) -> int:
        """Go through the writes of a journal; returns where the last whole line ends."""
        position, delivered = self._header_size, self._offset(self._delivered)
        for line in journal:
            if not line.endswith(b"\n"):
                break
            op = parse(line)
            self._note(op)
            if position >= delivered:
                self._wait_for(op)
            position += len(line)
        return position

    def _saved_position(self) -> int:
        """What is delivered. Where that was not saved, all is delivered once more."""
        try:
            saved = int((self.folder / "delivered").read_text())
        except (OSError, ValueError):
            saved = 0
        return max(saved, self.header.start)

    def _lines(self, start: int, end: int) -> list[bytes]:
        """Whole lines of the journal from ``start``, some ``CHUNK`` bytes of them."""
        size = CHUNK
        while True:
            data = os.pread(self._file, min(size, end - start), start)
            whole = data.rfind(b"\n") + 1
            if whole or start + size >= end:
                return data[:whole].splitlines(keepends=True)
            size *= 2  # one line is longer than that

    def _end(self) -> int:
        return os.fstat(self._file).st_size

    def _logical_end(self) -> int:
        return self.header.start + self._end() - self._header_size

    def _offset(self, delivered: int) -> int:
        return self._header_size + delivered - self.header.start

    def _undelivered(self) -> int:
        return self._logical_end() - self._delivered + self._held_bytes

    # Accounts ------------------------------------------------------------------------------------

    def _note(self, op: Op) -> None:
        held = points(op)
        self.points.update(held)
        if "step" in op:
            for key in held:
                self.steps[key] = max(op["step"], self.steps.get(key, op["step"]))
        if op["op"] == "dropped":
            self.dropped = op["total"]
        elif op["op"] == "status":
            self.status = None if op["status"] == "RUNNING" else op["status"]

    def _wait_for(self, op: Op) -> None:
        self.waiting[op["op"]] += weight(op)
        self.appended += 1


def _replace(path: Path, content: bytes) -> None:
    """Replace a small file; where that fails, the old one stays."""
    temporary = path.with_name(f"{path.name}.tmp")
    with suppress(OSError):
        temporary.write_bytes(content)
        os.replace(temporary, path)
