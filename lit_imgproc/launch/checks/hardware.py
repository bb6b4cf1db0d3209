"""Cores, memory and GPUs, and the job that grants them."""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pynvml
import torch

from lit_imgproc.launch import machine
from lit_imgproc.launch.checks import Check, Status
from lit_imgproc.recipes.memory import GIB, main_memory

SHARED = Path("/dev/shm")
LITTLE_MEMORY, LITTLE_SHARED = 2 * GIB, 1 * GIB
JOBS = {
    "SLURM": ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK"),
    "torchrun": ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"),
}
"""The variables by which a job shows, the first of each always, and what they say of it."""


def cpu() -> Iterator[Check]:
    """Cores, and whether threads of several processes will get in each other's way."""
    count, granted = machine.cores()
    threads = os.environ.get("OMP_NUM_THREADS")
    found = f"{count} of {os.cpu_count()} cores, OMP_NUM_THREADS {threads or 'not set'}"
    if granted < count:
        found += f", of which {granted:g} may be busy"
        advice = f"set OMP_NUM_THREADS={max(1, int(granted))}: more threads are halted in turn"
        yield Check("cpu", "ok" if threads else "warning", found, None if threads else advice)
    elif threads is None and os.getloadavg()[0] > count / 2:
        found += f", load {os.getloadavg()[0]:.1f}"
        advice = "set OMP_NUM_THREADS=1 while other jobs run here: threads wait for one another"
        yield Check("cpu", "ok", found, advice)
    else:
        yield Check("cpu", "ok", found)


def memory() -> Iterator[Check]:
    """Main memory, of the machine or of the container or job."""
    now = main_memory()
    found = f"{now.free / GIB:.1f} of {now.total / GIB:.1f} GiB free"
    if now.free < LITTLE_MEMORY:
        advice = "end what else runs here, or ask the job for more"
        yield Check("memory", "warning", found, advice)
    else:
        yield Check("memory", "ok", found)


def shared_memory() -> Iterator[Check]:
    """Where batches pass from the processes that load images to the one that trains."""
    if not SHARED.is_dir():  # not Linux
        return
    size = shutil.disk_usage(SHARED).total
    found = f"{size / GIB:.2f} GiB in {SHARED}"
    if size < LITTLE_SHARED:
        advice = "start the container with --shm-size=8g, or set data.num_workers=0"
        yield Check("shared memory", "warning", found, advice)
    else:
        yield Check("shared memory", "ok", found)


def cuda() -> Iterator[Check]:
    """Whether torch can use the GPUs that there are."""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else torch.version.hip or "CPUs"
    name, cards = f"torch {torch.__version__} for {built}", machine.nvidia_cards()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    with warnings.catch_warnings(action="ignore"):  # what it would warn of is said below
        available = torch.cuda.is_available()
    if available:
        yield Check("cuda", "ok", f"{name} sees {torch.cuda.device_count()} GPUs")
    elif hidden in ("", "-1"):
        yield Check("cuda", "ok", f"{name}; CUDA_VISIBLE_DEVICES hides all GPUs")
    elif torch.version.cuda is None:
        status: Status = "problem" if cards else "ok"
        advice = "install the torch that pip gives for CUDA" if cards else None
        yield Check("cuda", status, f"{name}; {cards} NVIDIA cards", advice)
    else:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            reason = "no GPU can be used"
        except (RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())
        if cards or "too old" in reason:
            advice = (
                "update NVIDIA's driver, or install a torch for the CUDA that it knows"
                if "too old" in reason
                else "install NVIDIA's driver, or start the container with --gpus all"
            )
            yield Check(
                "cuda", "problem", f"{name} and {cards} NVIDIA cards, but: {reason}", advice
            )
        else:
            yield Check("cuda", "ok", f"{name}; no NVIDIA GPU, so trainings run on the CPU")


def gpus() -> Iterator[Check]:
    """Each GPU that the driver knows."""
    try:
        found = machine.gpus()
    except pynvml.NVMLError as error:
        if machine.nvidia_cards():
            advice = "reboot if the driver was updated; else install it again"
            yield Check("gpu", "problem", f"the driver does not answer: {error}", advice)
        return
    for gpu in found:
        yield _gpu(gpu)


def _gpu(gpu: machine.Gpu) -> Check:
    bf16 = "bf16" if gpu.bf16 else "no bf16"
    capability = ".".join(map(str, gpu.capability))
    found = (
        f"{gpu.name}, {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free, "
        f"compute capability {capability}, {bf16}{', divided by MIG' if gpu.mig else ''}"
    )
    name = f"gpu {gpu.index}"
    if gpu.processes:
        users = ", ".join(_process(pid, held) for pid, held in gpu.processes.items())
        advice = "name a GPU that is free in trainer.devices, or wait until this one is"
        return Check(name, "warning", f"{found}; in use by {users}", advice)
    advice_16 = None if gpu.bf16 else "set trainer.precision=16-mixed where a recipe has bf16-mixed"
    return Check(name, "ok", found, advice_16)


def _process(pid: int, held: int | None) -> str:
    # In a container these are the numbers of the host, unknown here.
    name = f" ({psutil.Process(pid).name()})" if psutil.pid_exists(pid) else ""
    return f"process {pid}{name}" + (f" with {held / GIB:.1f} GiB" if held is not None else "")


def job() -> Iterator[Check]:
    """The scheduler or launcher that started this process."""
    found = [
        f"{name} {', '.join(f'{key}={os.environ[key]}' for key in keys if key in os.environ)}"
        for name, keys in JOBS.items()
        if keys[0] in os.environ
    ]
    yield Check("job", "ok", "; ".join(found) or "neither of SLURM nor of torchrun")
