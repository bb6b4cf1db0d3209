"""Libraries that only some kinds of data or model need."""

from importlib import import_module
from typing import Any

from lit_imgproc.errors import UserError


def require(module: str, extra: str) -> Any:
    """Import a library of an extra.

    Args:
        module: What is imported, such as ``rasterio`` or ``nibabel.processing``.
        extra: The extra of this package that brings it.

    Raises:
        UserError: It is not installed; the sentence says what to run.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != name:
            raise  # it is there, and something that it needs is not
        raise UserError(f"{name} is needed for this: pip install 'lit_imgproc[{extra}]'") from None
