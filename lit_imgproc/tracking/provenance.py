"""Where a run came from: code, packages, hardware and command, enough to run it again."""

import hashlib
import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.store import redact

LONGEST_DIFF = 1_000_000  # characters of the diff that are kept
MOST_UNTRACKED = 1000  # files that are listed
LARGEST_DIGESTED = 64 * 2**20  # bytes; of a larger untracked file only the size is noted


@dataclass(frozen=True)
class Git:
    """The state of a working tree.

    Args:
        root: Its top folder.
        commit: Full hash, or None before the first commit.
        branch: Name, or None when detached.
        dirty: Whether anything differs from the commit, untracked files included.
        diff: Changes of tracked files against the commit, as ``git apply`` reads them.
        untracked: For each untracked file that git does not ignore ``path``, ``bytes``, ``sha256``.
    """

    root: str
    commit: str | None
    branch: str | None
    dirty: bool
    diff: str
    untracked: list[dict[str, Any]]


@dataclass(frozen=True)
class Provenance:
    """What :func:`collect` found. No environment variable, remote URL or user name is in it."""

    source: Path | None
    command: list[str]
    git: Git | None
    packages: list[str]
    hardware: dict[str, Any]


def collect(source: Path | None, command: list[str]) -> Provenance:
    """Look at the code, the packages and the machine.

    Args:
        source: The recipe's file, if there is one. The git repository is that of its folder, or
            else that of the working folder: an installed console script lies in neither.
        command: As in ``sys.argv``.
    """
    folders = [source.resolve().parent, Path.cwd()] if source else [Path.cwd()]
    git = next((found for folder in folders if (found := _git(folder))), None)
    distributions = {
        f"{item.name}=={item.version}" for item in importlib.metadata.distributions() if item.name
    }
    return Provenance(
        source=source,
        command=[redact(word) for word in command],
        git=git,
        packages=sorted(distributions, key=str.lower),
        hardware=_hardware(),
    )


def log_provenance(tracker: MLflowTracker, provenance: Provenance) -> None:
    """Log tags that the MLflow UI knows, and ``provenance/`` artifacts."""
    command, git = shlex.join(provenance.command), provenance.git
    tracker.set_tag("command", command)
    tracker.set_tag("mlflow.source.type", "LOCAL")
    tracker.set_tag("mlflow.source.name", str(provenance.source or provenance.command[0]))
    tracker.log_text(command + "\n", "provenance/command.txt")
    tracker.log_text("\n".join(provenance.packages) + "\n", "provenance/packages.txt")
    tracker.log_dict(provenance.hardware, "provenance/hardware.json")
    if git is None:
        return
    state = asdict(git)
    tracker.log_text(state.pop("diff"), "provenance/diff.patch")
    tracker.log_dict({"files": state.pop("untracked")}, "provenance/untracked.json")
    tracker.log_dict(state, "provenance/git.json")
    tracker.set_tag("git.dirty", str(git.dirty).lower())
    if git.commit:
        tracker.set_tag("mlflow.source.git.commit", git.commit)
    if git.branch:
        tracker.set_tag("mlflow.source.git.branch", git.branch)


def log_resumed(tracker: MLflowTracker, provenance: Provenance, step: int) -> None:
    """Log what went on with a run, from which step, beside what it was begun with."""
    git = provenance.git
    state = {
        "step": step,
        "command": shlex.join(provenance.command),
        "hardware": provenance.hardware,
        "packages": provenance.packages,
        "git": None if git is None else asdict(git),
    }
    tracker.log_dict(state, f"provenance/resumed_at_step_{step}.json")
    tracker.set_tag("resumed", f"at step {step}")


def _git(folder: Path) -> Git | None:
    root = _run_git(folder, "rev-parse", "--show-toplevel")
    if not root:
        return None
    top = Path(root.strip())
    commit = _run_git(top, "rev-parse", "--verify", "--quiet", "HEAD")
    branch = _run_git(top, "symbolic-ref", "--short", "--quiet", "HEAD")
    changes = _run_git(top, "status", "--porcelain") or ""
    diff = _run_git(top, "diff", "--no-ext-diff", "--no-color", "--binary", "HEAD") or ""
    if len(diff) > LONGEST_DIFF:
        diff = f"{diff[:LONGEST_DIFF]}\n[cut here: the diff has {len(diff)} characters]\n"
    listed = _run_git(top, "ls-files", "--others", "--exclude-standard", "-z") or ""
    paths = sorted(path for path in listed.split("\0") if path)
    untracked = [_digest(top, path) for path in paths[:MOST_UNTRACKED]]
    if len(paths) > MOST_UNTRACKED:
        untracked.append({"path": f"[and {len(paths) - MOST_UNTRACKED} more]"})
    return Git(
        root=str(top),
        commit=commit.strip() if commit else None,
        branch=branch.strip() if branch else None,
        dirty=bool(changes),
        diff=diff,
        untracked=untracked,
    )


def _run_git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command that changes nothing, or None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotepath=off", *arguments],
            cwd=folder,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def _digest(root: Path, path: str) -> dict[str, Any]:
    try:
        size = (root / path).stat().st_size
        if size > LARGEST_DIGESTED:
            return {"path": path, "bytes": size}
        with (root / path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:  # a broken link, a folder with a repository of its own
        return {"path": path, "error": error.strerror}
    return {"path": path, "bytes": size, "sha256": digest}


def _hardware() -> dict[str, Any]:
    return {
        "hostname": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cpu_cores": psutil.cpu_count(logical=False),
        "cpu_threads": psutil.cpu_count(),
        "cpu_available": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch_cuda": torch.version.cuda,
        **_gpus(),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _gpus() -> dict[str, Any]:
    """NVIDIA's GPUs and driver. Asked of NVML, since CUDA would take memory on each of them."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {"gpus": []}
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
        return {
            "gpus": [
                {
                    "name": pynvml.nvmlDeviceGetName(handle),
                    "memory_bytes": pynvml.nvmlDeviceGetMemoryInfo(handle).total,
                }
                for handle in handles
            ],
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "driver_cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        }
    finally:
        pynvml.nvmlShutdown()
