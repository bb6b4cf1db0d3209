"""The SLURM job that this process runs in, if it does."""

import os
import subprocess


def job() -> str | None:
    """The id under which the job can be requeued, ``123`` or ``123_4`` in an array."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def restarted() -> bool:
    """Whether the scheduler has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def requeue(name: str) -> str | None:
    """Ask the scheduler to start the job again; why it refused, or None where it agreed."""
    try:
        subprocess.run(
            ["scontrol", "requeue", name], check=True, capture_output=True, text=True, timeout=60
        )
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip() or f"scontrol ended with {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None
