"""How much each class counts in a loss."""

from typing import Literal

import torch
from torch import Tensor

from lit_imgproc.errors import UserError


def class_weights(
    asked: Literal["balanced"] | list[float] | None, counts: list[int] | None, num_classes: int
) -> Tensor | None:
    """The weights of the classes ``[K]``, None where all count alike.

    Args:
        asked: a weight a class, or ``balanced``: inverse to the counts, with mean 1 over all that
            was counted.
        counts: of each class, for ``balanced``.
        num_classes: K.

    Raises:
        UserError: they are not K, or a class has not been counted.
    """
    if asked is None:
        return None
    if asked == "balanced":
        if counts is None or min(counts) == 0:
            raise UserError("balanced class weights need class_counts, each above 0")
        numbers = torch.tensor(counts, dtype=torch.float32)
        return numbers.sum() / (num_classes * numbers)
    if len(asked) != num_classes:
        raise UserError(f"{num_classes} classes, but {len(asked)} class weights")
    return torch.tensor(asked, dtype=torch.float32)
