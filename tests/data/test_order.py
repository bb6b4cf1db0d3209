import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lit_imgproc.data.order import EvalBatches, TrainBatches, TrainLoader
from lit_imgproc.errors import UserError


class Pairs(Dataset):
    """Gives back what it was asked for."""

    def __len__(self):
        return 50

    def __getitem__(self, pair):
        return torch.tensor(pair)


def loader(workers=0, seed=0):
    order = TrainBatches(50, 8, seed)
    return TrainLoader(Pairs(), batch_sampler=order, num_workers=workers)


def batches(loader, count=None):
    return [batch.tolist() for batch in itertools.islice(loader, count)]


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch():
    def epoch(seed, number):
        order = TrainBatches(50, 8, seed)
        order.set_epoch(number)
        return list(itertools.chain(*order))

    first = epoch(0, 0)
    assert sorted(index for index, _ in first) == list(range(50))
    assert len({seed for _, seed in first}) == 50
    assert first == epoch(0, 0)
    for other in (epoch(0, 1), epoch(1, 0)):
        assert [index for index, _ in first] != [index for index, _ in other]
        assert {seed for _, seed in first}.isdisjoint(seed for _, seed in other)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("size", [48, 50, 61, 71])
def test_ranks_share_each_global_batch_of_one_process(size, world_size):
    whole = list(TrainBatches(size, 4 * world_size, seed=3))
    ranks = [list(TrainBatches(size, 4, 3, rank, world_size)) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    for together, *shares in zip(whole, *ranks, strict=False):
        assert sorted(itertools.chain(*shares)) == sorted(together)
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
    left_out = size - sum(len(batch) for rank in ranks for batch in rank)
    assert left_out < 2 * world_size


@pytest.mark.parametrize(
    ("size", "batch_size", "world_size", "steps"),
    [(10, 4, 1, 3), (9, 4, 1, 2), (9, 1, 1, 9), (3, 4, 2, None), (4, 4, 2, 1), (1, 1, 2, None)],
)
def test_no_rank_gets_a_batch_of_one_unless_asked_for(size, batch_size, world_size, steps):
    if steps is None:
        with pytest.raises(UserError, match="too few"):
            TrainBatches(size, batch_size, 0, 0, world_size)
    else:
        order = TrainBatches(size, batch_size, 0, 0, world_size)
        assert len(order) == len(list(order)) == steps


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
@pytest.mark.parametrize("size", [8, 33, 64, 65, 1001])
def test_evaluation_sees_every_image_once_in_equally_many_batches(size, batch_size, world_size):
    ranks = [EvalBatches(size, batch_size, rank, world_size) for rank in range(world_size)]
    seen = [list(rank) for rank in ranks]
    assert sorted(itertools.chain(*itertools.chain(*seen))) == list(range(size))
    assert len({len(batches) for batches in seen}) == 1
    assert len(ranks[0]) == len(seen[0])
    assert all(0 < len(batch) <= batch_size + 1 for batches in seen for batch in batches)


def test_one_process_evaluates_in_order():
    assert list(EvalBatches(7, 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_fewer_images_than_ranks_cannot_be_evaluated():
    with pytest.raises(UserError, match="3 images cannot be shared among 4"):
        EvalBatches(3, 2, 0, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_after_the_last_batch_that_was_used(workers):
    expected = batches(loader())
    for used in range(len(expected) + 1):
        stopped = loader(workers)
        stopped.batch_sampler.set_epoch(0)
        assert batches(stopped, used) == expected[:used]
        resumed = loader()
        resumed.load_state_dict(stopped.state_dict())
        resumed.batch_sampler.set_epoch(0)  # as Lightning does when it resumes amid an epoch
        assert batches(resumed) == expected[used:]
        assert batches(resumed) == expected


def test_the_position_survives_another_number_of_ranks():
    stopped = loader()
    batches(stopped, 2)
    rest = list(itertools.chain(*batches(loader())[2:-1]))  # two ranks drop a last batch of two
    order = TrainBatches(50, 4, 0, rank=1, world_size=2)
    resumed = TrainLoader(Pairs(), batch_sampler=order)
    resumed.load_state_dict(stopped.state_dict())
    assert list(itertools.chain(*batches(resumed))) == rest[1::2]


def test_the_next_epoch_starts_from_its_beginning():
    stopped = loader()
    batches(stopped, 2)
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    resumed.batch_sampler.set_epoch(1)
    expected = loader()
    expected.batch_sampler.set_epoch(1)
    assert resumed.state_dict() == {"epoch": 1, "position": 0}
    assert batches(resumed) == batches(expected)


def test_seeds_are_uniform_enough_to_seed_with():
    seeds = np.array([seed for batch in TrainBatches(4096, 64, 0) for _, seed in batch], float)
    assert abs(seeds.mean() / 2**63 - 0.5) < 0.02
