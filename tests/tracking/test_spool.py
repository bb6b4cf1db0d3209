import json
import math
import multiprocessing
import os
import signal

import pytest

from lit_imgproc.tracking import spool as spool_module
from lit_imgproc.tracking.lock import FolderInUse
from lit_imgproc.tracking.spool import Header, Spool, SpoolError

HEADER = Header("0" * 32, "sqlite:///x.db", remote=False)


def metrics(step, **values):
    return {"op": "metrics", "time": 1000 + step, "step": step, "values": values or {"loss": 0.5}}


def tag(value):
    return {"op": "tag", "time": 0, "key": "monitor", "value": value}


def deliver(spool, most=1000):
    """Everything that waits, in order."""
    ops = []
    while entries := spool.read(most):
        ops += [entry.op for entry in entries]
        spool.mark(entries)
    return ops


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "spool"


@pytest.fixture
def spool(folder):
    spool = Spool(folder, HEADER)
    yield spool
    spool.close()


def test_writes_come_back_once_and_in_order(spool):
    ops = [metrics(0), tag("a"), metrics(1, loss=1.0, accuracy=0.5), metrics(2)]
    for op in ops[:3]:
        spool.append(op)
    assert spool.waiting == {"metrics": 3, "tag": 1}
    assert deliver(spool, most=2) == ops[:3]
    spool.append(ops[3])
    assert deliver(spool) == ops[3:]
    assert deliver(spool) == []
    assert +spool.waiting == {}
    assert spool.points == {"loss": 3, "accuracy": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 5e-324, 1 / 3])
def test_every_float_comes_back_as_it_was(spool, value):
    spool.append(metrics(0, loss=value))
    [op] = deliver(spool)
    assert op["values"]["loss"] == pytest.approx(value, abs=0, rel=0, nan_ok=True)


def test_a_long_line_among_many_is_read_whole(spool, monkeypatch):
    monkeypatch.setattr(spool_module, "CHUNK", 100)
    ops = [metrics(0), tag("x" * 1000), metrics(1)]
    for op in ops:
        spool.append(op)
    assert deliver(spool) == ops


def test_what_was_not_marked_is_there_when_it_is_opened_again(folder):
    spool = Spool(folder, HEADER)
    for step in range(10):
        spool.append(metrics(step))
    spool.mark(spool.read(4))
    spool.close()
    again = Spool(folder)
    assert (again.header, again.waiting) == (HEADER, {"metrics": 6})
    assert [op["step"] for op in deliver(again)] == list(range(4, 10))
    assert again.points == {"loss": 10}
    again.close()


def test_a_lost_position_means_that_all_is_delivered_once_more(folder):
    spool = Spool(folder, HEADER)
    spool.append(metrics(0))
    spool.append(metrics(1))
    spool.mark(spool.read(1))
    spool.close()
    (folder / "delivered").write_text("")
    again = Spool(folder)
    assert [op["step"] for op in deliver(again)] == [0, 1]
    again.close()


def test_a_line_that_was_being_written_is_cut_off(folder):
    spool = Spool(folder, HEADER)
    spool.append(metrics(0))
    spool.close()
    with (folder / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"op":"metrics","ti')
    again = Spool(folder)
    again.append(metrics(1))
    assert [op["step"] for op in deliver(again)] == [0, 1]
    assert again.points == {"loss": 2}
    again.close()


def test_a_damaged_line_is_told_as_such_and_hides_no_other(folder):
    spool = Spool(folder, HEADER)
    spool.append(metrics(0))
    spool.close()
    with (folder / "journal.jsonl").open("ab") as journal:
        journal.write(b"\0" * 10 + b"\n")
    again = Spool(folder)
    again.append(metrics(1))
    assert [op["op"] for op in deliver(again)] == ["metrics", "damaged", "metrics"]
    again.close()


@pytest.mark.parametrize(
    ("first", "sentence"),
    [("", "cannot be read"), ('{"format": 0}', "another version"), ("[]", "delete the folder")],
)
def test_a_journal_that_cannot_be_read_is_one_sentence(folder, first, sentence):
    Spool(folder, HEADER).close()
    (folder / "journal.jsonl").write_text(f"{first}\n")
    for _ in range(2):  # and it is not locked by the first attempt
        with pytest.raises(SpoolError, match=sentence):
            Spool(folder)


def test_a_new_journal_does_not_heed_the_position_of_an_older_one(folder):
    folder.mkdir(parents=True)
    (folder / "delivered").write_text("1000000")
    spool = Spool(folder, HEADER)
    spool.append(metrics(0))
    spool.close()
    again = Spool(folder)
    assert deliver(again) == [metrics(0)]
    again.close()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(SpoolError, match="cannot be opened"):
        Spool(tmp_path / "run" / "spool", HEADER)


def test_a_delivered_journal_begins_anew_and_keeps_its_counts(spool, folder):
    for step in range(100):
        spool.append(metrics(step))
    spool.append({"op": "status", "time": 0, "status": "KILLED"})
    spool.compact(0)
    assert len((folder / "journal.jsonl").read_text().splitlines()) == 102  # not delivered yet
    deliver(spool)
    spool.compact()
    assert len((folder / "journal.jsonl").read_text().splitlines()) == 102  # small enough
    spool.compact(0)
    [line] = (folder / "journal.jsonl").read_text().splitlines()
    assert json.loads(line)["points"] == {"loss": 100}
    spool.append(metrics(100))
    spool.close()
    again = Spool(folder)
    assert (again.points, again.status) == ({"loss": 101}, "KILLED")
    assert again.steps == {"loss": 100}
    assert [op["step"] for op in deliver(again)] == [100]
    again.close()


def test_a_crash_between_a_new_journal_and_its_position_loses_nothing(spool, folder):
    spool.append(metrics(0))
    before = (folder / "delivered").read_text() if (folder / "delivered").exists() else "0"
    deliver(spool)
    spool.compact(0)
    spool.append(metrics(1))
    spool.close()
    (folder / "delivered").write_text(before)
    again = Spool(folder)
    assert [op["step"] for op in deliver(again)] == [1]
    again.close()


def refuse_writes(monkeypatch, refusing, partly):
    """A disk that is full while ``refusing`` is not empty; it may take the begin of a line."""
    write = os.write

    def full(file, data):
        if not refusing:
            return write(file, data)
        if partly:
            return write(file, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool_module.os, "write", full)


@pytest.mark.parametrize("partly", [False, True])
def test_a_full_disk_keeps_writes_in_memory_in_order(spool, folder, monkeypatch, caplog, partly):
    refusing = []
    refuse_writes(monkeypatch, refusing, partly)
    spool.append(metrics(0))
    refusing.append(True)
    for step in range(1, 5):
        spool.append(metrics(step))
    assert [record.getMessage() for record in caplog.records] == [
        f"the spool {folder} cannot be written (No space left on device): what is logged waits in "
        "memory and is lost if the process is killed"
    ]
    spool.mark(spool.read(1))
    read = spool.read(2)  # from memory
    refusing.clear()
    spool.append(metrics(5))  # all go to disk, the two that are being delivered too
    spool.mark(read)
    assert [op["step"] for op in deliver(spool)] == [3, 4, 5]
    assert len((folder / "journal.jsonl").read_text().splitlines()) == 7


def test_what_was_delivered_from_memory_is_counted_on_disk_as_soon_as_it_has_room(
    spool, folder, monkeypatch
):
    refusing = [True]
    refuse_writes(monkeypatch, refusing, partly=False)
    spool.append(metrics(0))
    assert deliver(spool) == [metrics(0)]
    refusing.clear()
    spool.compact()
    spool.close()
    again = Spool(folder)
    assert again.points == {"loss": 1}
    again.close()


def test_beyond_the_limit_points_are_dropped_and_counted_and_all_else_is_taken(
    spool, folder, monkeypatch, caplog
):
    monkeypatch.setattr(spool_module, "LIMIT", 500)
    for step in range(100):
        spool.append(metrics(step))
    spool.append(tag("still taken"))
    for step in range(100, 110):
        spool.append(metrics(step))
    assert caplog.text.count("metric points are dropped") == 1
    ops = deliver(spool)
    taken = [op["step"] for op in ops if op["op"] == "metrics"]
    assert taken == list(range(len(taken)))
    first, second = (op for op in ops if op["op"] == "dropped")
    assert (first["total"], second["total"]) == (100 - len(taken), 110 - len(taken))
    assert ops[-2:] == [tag("still taken"), second]
    assert spool.points == {"loss": 110}
    spool.append(metrics(110))
    spool.close()
    again = Spool(folder)
    assert (again.points, again.dropped) == ({"loss": 111}, 110 - len(taken))
    assert [op["step"] for op in deliver(again)] == [110]
    again.close()


def test_a_spool_is_open_once(spool, folder):
    with pytest.raises(FolderInUse, match="still training"):
        Spool(folder)
    spool.close()
    Spool(folder).close()


def _hold(folder, ready):
    Spool(folder).append(metrics(0))
    if os.fork() == 0:  # as a loader's worker, which outlives its killed parent
        ready.send(os.getpid())
        signal.pause()
    signal.pause()


def test_a_living_process_locks_it_and_a_killed_one_does_not(spool, folder):
    spool.close()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(folder, there))
    process.start()
    worker = here.recv()
    try:
        with pytest.raises(FolderInUse):
            Spool(folder)
        process.kill()
        process.join()
        again = Spool(folder)
        assert deliver(again) == [metrics(0)]
        again.close()
    finally:
        os.kill(worker, signal.SIGKILL)
