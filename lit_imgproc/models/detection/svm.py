"""Linear SVMs of regions, one a class, with hard-negative mining (arXiv 1311.2524, appendix B)."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Chosen = NDArray[np.bool_]

HARD, EASY = -1.0, -1.2
"""A negative that scores above the first is taken to be learned from; one below the second, which
the SVM tells apart with ease, is let go."""
POSITIVE_WEIGHT = 2.0
INTERCEPT = 10.0
"""The intercept is the weight of a feature of this value, and so is regularized little."""
ABSENT = -100.0
"""The margin of everything for a class that there is no object of."""


@dataclass
class _Class:
    """One SVM, and what it is learned from."""

    positives: Values
    negatives: list[Values] = field(default_factory=list)
    added: int = 0
    weight: Values = field(init=False)
    bias: float = 0.0

    def __post_init__(self) -> None:
        self.weight = np.zeros(self.positives.shape[1], np.float32)
        self.bias = 0.0 if len(self.positives) else ABSENT

    def margins(self, features: Values) -> Values:
        margins: Values = features @ self.weight + np.float32(self.bias)
        return margins

    def add(self, negatives: Values) -> None:
        if len(negatives):
            self.negatives.append(negatives)
            self.added += len(negatives)

    def fit(self, cost: float) -> None:
        """Learn anew, and let go of what has become easy."""
        from sklearn.svm import LinearSVC

        self.added = 0
        if not self.negatives:
            self.bias = 1.0  # nothing is known that is not of this class
            return
        negatives = np.concatenate(self.negatives)
        labels = np.repeat([1, 0], [len(self.positives), len(negatives)])
        svm = LinearSVC(
            dual=False,  # the other solver may take for ever, and draws at random
            C=cost,
            class_weight={1: POSITIVE_WEIGHT},
            intercept_scaling=INTERCEPT,
        ).fit(np.concatenate([self.positives, negatives]), labels)
        self.weight = svm.coef_[0].astype(np.float32)
        self.bias = float(svm.intercept_[0])
        self.negatives = [negatives[self.margins(negatives) >= EASY]]


def fit_svms(
    positives: list[Values],
    images: Iterable[tuple[Values, Chosen]],
    *,
    cost: float,
    retrain_after: int = 2000,
) -> tuple[Values, Values, dict[str, float]]:
    """Learn a linear SVM for each class, of squared hinge loss, in one pass over the images.

    The negatives of all images are too many to be learned from at once. The SVMs are first learned
    with those of the first image that has any, and then with those that they get wrong.

    Args:
        positives: ``[N_k, D]`` for each class: its objects.
        images: of each image the features of its regions ``[P, D]``, and of which classes each is
            a negative ``[P, K]``. What is neither is not looked at.
        cost: C of the SVMs.
        retrain_after: new hard negatives of a class after which its SVM is learned anew.

    Returns:
        Weights ``[K, D]`` and biases ``[K]``; and what became of it: ``accuracy``, the share of the
        objects above and of the hard negatives below 0, half and half, a mean over the classes;
        and ``negatives``, how many hard ones there are at the end.
    """
    svms = [_Class(own) for own in positives]
    learned = [svm for svm in svms if len(svm.positives)]
    begun: set[int] = set()
    for features, negative in images:
        for k, svm in enumerate(svms):
            own = features[negative[:, k]]
            if not len(svm.positives) or not len(own):
                continue
            svm.add(own[svm.margins(own) > HARD] if k in begun else own)
            if k not in begun or svm.added >= retrain_after:
                begun.add(k)
                svm.fit(cost)
    for svm in learned:
        if svm.added or not svm.negatives:
            svm.fit(cost)
    return (
        np.stack([svm.weight for svm in svms]),
        np.array([svm.bias for svm in svms], np.float32),
        _figures(learned),
    )


def _figures(svms: list[_Class]) -> dict[str, float]:
    right = []
    for svm in svms:
        sides = [svm.margins(svm.positives) > 0]
        sides += [svm.margins(negatives) < 0 for negatives in svm.negatives]
        right.append(np.mean([side.mean() for side in sides if len(side)]))
    hard = sum(len(negatives) for svm in svms for negatives in svm.negatives)
    return {"accuracy": float(np.mean(right)) if right else 0.0, "negatives": float(hard)}
