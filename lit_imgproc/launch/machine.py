"""The machine: the cores and the GPUs that this process could use, and who else uses them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_imgproc.recipes.memory import control_groups

PCI = Path("/sys/bus/pci/devices")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver sees it, whatever ``CUDA_VISIBLE_DEVICES`` hides.

    Attributes:
        index: the driver's number, which is that of ``nvidia-smi``.
        name: such as ``NVIDIA A100-SXM4-40GB``.
        total: bytes of its memory.
        free: bytes that nobody uses.
        capability: of its compute units; from 8.0 on they know bfloat16.
        mig: whether it is divided into instances.
        processes: their ids, with the bytes that each holds, or None where the driver hides that.
    """

    index: int
    name: str
    total: int
    free: int
    capability: tuple[int, int]
    mig: bool
    processes: dict[int, int | None]

    @property
    def bf16(self) -> bool:
        """Whether ``trainer.precision=bf16-mixed`` is computed in its own units."""
        return self.capability >= (8, 0)


def gpus() -> list[Gpu]:
    """The GPUs, asked of NVML: CUDA would take memory on each of them.

    Raises:
        pynvml.NVMLError: there is no driver, or it does not answer.
    """
    import pynvml

    def ask(function: Any, handle: Any, otherwise: Any) -> Any:
        try:
            return function(handle)
        except pynvml.NVMLError:  # not every GPU and not every user may ask everything
            return otherwise

    pynvml.nvmlInit()
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            processes = ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle, [])
            gpu = Gpu(
                index=index,
                name=pynvml.nvmlDeviceGetName(handle),
                total=memory.total,
                free=memory.free,
                capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
                mig=ask(pynvml.nvmlDeviceGetMigMode, handle, (0, 0))[0] == 1,
                processes={item.pid: item.usedGpuMemory for item in processes},
            )
            found.append(gpu)
        return found
    finally:
        pynvml.nvmlShutdown()


def nvidia_cards() -> int:
    """NVIDIA's graphics cards in this machine, with a driver or without; 0 where none can be seen.

    A container sees those of its host.
    """
    devices = PCI.iterdir() if PCI.is_dir() else ()
    return sum(_reads(d / "vendor", "0x10de") and _reads(d / "class", "0x03") for d in devices)


def cores() -> tuple[int, float]:
    """The CPU cores that this process may run on, and how many of them it may keep busy."""
    may_use = getattr(os, "sched_getaffinity", None)
    count = len(may_use(0)) if may_use else os.cpu_count() or 1
    return count, min([float(count), *(q for g in control_groups("cpu") if (q := _quota(g)))])


def _quota(group: Path) -> float | None:
    """Cores that a control group grants; None for all of them."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # "max"
        return None


def _reads(file: Path, beginning: str) -> bool:
    try:
        return file.read_text().startswith(beginning)
    except OSError:
        return False
