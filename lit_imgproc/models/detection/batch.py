"""What goes into detection and what comes out of it."""

from typing import Any, NotRequired, TypedDict

from torch import Tensor


class DetectionBatch(TypedDict):
    """A batch. Boxes are xyxy in pixels of its images, labels indices of the class names from 0."""

    image: Tensor | list[Tensor]
    """float32 ``[B, C, H, W]`` in [0, 1] on the device, uint8 from the worker; a list of
    ``[C, H, W]`` where sizes differ."""
    boxes: NotRequired[list[Tensor]]
    """float32 ``[N, 4]`` an image."""
    labels: NotRequired[list[Tensor]]
    """int64 ``[N]``."""
    masks: NotRequired[list[Tensor]]
    """uint8 ``[N, H, W]``."""
    iscrowd: NotRequired[list[Tensor]]
    """int64 ``[N]``: 1 for a region of many objects, which is neither learned nor counted."""
    area: NotRequired[list[Tensor]]
    """float32 ``[N]``, in pixels of the batch's image."""
    proposals: NotRequired[list[Tensor]]
    """float32 ``[P, 4]``: where there may be objects, for networks that take proposals."""
    geometry: NotRequired[list[dict[str, Any]]]
    """What brings boxes back to the file; see :mod:`lit_imgproc.geometry`."""
    id: list[str]
