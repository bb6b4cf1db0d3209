"""Artifacts as files: whole or not there, and a full disk stops no training."""

import io
import logging
import os
import uuid
from pathlib import Path

import numpy as np
from mlflow.tracking.multimedia import compress_image_size, convert_to_pil_image
from numpy.typing import NDArray
from PIL.Image import Image

log = logging.getLogger(__name__)


def write_file(target: Path, content: bytes) -> bool:
    """Write an artifact; returns whether it could be written, and warns if not."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except OSError as error:
        log.warning("the artifact %s cannot be written, dropped: %s", target, error)
        return False
    return True


def write_image(
    folder: Path, key: str, image: NDArray[np.uint8], step: int, milliseconds: int
) -> list[str] | None:
    """Write an image and its small copy under the names that the MLflow UI looks for.

    ``MlflowClient.log_image`` makes up a new name at every attempt to deliver an image.

    Returns:
        Their paths in ``folder``, or None where they could not be written.
    """
    stem = f"images/{key.replace('/', '~')}+step+{step}+timestamp+{milliseconds}+{uuid.uuid4()}"
    whole = convert_to_pil_image(image)
    files = {
        f"{stem}.png": _encoded(whole, "png"),
        f"{stem}+compressed.webp": _encoded(compress_image_size(whole), "webp"),
    }
    written = [write_file(folder / path, content) for path, content in files.items()]
    return list(files) if all(written) else None


def _encoded(picture: Image, suffix: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=suffix)
    return buffer.getvalue()
