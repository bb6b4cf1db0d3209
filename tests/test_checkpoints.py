import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from lit_imgproc import checkpoints
from lit_imgproc.checkpoints import CheckpointError, DamagedCheckpoint

STATE = {"state_dict": {"weight": torch.arange(5000.0)}, "epoch": 3, "recipe": {"seed": 0}}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoints.write(STATE, path)
    return path


def same(one, other):
    assert one.keys() == other.keys()
    assert torch.equal(one["state_dict"]["weight"], other["state_dict"]["weight"])
    assert (one["epoch"], one["recipe"]) == (other["epoch"], other["recipe"])


def test_what_is_written_is_read_by_us_and_by_torch(written):
    same(checkpoints.read(written), STATE)
    same(torch.load(written, weights_only=True), STATE)
    same(torch.load(written, weights_only=True, mmap=True), STATE)
    assert [file.name for file in written.parent.iterdir()] == ["last.ckpt"]


def test_a_copy_is_verified_wherever_it_lies(written, tmp_path):
    copy = shutil.copy(written, tmp_path / "mine.ckpt")
    checkpoints.verify(copy)


@pytest.mark.parametrize("place", [0, 40, 1000, -80, -72, -1])
def test_one_changed_bit_is_damage(written, place):
    content = bytearray(written.read_bytes())
    content[place] ^= 1
    written.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"last\.ckpt is damaged"):
        checkpoints.read(written)


@pytest.mark.parametrize("left", [0, 1, 72, 73, 1000, -1])
def test_a_file_that_is_cut_off_is_damaged(written, left):
    written.write_bytes(written.read_bytes()[:left])
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        checkpoints.verify(written)


def test_what_is_no_checkpoint_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoints.read(tmp_path / "absent.ckpt")
    checkpoints.write({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint of a training"):
        checkpoints.read(tmp_path / "other.ckpt")


class Anything:
    pass


def test_other_objects_are_not_loaded(tmp_path):
    checkpoints.write({"state_dict": {}, "object": Anything()}, tmp_path / "last.ckpt")
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        checkpoints.read(tmp_path / "last.ckpt")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_a_sentence_and_leaves_the_old_one(written, monkeypatch, call, number):
    def full(*args):
        raise OSError(number, os.strerror(number))

    if call == "write":
        monkeypatch.setattr(checkpoints._Digested, "_pass_on", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=rf"{os.strerror(number)}.*--resume"):
        checkpoints.write({**STATE, "epoch": 4}, written)
    monkeypatch.undo()
    same(checkpoints.read(written), STATE)
    assert [file.name for file in written.parent.iterdir()] == ["last.ckpt"]


def test_an_error_of_ours_is_not_taken_for_a_full_disk(written):
    with pytest.raises(Exception, match="pickle"):
        checkpoints.write({"state_dict": {}, "function": lambda: None}, written)
    same(checkpoints.read(written), STATE)


WRITER = """
import sys, torch
from pathlib import Path
from lit_imgproc import checkpoints
print("ready", flush=True)
for epoch in range(10**6):
    weights = {str(k): torch.full((50_000,), float(epoch)) for k in range(20)}
    checkpoints.write({"state_dict": weights, "epoch": epoch}, Path(sys.argv[1]))
"""


def test_a_kill_while_writing_leaves_a_whole_one(tmp_path):
    path = tmp_path / "last.ckpt"
    process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    process.stdout.readline()
    seen = []
    while len(seen) < 20:  # what is read at any moment is whole, too
        if path.exists():
            seen.append(checkpoints.read(path)["epoch"])
        time.sleep(0.003)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = checkpoints.read(path)
    assert left["epoch"] >= seen[-1]
    assert all(torch.all(w == left["epoch"]) for w in left["state_dict"].values())


def test_the_newest_whole_one_is_found_and_damaged_ones_are_named(tmp_path, caplog):
    names = ["last.ckpt", *(f"last-{age}.ckpt" for age in range(1, 12))]
    for name in names:
        checkpoints.write(STATE, tmp_path / name)
    checkpoints.write(STATE, tmp_path / "best.ckpt")
    files = checkpoints.last(tmp_path)
    assert [file.name for file in files] == names
    assert checkpoints.newest_whole(files).name == "last.ckpt"
    for name in names[:2]:
        (tmp_path / name).write_bytes(b"")
    assert checkpoints.newest_whole(files).name == "last-2.ckpt"
    assert [name in caplog.text for name in ("last.ckpt", "last-1.ckpt", "last-2.ckpt")] == [
        True, True, False,
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=r"last\.ckpt is damaged.*last-11\.ckpt is dam"):
        checkpoints.newest_whole(files)
