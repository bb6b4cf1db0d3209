"""Several ranks of one experiment on this machine, each a process with the same frozen recipe."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import yaml

from lit_imgproc.errors import UserError

if TYPE_CHECKING:
    from lit_imgproc.recipes.experiment import Origin


class RankFailed(Exception):
    """A training on several ranks ended early; the ranks have said why."""

    def __init__(self, code: int, run_id: str | None) -> None:
        where = f"run {run_id} holds the traceback" if run_id else "no run was begun"
        super().__init__(f"a rank ended with exit code {code}; {where}")
        self.code = code
        self.run_id = run_id


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


def launch(frozen: dict[str, Any], count: int, origin: "Origin") -> str:
    """Start the ranks, wait for them, and return the id of the run.

    Signals that ask this process to end are passed on to the ranks, which mark the run themselves.

    Raises:
        UserError: several nodes are asked for; they cannot be started from one.
        RankFailed: a rank ended with another exit code than 0.
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
        note = json.dumps({"source": str(origin.source), "command": origin.command})
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={count}", "-m", "lit_imgproc.worker", str(recipe)]
        command += ["--origin", note, "--result", str(result)]
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)), **os.environ}
        process = subprocess.Popen(command, env=environment)

        def pass_on(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        before = signal.signal(signal.SIGTERM, pass_on)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the ranks as well
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        run_id = json.loads(result.read_text())["run_id"] if result.exists() else None
        if code != 0 or run_id is None:
            raise RankFailed(code, run_id)
        return str(run_id)
