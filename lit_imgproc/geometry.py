"""From the pixels of a sample back to those of its file."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
Size = tuple[int, int]


def geometry_of(path: str, stored: Size, size: Size) -> dict[str, Any]:
    """What brings a prediction back.

    Returns:
        ``path``; ``size``, the stored height and width; ``scale``, how many times larger the
        sample is, down and across.
    """
    scale = [size[0] / stored[0], size[1] / stored[1]]
    return {"path": path, "size": list(stored), "scale": scale}


def boxes_to_original(boxes: NDArray[np.float32], geometry: dict[str, Any]) -> NDArray[np.float32]:
    """Boxes float32 ``[N,4]``, xyxy in pixels of a sample, in those of its file, cut at its edges.

    Args:
        boxes: In the sample.
        geometry: Of the sample, as evaluation sees it: of a whole file with its ``scale``, or of a
            part of a raster with its ``window`` (row, column, height, width).
    """
    (height, width), (down, across) = geometry["size"], geometry.get("scale", (1, 1))
    row, column = geometry.get("window", (0, 0))[:2]
    moved = boxes / np.array([across, down, across, down]) + [column, row, column, row]
    inside = np.clip(moved, 0, [width, height, width, height])
    return np.asarray(inside, np.float32)


def boxes_to_sample(boxes: NDArray[np.float32], geometry: dict[str, Any]) -> NDArray[np.float32]:
    """Boxes ``[N,4]`` in pixels of a file in those of a sample: the way back, without cutting."""
    down, across = geometry.get("scale", (1, 1))
    row, column = geometry.get("window", (0, 0))[:2]
    moved = (boxes - [column, row, column, row]) * np.array([across, down, across, down])
    return np.asarray(moved, np.float32)


def masks_to_original(masks: Mask, geometry: dict[str, Any]) -> Mask:
    """Masks uint8 ``[N,H,W]`` (or one of classes ``[H,W]``) at the size of the file.

    Args:
        masks: In the sample.
        geometry: Of the sample, as evaluation sees it.
    """
    height, width = geometry["size"]
    result = [
        cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        for mask in masks.reshape(-1, *masks.shape[-2:])
    ]
    return np.asarray(result, np.uint8).reshape(*masks.shape[:-2], height, width)
