"""Occlusion: scores whose drop is known, and windows from edge to edge."""

import pytest
import torch
from captum.attr import Occlusion
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.occlusion import occlusion


def draws(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def counted(score, sizes):
    def scored(x):
        sizes.append(len(x))
        return score(x)

    return scored


def test_of_a_score_that_reads_one_pixel_only_windows_over_it_drop():
    images = draws(2, 3, 16, 16)

    def score(x):
        return x[:, 1, 5, 9]

    maps = occlusion(score, images, window=1)
    expected = torch.zeros(2, 16, 16)
    expected[:, 5, 9] = images[:, 1, 5, 9] - images[:, 1].mean((1, 2))
    torch.testing.assert_close(maps, expected)

    maps = occlusion(score, images, window=4, stride=4)
    expected = torch.zeros(2, 16, 16)
    expected[:, 4:8, 8:12] = (images[:, 1, 5, 9] - images[:, 1].mean((1, 2))).view(2, 1, 1)
    torch.testing.assert_close(maps, expected)


def test_a_pixel_has_the_mean_drop_of_the_windows_over_it():
    images = torch.tensor([[[[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 6.0]]]])  # mean 1
    maps = occlusion(lambda x: x.sum((1, 2, 3)), images, window=2, stride=1)
    # The four windows: sums 3, 0, 0, 6, each becomes 4.
    drops = torch.tensor([[-1.0, -4.0], [-4.0, 2.0]])
    expected = torch.tensor(
        [
            [drops[0, 0], drops[0].mean(), drops[0, 1]],
            [drops[:, 0].mean(), drops.mean(), drops[:, 1].mean()],
            [drops[1, 0], drops[1].mean(), drops[1, 1]],
        ]
    )
    torch.testing.assert_close(maps[0], expected)


def test_equals_captum_where_whole_windows_reach_the_edge():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(1)).eval()
    images = draws(1, 2, 12, 16)

    def score(x):
        return network(x)[:, 0]

    score(images)
    theirs = Occlusion(score).attribute(
        images,
        sliding_window_shapes=(2, 4, 4),
        strides=(2, 2, 2),
        baselines=images.mean((2, 3), keepdim=True).expand_as(images),
    )
    ours = occlusion(score, images, window=4, stride=2)
    torch.testing.assert_close(ours, theirs[:, 0].detach().float(), atol=1e-6, rtol=1e-5)
    assert ours.std() > 1e-3


@pytest.mark.parametrize(("side", "window", "stride"), [(11, 4, 3), (28, 3, 2), (16, 5, 2)])
def test_both_edges_are_covered_alike(side, window, stride):
    half = draws(1, 1, side, side)
    images = half + half.flip((2, 3))
    weight = draws(side, side).T
    weight = weight + weight.flip((0, 1))
    maps = occlusion(lambda x: (weight * x**2).sum((1, 2, 3)), images, window=window, stride=stride)
    assert maps.isfinite().all()
    edges = [*range(window), *range(side - window, side)]
    corners = maps[0][edges][:, edges]
    torch.testing.assert_close(corners, corners.flip((0, 1)), atol=1e-4, rtol=1e-4)
    assert corners.std() > 0.1


@pytest.mark.parametrize(
    ("sides", "places"), [((32, 32), 15**2), ((6, 5), 30), ((1, 3), 3), ((8, 8, 8), 8**3)]
)
def test_the_window_suits_the_image(sides, places):
    sizes = []
    score = counted(lambda x: x.flatten(1).sum(1), sizes)
    maps = occlusion(score, draws(1, 1, *sides), batch_size=100)
    assert maps.shape == (1, *sides)
    assert sum(sizes) == places + 1
    assert max(sizes) <= 100


def test_a_flat_volume_does_not_have_more_places_than_a_cube():
    sizes = []
    occlusion(counted(lambda x: x.flatten(1).sum(1), sizes), draws(1, 1, 4, 32, 32), batch_size=512)
    assert sum(sizes) <= 15**3


def test_a_volume():
    images = draws(2, 1, 4, 6, 8)
    maps = occlusion(lambda x: x[:, 0, 3, 0, 7], images, window=2, stride=2)
    expected = torch.zeros(2, 4, 6, 8)
    drop = images[:, 0, 3, 0, 7] - images[:, 0].mean((1, 2, 3))
    expected[:, 2:, :2, 6:] = drop.view(2, 1, 1, 1)
    torch.testing.assert_close(maps, expected)


def test_a_batch_is_its_images_and_nothing_else_changes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True)).eval()
    images = draws(2, 2, 9, 10) - 0.3
    before, state = images.clone(), torch.get_rng_state()

    def score(x):
        return network(x).mean((1, 2, 3))

    maps = occlusion(score, images, window=3)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert not maps.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(layer._forward_hooks for layer in network.modules())
    each = torch.cat([occlusion(score, image[None], window=3) for image in images])
    torch.testing.assert_close(maps, each)
    with torch.inference_mode():
        torch.testing.assert_close(occlusion(score, images, window=3).clone(), maps)


def test_windows_that_cannot_be_are_refused():
    images = draws(1, 1, 6, 9)
    with pytest.raises(UserError, match=r"7 pixels does not fit in an image of 6 x 9; .* 1 to 6"):
        occlusion(lambda x: x.sum((1, 2, 3)), images, window=7)
    with pytest.raises(UserError, match="a window of 2 never covers; choose one from 1 to 2"):
        occlusion(lambda x: x.sum((1, 2, 3)), images, window=2, stride=3)
