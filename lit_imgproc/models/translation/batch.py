"""What a batch of this family holds."""

from typing import Any, NotRequired, TypedDict

from torch import Tensor


class TranslationBatch(TypedDict):
    """A batch of images to translate.

    Attributes:
        image: float32 ``[B, C, H, W]`` in [0, 1].
        target: likewise ``[B, K, H, W]``: in pairs the same scene, and otherwise any images of the
            other kind. Not there where nothing is but to be translated.
        id: of each image.
        geometry: of each image, what brings a translation to its size.
    """

    image: Tensor
    target: NotRequired[Tensor]
    id: list[str]
    geometry: NotRequired[list[dict[str, Any]]]
