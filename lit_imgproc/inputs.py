"""What evaluation does to an image: one small value that data, prediction and exports share."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.errors import UserError

Interpolation = Literal["nearest", "bilinear", "bicubic", "area"]
Resize = Literal["crop", "squash", "fit", "none"]
EIGHT_BIT = (0.0, 255.0)
SAMPLE_TYPES = (np.uint8, np.uint16, np.int16, np.float32)
Pixels = NDArray[Any]

BANDS_AT_ONCE = 4
"""So many channels OpenCV averages over areas."""


@dataclass(frozen=True)
class InputSpec:
    """Bring any image to the size and channels that a network takes.

    The datamodule's evaluation images, ``predict``, the MLflow model and the exported network all
    go through this one function, so that they see the same pixels.

    Args:
        channels: Channels of the result. Of 8-bit images grey becomes RGB and RGB becomes grey
            (ITU-R BT.601) where needed, and an alpha channel is dropped; any other number must be
            the image's own.
        size: Height and width of the result, in pixels.
        resize: ``crop`` scales the image until it covers ``size / crop_fraction`` and cuts the
            centre out, as ImageNet evaluation does; ``squash`` scales straight to ``size`` and
            changes the aspect ratio. ``fit`` keeps it: the shorter side becomes the smaller of
            ``size``, unless the longer side would then exceed the larger, which it becomes
            instead. ``none`` leaves the size as it is.
        crop_fraction: Share of the scaled image's side that ``crop`` keeps, in (0, 1].
        interpolation: ``area`` averages where the image shrinks and is bilinear where it grows;
            the others sample without averaging.
        value_range: Lowest and highest value that a pixel can have: (0, 255) for 8-bit images,
            which networks see divided by 255. Images of any other range keep their values.
    """

    channels: int
    size: tuple[int, int]
    resize: Resize = "crop"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "area"
    value_range: tuple[float, float] = EIGHT_BIT

    @property
    def eight_bit(self) -> bool:
        """Whether images are of 8 bits, which a network sees in [0, 1]."""
        return tuple(self.value_range) == EIGHT_BIT

    def __call__(self, image: Pixels) -> Pixels:
        """Convert one image.

        Args:
            image: ``[H,W]`` or ``[H,W,C]``, RGB order; uint8, or where ``value_range`` says that
                it is not of 8 bits also uint16, int16 or float32.

        Returns:
            The same type ``[h,w,channels]``. It may be the image itself where nothing is to be
            done.

        Raises:
            UserError: The image is of another type, or has no usable number of channels.
        """
        if image.ndim == 2:
            image = image[:, :, np.newaxis]
        allowed = (np.uint8,) if self.eight_bit else SAMPLE_TYPES
        if image.dtype not in allowed or image.ndim != 3 or 0 in image.shape:
            types = " or ".join(np.dtype(one).name for one in allowed)
            raise UserError(
                f"An image must be {types} of shape [H,W] or [H,W,C]; "
                f"got {image.dtype} of shape {list(image.shape)}."
            )
        image = self._convert_channels(image)
        return image if image.shape[:2] == self.size else self._scale(image)

    def uncut(self, image: Pixels) -> Pixels:
        """Scale an image as :meth:`__call__` does, but leave what ``crop`` cuts off, and never up.

        To what comes out of this :meth:`__call__` does exactly what it does to the image itself.

        Args:
            image: ``[H,W,channels]``.
        """
        height, width = self._scaled_size(*image.shape[:2])
        larger = height > image.shape[0] or width > image.shape[1]
        return (
            image if larger or image.shape[:2] == self.size else self._resize(image, height, width)
        )

    def to_network(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """What a network is given of images that went through this: float32, 8 bits in [0, 1]."""
        values = images.astype(np.float32)
        return values / np.float32(255) if self.eight_bit else values

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON and YAML can hold."""
        return asdict(self) | {"size": list(self.size), "value_range": list(self.value_range)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The specification that :meth:`to_dict` wrote down."""
        pairs = {name: tuple(values[name]) for name in ("size", "value_range")}
        return cls(**(values | pairs))

    def _convert_channels(self, image: Pixels) -> Pixels:
        import cv2

        given = image.shape[2]
        if given == self.channels:
            return image
        if not self.eight_bit:
            raise UserError(f"An image has {given} channels where {self.channels} are needed.")
        if given == 1 and self.channels == 3:
            return np.repeat(image, 3, axis=2)
        if given == 4 and self.channels in (1, 3):
            image, given = np.ascontiguousarray(image[:, :, :3]), 3
        if given == 3 and self.channels == 3:
            return image
        if given == 3 and self.channels == 1:
            return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[:, :, np.newaxis]
        raise UserError(f"An image has {given} channels where {self.channels} are needed.")

    def _scale(self, image: Pixels) -> Pixels:
        height, width = self._scaled_size(*image.shape[:2])
        image = self._resize(image, height, width)
        if self.resize != "crop":
            return image
        top, left = (round((height - self.size[0]) / 2), round((width - self.size[1]) / 2))
        return image[top : top + self.size[0], left : left + self.size[1]]

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Of an image of this size, before anything is cut off."""
        if self.resize == "none":
            return height, width
        if self.resize == "squash":
            return self.size
        if self.resize == "fit":
            scale = min(min(self.size) / min(height, width), max(self.size) / max(height, width))
            return round(height * scale), round(width * scale)
        # Rounded as timm and torchvision do it, so that published accuracies can be repeated.
        cover_h, cover_w = (int(side / self.crop_fraction) for side in self.size)
        if cover_h * width >= cover_w * height:
            return cover_h, max(cover_w, cover_h * width // height)
        return max(cover_h, cover_w * height // width), cover_w

    def _resize(self, image: Pixels, height: int, width: int) -> Pixels:
        import cv2

        if image.shape[:2] == (height, width):
            return image
        shrinks = height <= image.shape[0] and width <= image.shape[1]
        method = {
            "nearest": cv2.INTER_NEAREST,
            "bilinear": cv2.INTER_LINEAR,
            "bicubic": cv2.INTER_CUBIC,
            "area": cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        }[self.interpolation]
        channels = image.shape[2]
        if channels <= BANDS_AT_ONCE:
            resized: Pixels = np.asarray(cv2.resize(image, (width, height), interpolation=method))
            return resized.reshape(height, width, channels)  # OpenCV drops a single channel
        result = np.empty((height, width, channels), image.dtype)
        for first in range(0, channels, BANDS_AT_ONCE):
            bands = np.ascontiguousarray(image[:, :, first : first + BANDS_AT_ONCE])
            some = cv2.resize(bands, (width, height), interpolation=method)
            result[:, :, first : first + BANDS_AT_ONCE] = some.reshape(height, width, -1)
        return result
