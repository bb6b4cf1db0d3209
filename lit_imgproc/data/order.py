"""The order of images: a function of seed, epoch and position alone, shared among ranks.

Nothing here depends on the number of workers or on the state of a random generator, so an
interrupted epoch goes on where it stopped, and an epoch shows the same images with the same
augmentations however it is loaded.
"""

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from lit_imgproc.data import workers
from lit_imgproc.data.errors import DataError
from lit_imgproc.errors import UserError

log = logging.getLogger(__name__)

RESTARTS = 3
"""How often in one pass over the data killed workers are started again."""


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """Batches of ``(index, sample_seed)`` for one rank, in an order that can be resumed.

    Each *global* batch of ``batch_size * world_size`` images is dealt out to the ranks, whose
    shares differ by at most one image; nothing is padded or repeated. A last global batch is kept
    unless it would leave a rank with a single image (batch norm cannot train on one) or none.

    The position is counted in images of the whole epoch, so that it means the same on any rank and
    survives a change of their number.

    Args:
        size: Images in the training set.
        batch_size: Images in a batch of one rank.
        seed: The seed of the order and of every sample's augmentation.
        rank: This process among those that share the data.
        world_size: How many processes share the data.

    Raises:
        UserError: There are too few images for one batch on every rank.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.global_batch = batch_size * world_size
        rest = size % self.global_batch
        self.end = size - rest if rest < min(2, batch_size) * world_size else size
        if self.end == 0:
            raise UserError(
                f"The {size} training images are too few for {world_size} processes "
                f"that take batches of {batch_size}: use fewer."
            )
        self.epoch = 0
        self.position = 0  # images of this epoch that were used
        self.start = 0  # where the next iteration begins: 0, or where a checkpoint stopped

    @property
    def sampler(self) -> "TrainBatches":
        """Lightning calls ``set_epoch`` on ``batch_sampler.sampler``: that is this object."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, or stay where this epoch was resumed."""
        if epoch != self.epoch:
            self.epoch, self.position, self.start = epoch, 0, 0

    def __len__(self) -> int:
        return -(-self.end // self.global_batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, self.start = self.start, 0
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.size)
        seeds = random.integers(2**63, size=self.size)
        for start in range(first, self.end, self.global_batch):
            stop = min(start + self.global_batch, self.end)
            mine = slice(start + self.rank, stop, self.world_size)
            yield list(zip(order[mine].tolist(), seeds[mine].tolist(), strict=True))


class EvalBatches(Sampler[list[int]]):
    """Batches of indices for one rank: over all ranks every image exactly once, in order.

    All ranks get equally many batches, since distributed modules may talk to each other in each:
    a last global batch that is smaller than the number of ranks joins the one before it.

    Raises:
        UserError: There are fewer images than ranks.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if size < world_size:
            raise UserError(
                f"{size} images cannot be shared among {world_size} processes: use fewer."
            )
        self.rank, self.world_size = rank, world_size
        self.global_batch, self.end = batch_size * world_size, size
        self.position = self.start = 0  # as in TrainBatches
        self.bounds = [*range(0, size, self.global_batch), size]
        if len(self.bounds) > 2 and size - self.bounds[-2] < world_size:
            del self.bounds[-2]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[list[int]]:
        first, self.start = self.start, 0
        bounds = [bound for bound in self.bounds if bound >= first]
        for start, stop in itertools.pairwise(bounds):
            yield list(range(start + self.rank, stop, self.world_size))


class Loader(DataLoader[Any]):
    """A ``DataLoader`` over :class:`~lit_imgproc.data.readable.Readable`.

    Raises:
        DataError: While it is iterated, where an image cannot be read.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in self._batches():
            if isinstance(batch, DataError):
                # A new one: raising what this frame holds would keep the workers in a cycle.
                raise DataError(str(batch))
            yield batch

    def _batches(self) -> Iterator[Any]:
        return super().__iter__()


class OrderedLoader(Loader):
    """A loader that goes on where it was when the system kills a worker of it.

    Since the order is a function of the position alone, the batches are the same as without it.

    Raises:
        DataError: Workers were killed more often than :data:`RESTARTS` times in one pass.
    """

    batch_sampler: TrainBatches | EvalBatches

    def _batches(self) -> Iterator[Any]:
        # A generator, so that nothing is fetched before Lightning has set the epoch.
        order = self.batch_sampler
        order.position = order.start
        for deaths in range(1, RESTARTS + 2):
            try:
                for batch in workers.batches(self, super()._batches):
                    order.position = min(order.position + order.global_batch, order.end)
                    yield batch
                return
            except workers.WorkersKilled as killed:
                if deaths > RESTARTS:
                    raise DataError(
                        f"the system killed processes that load images {deaths} times in one pass "
                        "over the data, as it does when memory runs out: lower data.num_workers "
                        f"(it is {self.num_workers}), data.batch_size or data.image_size"
                    ) from None
                log.warning(
                    "the system killed a process that loads images (%s), as it does when memory "
                    "runs out; all %d are started again and no batch is lost. Lower "
                    "data.num_workers, data.batch_size or data.image_size.",
                    str(killed),  # not the exception: whoever keeps the record would keep workers
                    self.num_workers,
                )
                order.start = order.position


class TrainLoader(OrderedLoader):
    """A loader over :class:`TrainBatches` whose position Lightning checkpoints.

    Batches count as used when they leave the loader, not when a worker fetches them ahead. So a
    checkpoint that is saved after a batch resumes with the next one. One saved amid a training
    step has counted the batch of that step.
    """

    batch_sampler: TrainBatches

    def state_dict(self) -> dict[str, int]:
        """Epoch and position, in images of the whole epoch: the same on every rank."""
        return {"epoch": self.batch_sampler.epoch, "position": self.batch_sampler.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the last batch that was used when ``state`` was taken."""
        order = self.batch_sampler
        order.epoch, order.position, order.start = (
            state["epoch"],
            state["position"],
            state["position"],
        )
