"""Training batches of images of like shape, so that little of a padded batch is padding."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.data.order import TrainBatches

BINS = 2 ** np.linspace(-1, 1, 7)
"""Borders between groups of width over height: three groups an octave from 1:2 to 2:1."""


def aspect_groups(sizes: NDArray[np.int32]) -> NDArray[np.int64]:
    """The group of each image.

    Args:
        sizes: ``[N,2]``, height and width.
    """
    return np.digitize(sizes[:, 1] / sizes[:, 0], BINS).astype(np.int64)


class GroupedBatches(TrainBatches):
    """As :class:`~lit_imgproc.data.order.TrainBatches`, but a batch has images of one group.

    The shuffled images are dealt to their groups, and a batch is made whenever a group has enough
    of them. What is left in the groups at the end of an epoch comes last, in the order of the
    groups. The order depends on the size of a rank's batch but not on the number of ranks: of each
    global batch, ranks take consecutive parts.

    Args:
        groups: int64 ``[N]``: the group of each image.
        batch_size: See ``TrainBatches``, as for the others.
    """

    def __init__(
        self,
        groups: NDArray[np.int64],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(groups), batch_size, seed, rank, world_size)
        self.groups, self.batch_size = groups, batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, self.start = self.start, 0
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.size)
        seeds = random.integers(2**63, size=self.size)
        arranged = self._arranged(order)
        order, seeds = order[arranged], seeds[arranged]
        for start in range(first, self.end, self.global_batch):
            count = min(start + self.global_batch, self.end) - start
            # Full batches are of batch_size each; of a last, smaller one all get a share.
            share, more = divmod(count, self.world_size)
            begin = start + self.rank * share + min(self.rank, more)
            mine = slice(begin, begin + share + (self.rank < more))
            yield list(zip(order[mine].tolist(), seeds[mine].tolist(), strict=True))

    def _arranged(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in ``order``, arranged so that each ``batch_size`` of them are of one group."""
        groups = self.groups[order]
        full: list[tuple[int, NDArray[np.int64]]] = []
        rest: list[NDArray[np.int64]] = []
        for group in np.unique(groups).tolist():
            members = np.flatnonzero(groups == group)
            whole = len(members) // self.batch_size * self.batch_size
            batches = members[:whole].reshape(-1, self.batch_size)
            full += [(int(batch[-1]), batch) for batch in batches]
            rest.append(members[whole:])
        full.sort(key=lambda batch: batch[0])
        return np.concatenate([*(batch for _, batch in full), *rest])
