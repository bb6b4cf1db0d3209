import itertools

import numpy as np
import pytest
from torch.utils.data import Dataset

from lit_imgproc.data.coco.grouping import GroupedBatches, aspect_groups
from lit_imgproc.data.order import TrainBatches, TrainLoader
from lit_imgproc.errors import UserError


def groups_of(size):
    return np.random.default_rng(size).choice([0, 0, 0, 1, 2], size).astype(np.int64)


class Same(Dataset):
    def __getitem__(self, pair):
        return pair


def test_groups_go_by_width_over_height():
    sizes = [(480, 640), (640, 480), (481, 640), (100, 100), (100, 900), (100, 1000), (900, 100)]
    groups = aspect_groups(np.array(sizes, np.int32)).tolist()
    assert groups[0] == groups[2]
    assert groups[4] == groups[5]
    assert len(set(groups)) == 5
    assert groups[6] < groups[1] < groups[3] < groups[0] < groups[4]


def test_a_batch_is_of_one_group_but_for_what_is_left():
    groups = groups_of(203)
    batches = list(GroupedBatches(groups, 8, seed=0))
    mixed = [len({groups[index] for index, _ in batch}) > 1 for batch in batches]
    assert sum(mixed) <= 3
    assert not any(mixed[: 203 // 8 - 3])
    seen = [index for batch in batches for index, _ in batch]
    assert sorted(seen) == list(range(203))
    # Groups take turns as the shuffled images come, not one after the other.
    first = [groups[batch[0][0]] for batch in batches[:12]]
    assert len(set(first)) > 1


def test_an_epoch_depends_on_seed_and_epoch_alone():
    def epoch(seed, number):
        order = GroupedBatches(groups_of(60), 4, seed)
        order.set_epoch(number)
        return list(itertools.chain(*order))

    assert epoch(0, 0) == epoch(0, 0)
    for other in (epoch(0, 1), epoch(1, 0)):
        assert [index for index, _ in other] != [index for index, _ in epoch(0, 0)]
        assert {seed for _, seed in other}.isdisjoint(seed for _, seed in epoch(0, 0))


def test_an_image_has_the_seed_that_it_has_without_groups():
    plain = dict(itertools.chain(*TrainBatches(64, 8, 3)))
    assert dict(itertools.chain(*GroupedBatches(groups_of(64), 8, 3))) == plain


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("size", [48, 50, 61, 71])
def test_ranks_share_each_global_batch(size, world_size):
    ranks = [list(GroupedBatches(groups_of(size), 4, 3, r, world_size)) for r in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(GroupedBatches(groups_of(size), 4, 3, 0, world_size))
    for shares in zip(*ranks, strict=True):
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) > 1
    seen = [index for rank in ranks for batch in rank for index, _ in batch]
    assert len(set(seen)) == len(seen) > size - 2 * world_size


def test_the_order_does_not_depend_on_the_number_of_ranks():
    alone = list(itertools.chain(*GroupedBatches(groups_of(64), 4, 3)))
    ranks = [list(GroupedBatches(groups_of(64), 4, 3, rank, 4)) for rank in range(4)]
    together = [pair for shares in zip(*ranks, strict=True) for share in shares for pair in share]
    assert together == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_after_the_last_batch_that_was_used(workers):
    def loader(workers=0):
        order = GroupedBatches(groups_of(50), 8, 0)
        return TrainLoader(Same(), batch_sampler=order, num_workers=workers, collate_fn=list)

    whole = list(loader())
    for used in (0, 1, 4, len(whole)):
        stopped = loader(workers)
        assert list(itertools.islice(stopped, used)) == whole[:used]
        resumed = loader()
        resumed.load_state_dict(stopped.state_dict())
        assert list(resumed) == whole[used:]


def test_too_few_images_are_told():
    with pytest.raises(UserError, match="too few"):
        GroupedBatches(groups_of(3), 4, 0, 0, 2)
