"""From stored values to what a network sees of a volume."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.medical.scan import Array, Scan
from lit_imgproc.data.medical.voi import Window

Choice = Window | Literal["zscore"] | None
"""A window as center and width in values of the modality; standardized; or native values."""


@dataclass(frozen=True)
class Intensity:
    """A linear map of each channel, cut to [0, 1] where it is a window.

    Args:
        shift: What is taken from stored values, one a channel.
        divisor: What they are then divided by, one a channel.
        cut: Whether the result is cut to [0, 1].
    """

    shift: tuple[float, ...]
    divisor: tuple[float, ...]
    cut: bool = False

    def __call__(self, stored: Array) -> NDArray[np.float32]:
        """Map ``[C,...]``; the result is new."""
        axes = (-1, *(1,) * (stored.ndim - 1))
        values = stored.astype(np.float32)
        values -= np.asarray(self.shift, np.float32).reshape(axes)
        values /= np.asarray(self.divisor, np.float32).reshape(axes)
        if self.cut:
            np.clip(values, 0, 1, out=values)
        return values


def intensity_of(choice: Choice, scan: Scan, stored: Array, lowest: Array) -> Intensity:
    """What a choice means for one volume.

    ``zscore`` takes mean and deviation of each channel over the voxels above its lowest value, so
    that the empty space around a head or a body does not count.

    Args:
        choice: See :data:`Choice`.
        scan: For slope and intercept; see :func:`rising`.
        stored: ``[C,D,H,W]``, turned, resampled and without what is cropped.
        lowest: Of each channel of it.
    """
    channels = len(stored)
    slope, intercept = scan.slope, scan.intercept
    if choice == "zscore":
        means, deviations = zip(*map(_moments, stored, lowest.tolist()), strict=True)
        return Intensity(means, deviations)
    if choice is None:
        return Intensity((-intercept / slope,) * channels, (1 / slope,) * channels)
    center, width = choice
    shift, divisor = (center - width / 2 - intercept) / slope, width / slope
    return Intensity((shift,) * channels, (divisor,) * channels, cut=True)


def rising(scan: Scan) -> Scan:
    """The scan with stored values that rise with what they mean, and with how bright it is."""
    if scan.mirror is None and scan.slope > 0:
        return scan
    values = scan.values.astype(np.float32)
    if scan.mirror is not None:
        values = np.float32(scan.mirror) - values
    return replace(scan, stored=values, slope=1.0, intercept=0.0, mirror=None)


def _moments(values: Array, lowest: float) -> tuple[float, float]:
    inside = values[values > lowest]
    if not inside.size:
        return float(lowest), 1.0
    deviation = float(inside.std(dtype=np.float64))
    return float(inside.mean(dtype=np.float64)), deviation if deviation > 0 else 1.0
