"""Deep-learning image processing experiments on PyTorch Lightning, tracked by MLflow."""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_recipe", "load_run"]

# Albumentations asks the network for its newest version when it is imported, MLflow sends usage
# statistics: neither belongs in an experiment. Both can still be switched on by the environment.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

if TYPE_CHECKING:
    from lit_imgproc.recipes.experiment import load_recipe
    from lit_imgproc.recipes.run import load_run


def __getattr__(name: str) -> Any:
    """Import the two entry points on first use, so that importing the package imports no torch."""
    if name == "load_recipe":
        from lit_imgproc.recipes.experiment import load_recipe

        return load_recipe
    if name == "load_run":
        from lit_imgproc.recipes.run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
