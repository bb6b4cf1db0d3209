"""What goes into segmentation."""

from typing import Any, NotRequired, TypedDict

from torch import Tensor

IGNORE = 255
"""In a mask: what no class is asked of. It is neither learned nor counted."""


class SegmentationBatch(TypedDict):
    """A batch. ``S`` is height and width, or depth, height and width of volumes."""

    image: Tensor | list[Tensor]
    """float32 ``[B, C, *S]`` in [0, 1] on the device, uint8 from the worker; a list of
    ``[C, H, W]`` where sizes differ."""
    mask: NotRequired[Tensor | list[Tensor]]
    """int64 ``[B, *S]``, indices of the class names, or :data:`IGNORE`."""
    weight: NotRequired[Tensor]
    """float32 ``[B, *S]``: how much each pixel counts in the loss."""
    instances: NotRequired[Tensor | list[Tensor]]
    """int64 ``[B, H, W]``: the number of the object that a pixel is of, 0 for none."""
    geometry: NotRequired[list[dict[str, Any]]]
    """What brings a mask back to the file; see :mod:`lit_imgproc.geometry`."""
    id: list[str]
