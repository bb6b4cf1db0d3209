"""What is said of why a network answers as it does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.models.targets import Target


@dataclass
class Explanation:
    """Why a network answers as it does of one image.

    Attributes:
        id: The file's name, or the number of the array.
        image: What the network saw: float32 ``[C, *S]``, mostly in [0, 1].
        prediction: What ``predict_step`` says of it, in pixels of the file.
        target: What is explained; None where the network found nothing.
        target_name: The name of its class; empty where there is none.
        truth: The name of the true class; empty where that is not known or not one.
        maps: By method: float32 ``[*S]``, in places of ``image``. Class activation maps and
            SmoothGrad are 0 or above; the others are positive where the target is spoken for.
        numbers: By method, how faithful its map is, by name: ``insertion``, ``deletion``,
            ``pointing`` (the chance of a hit, mostly 0 or 1). Empty where that was not measured.
    """

    id: str
    image: NDArray[np.float32]
    prediction: Mapping[str, Any]
    target: Target | None
    target_name: str
    truth: str = ""
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    numbers: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class Report:
    """What is said of a run: of several images, and of each method as a whole.

    Attributes:
        explanations: One an image.
        means: By method, the means over the images of ``numbers``.
        similarity: By method, how alike its maps are to those of the same network with random
            weights, in [-1, 1]: a value for each share of the layers that was randomised, from the
            head down; the last one is of all layers. Empty where that was not checked.
        failed: Methods whose maps hardly change when the network forgets what it has learned.
        agreement: Rank correlation of the maps of two methods, the mean over the images.
    """

    explanations: list[Explanation]
    means: dict[str, dict[str, float]] = field(default_factory=dict)
    similarity: dict[str, list[float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    agreement: dict[str, dict[str, float]] = field(default_factory=dict)
