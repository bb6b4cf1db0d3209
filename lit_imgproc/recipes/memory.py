"""Memory: how much of it this process may use, and what to lower when it was not enough."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from lit_imgproc.recipes.registry import resolve

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes: what this process may use in all, and what it could still take."""

    total: int
    free: int


def main_memory() -> Memory:
    """The memory of the machine, or of the container or job that this process runs in."""
    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for group in control_groups("memory"):
        limit = _number(group, "memory.max", "memory.limit_in_bytes")
        used = _number(group, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            # Files that were read stay in memory until something else needs it.
            total, free = min(total, limit), min(free, limit - used + _file_cache(group))
    return Memory(total, max(0, free))


def control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that bind this process, innermost first; none off Linux.

    Args:
        controller: ``memory`` or ``cpu``. In version 2 of control groups one folder has them all.
    """
    lines = OWN_CGROUPS.read_text().splitlines() if OWN_CGROUPS.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        # In a container the path may be that of the host; the root is then the container's own.
        folder = root / path.lstrip("/")
        yield from (f for f in (folder, *folder.parents) if f.is_relative_to(root) and f.is_dir())


def ran_out(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left."""
    texts = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def out_of_memory(error: BaseException, recipe: dict[str, Any]) -> str | None:
    """What to tell a person whose training ran out of memory; None for any other error.

    Args:
        error: what the training raised.
        recipe: the frozen recipe, whose values it quotes.
    """
    if not ran_out(error):
        return None
    text = str(error)
    size = _batch_size(recipe)
    gpu = re.search(r"GPU (\d+)", text)
    on_cpu = "DefaultCPUAllocator" in text or isinstance(error, MemoryError)
    where = f"GPU {gpu[1]}" if gpu else "the CPU" if on_cpu else "the GPU"
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", text)
    left = re.search(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", text)
    figures = [f"{_readable(asked[1])} were asked for"] if asked else []
    figures += [f"{left[2]} of {left[1]} were free"] if left else []
    happened = f"{where} ran out of memory with data.batch_size={size}"
    happened += f": {', '.join(figures)}." if figures else "."
    advice = [
        *([_fewer_images(size, recipe)] if size > 1 else []),
        *what_to_lower(recipe),
    ]
    helps = f"What helps, the most first: {'; '.join(advice)}."
    return " ".join([happened, helps, *_others(text)])


def what_to_lower(recipe: dict[str, Any]) -> list[str]:
    """The values of a recipe that memory depends on beside the batch size, the first one first."""
    precision = str((recipe.get("trainer") or {}).get("precision", "32-true"))
    data, network = recipe["data"], recipe["model"].get("network")
    advice = [] if "16" in precision else ["trainer.precision=bf16-mixed"]
    if "image_size" in inspect.signature(resolve("datamodule", data["name"])).parameters:
        now = f" than {data['image_size']}" if data.get("image_size") else ""
        advice.append(f"a smaller data.image_size{now}")
    if isinstance(network, dict):
        advice.append(f"a smaller model.network than {network['name']}")
    return advice


def _fewer_images(size: int, recipe: dict[str, Any]) -> str:
    together = int((recipe.get("trainer") or {}).get("accumulate_grad_batches") or 1)
    return (
        f"data.batch_size={size // 2} with trainer.accumulate_grad_batches={2 * together}, which "
        "leaves the images of an optimizer step as they are (data.batch_size=auto finds what fits)"
    )


def _batch_size(recipe: dict[str, Any]) -> int:
    known = inspect.signature(resolve("datamodule", recipe["data"]["name"])).parameters
    return int(recipe["data"].get("batch_size", known["batch_size"].default))


def _others(text: str) -> Iterator[str]:
    """Other processes on that GPU. Torch has asked NVML for them when it made the error's text."""
    for number, held in re.findall(r"Process (\d+) has ([\d.]+ \w+) memory in use", text):
        # In a container the numbers are those of the host, and one of them is this process.
        if psutil.pid_exists(int(number)):
            name = psutil.Process(int(number)).name()
            yield f"Process {number} ({name}) holds {held} of the same GPU: another may be free."


def _readable(amount: str) -> str:
    """``1048576 bytes`` -> ``0.00 GiB``; what is in larger units already stays."""
    number, unit = amount.split()
    return f"{int(number) / GIB:.2f} GiB" if unit == "bytes" else amount


def _number(group: Path, *names: str) -> int | None:
    """The number in the first of these files that is there; None for ``max``, or none there."""
    for name in names:
        try:
            return int((group / name).read_text())
        except (OSError, ValueError):
            continue
    return None


def _file_cache(group: Path) -> int:
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    # Version 1 also counts the groups below under `total_…`.
    values = {name: int(value) for name, value in map(str.split, lines)}
    return values.get("total_inactive_file", values.get("inactive_file", 0))
