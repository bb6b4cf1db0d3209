"""What a training will find here: versions, devices, the store, disks; and what to do about it."""

from collections.abc import Iterator
from importlib import import_module

from lit_imgproc.launch.checks import Check

LOOKS = (
    "software:python",
    "software:packages",
    "software:opencv",
    "software:git",
    "hardware:cpu",
    "hardware:memory",
    "hardware:shared_memory",
    "hardware:cuda",
    "hardware:gpus",
    "hardware:job",
    "storage:store",
    "storage:spool",
    "storage:disk",
    "software:extras",
)
"""``file:function`` of `launch.checks`, in the order in which their answers are worth reading."""


def examine(uri: str | None = None) -> list[Check]:
    """Look at everything that a training needs. Asks no machine but that of the store.

    Args:
        uri: the MLflow store; ``MLFLOW_TRACKING_URI`` or the local one unless given.

    Returns:
        At least one check for each look; one that breaks is itself a problem, and others follow.
    """
    return [check for look in LOOKS for check in _look(look, uri)]


def _look(look: str, uri: str | None) -> Iterator[Check]:
    part, _, name = look.partition(":")
    try:
        # Not before its turn: a torch that cannot be imported is a finding like any other.
        module = import_module(f"lit_imgproc.launch.checks.{part}")
        yield from getattr(module, name)(*([uri] if part == "storage" else []))
    except Exception as error:  # whatever is broken here is what the person wants to know
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        advice = "mend what this names, and look again"
        yield Check(name.replace("_", " "), "problem", f"could not be looked at: {reason}", advice)
