"""Several ranks of one experiment on this machine, each a process with the same frozen recipe."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
import torch
import yaml

from lit_imgproc.errors import UserError
from lit_imgproc.signals import ENDING, install

if TYPE_CHECKING:
    from lit_imgproc.recipes.experiment import Origin
    from lit_imgproc.recipes.resume import Resumption


_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)
_PR_SET_PDEATHSIG = 1


class RankFailed(Exception):
    """A training on several ranks ended early; the ranks have said why."""

    def __init__(self, outcome: "Outcome") -> None:
        where = f"run {outcome.run_id} holds the traceback"
        if outcome.run_id is None:
            where = "no run was begun"
        elif outcome.traceback is None:
            where = f"run {outcome.run_id} has no traceback: a rank was killed"
        super().__init__(f"a rank ended with exit code {outcome.code}; {where}")
        self.code = outcome.code


@dataclass(frozen=True)
class Outcome:
    """How the ranks ended.

    Args:
        run_id: the run, if one was begun.
        code: 0, or what the first rank or else torchrun ended with.
        told: the signal that this process was sent and passed on.
        traceback: of the rank that failed first.
    """

    run_id: str | None
    code: int
    told: int | None
    traceback: str | None


def asked(options: dict[str, Any]) -> int:
    """How many ranks ``trainer.devices`` asks for on this machine."""
    devices = options.get("devices", "auto")
    if isinstance(devices, str) and devices not in ("auto", "-1"):
        devices = [d for d in devices.split(",") if d.strip()] if "," in devices else int(devices)
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", "-1", -1):
        gpus = torch.cuda.device_count() if options.get("accelerator") != "cpu" else 0
        return max(1, gpus)
    return int(devices)


def launch(
    frozen: dict[str, Any], count: int, origin: "Origin", resumption: "Resumption | None" = None
) -> Outcome:
    """Start the ranks and wait for them.

    Signals that ask this process to end are passed on to the ranks, which end together and mark
    the run themselves.

    Raises:
        UserError: several nodes are asked for; they cannot be started from one.
    """
    if int(frozen["trainer"].get("num_nodes") or 1) > 1:
        raise UserError(
            "trainer.num_nodes is above 1: write the frozen recipe with "
            "`lit-imgproc check RECIPE --frozen frozen.yaml` and start "
            "`torchrun … -m lit_imgproc.worker frozen.yaml` on every node"
        )
    with tempfile.TemporaryDirectory(prefix="lit_imgproc-") as folder:
        recipe, result = Path(folder, "frozen.yaml"), Path(folder, "result.json")
        recipe.write_text(yaml.safe_dump(frozen, sort_keys=False))
        note = json.dumps(asdict(origin), default=str)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={count}", "-m", "lit_imgproc.worker", str(recipe)]
        command += ["--origin", note, "--result", str(result)]
        if resumption is not None:
            command += ["--resume", str(resumption.checkpoint or resumption.run_id)]
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)), **os.environ}
        # A session of their own: Ctrl-C in a terminal reaches them through this process alone.
        # torchrun itself passes signals on too, but kills the ranks half a minute later.
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, preexec_fn=_end_with_parent
        )
        told = _pass_signals_on(process)
        ended = json.loads(result.read_text()) if result.exists() else {}
        failures = sorted(Path(folder).glob("traceback-*.txt"), key=lambda f: f.stat().st_mtime_ns)
        code = process.wait()
        return Outcome(
            run_id=ended.get("run_id"),
            code=ended.get("code", code) if code else 0,
            told=told,
            traceback=failures[0].read_text() if failures else None,
        )


def _end_with_parent() -> None:
    """Let Linux send SIGTERM to torchrun when this process dies; else the ranks would go on."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _pass_signals_on(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for torchrun; what this process is told meanwhile is told to the ranks below it."""
    told: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.append(number)
        ranks = psutil.Process(process.pid).children()
        for rank in ranks:
            rank.send_signal(number)
        if not ranks:  # not started yet
            process.terminate()

    if threading.current_thread() is not threading.main_thread():
        process.wait()
        return None
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        install(number, pass_on)
    try:
        process.wait()
    finally:
        for number, handler in before.items():
            install(number, handler)
    return told[0] if told else None
