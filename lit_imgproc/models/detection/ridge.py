"""Ridge regression of many features, which may lie in a file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


def ridge(
    features: NDArray[Any], rows: NDArray[np.int64], targets: NDArray[np.float64], strength: float
) -> tuple[Values, Values]:
    """Ridge regression with an intercept that is not regularized, in pieces that fit into memory.

    Args:
        features: ``[M, F]``, which may lie in a file.
        rows: ``[N]``, those of them that are learned from.
        targets: ``[N, T]``.
        strength: of the penalty of the squared weights, against a sum of squared errors.

    Returns:
        Weights ``[T, F]`` and intercepts ``[T]``; zeros where there is nothing to learn from.
    """
    count, width = len(rows), features.shape[1]
    if not count:
        return np.zeros((targets.shape[1], width), np.float32), np.zeros(
            targets.shape[1], np.float32
        )
    pieces = np.array_split(rows, -(-count // 1024))
    centre = sum(features[piece].astype(np.float64).sum(0) for piece in pieces) / count
    aim = targets.mean(0)
    away = targets - aim
    if count <= width:  # by the kernel, of which there is less
        x = features[rows].astype(np.float64) - centre
        kernel = x @ x.T
        kernel[np.diag_indices(count)] += strength
        weight = x.T @ np.linalg.solve(kernel, away)
    else:
        gram, cross, first = strength * np.eye(width), np.zeros((width, targets.shape[1])), 0
        for piece in pieces:
            x = features[piece].astype(np.float64) - centre
            gram += x.T @ x
            cross += x.T @ away[first : first + len(piece)]
            first += len(piece)
        weight = np.linalg.solve(gram, cross)
    return weight.T.astype(np.float32), (aim - centre @ weight).astype(np.float32)
