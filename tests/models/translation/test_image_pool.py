import torch

from lit_imgproc.models.translation.pool import ImagePool


def numbered(first, count):
    return torch.arange(first, first + count).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def test_until_it_is_full_it_gives_back_what_it_is_given():
    pool = ImagePool(5)
    for first in (0, 2):
        assert torch.equal(pool.exchange(numbered(first, 2)), numbered(first, 2))
    assert len(pool.images) == 4


def test_once_it_is_full_it_gives_back_an_older_image_half_of_the_time():
    torch.manual_seed(0)
    pool = ImagePool(50)
    pool.exchange(numbered(0, 50))
    new = numbered(50, 1000)
    given = pool.exchange(new)
    older = (given != new).flatten(1).all(1)
    assert 0.45 < older.float().mean() < 0.55
    # Nothing is lost or doubled: what was exchanged is in the pool, and what was not is gone.
    assert len(pool.images) == 50
    everything = sorted([float(image[0, 0, 0]) for image in [*given, *pool.images]])
    assert everything == [float(n) for n in range(1050)]


def test_a_pool_of_none_keeps_none():
    pool = ImagePool(0)
    assert torch.equal(pool.exchange(numbered(0, 3)), numbered(0, 3))
    assert pool.images == []


def test_images_that_are_kept_hold_no_graph():
    pool = ImagePool(2)
    given = pool.exchange(numbered(0, 2).clone().requires_grad_())
    assert not given.requires_grad
    assert not pool.images[0].requires_grad


def test_a_pool_goes_on_exactly():
    torch.manual_seed(0)
    pool = ImagePool(4)
    pool.exchange(numbered(0, 6))
    other = ImagePool(4)
    other.load(pool.state())
    torch.manual_seed(1)
    expected = pool.exchange(numbered(6, 8))
    torch.manual_seed(1)
    assert torch.equal(other.exchange(numbered(6, 8)), expected)
    assert torch.equal(torch.stack(other.images), torch.stack(pool.images))


def test_pools_of_other_ranks_are_dealt_out(monkeypatch):
    state = [list(numbered(0, 3)), list(numbered(3, 3))]
    alone = ImagePool(4)
    alone.load(state)
    assert [float(image[0, 0, 0]) for image in alone.images] == [0, 1, 2, 3]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    second = ImagePool(4)
    second.load(state)
    assert [float(image[0, 0, 0]) for image in second.images] == [3, 4, 5]
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    second.load(state)
    assert [float(image[0, 0, 0]) for image in second.images] == [1, 4]
