"""The score of a class over a region, which explanations differentiate."""

import pytest
import torch
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.cam import grad_cam, hires_cam
from lit_imgproc.models.segmentation.attribution import RegionTarget, region_score, region_targets
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.models.segmentation.networks import unet
from lit_imgproc.optim import SGD

WEIGHTS = torch.tensor([[0.0, 0.0], [3.0, -0.5], [-1.0, 2.0]])
"""Of the three classes of :func:`pixelwise`, for two channels."""


def pixelwise(images):
    """Logits of each pixel, from its own channels alone."""
    return torch.einsum("kc,bc...->bk...", WEIGHTS, images)


def gradient(score, images):
    images = images.clone().requires_grad_()
    values = score(images)
    (found,) = torch.autograd.grad(values.sum(), images)
    return values.detach(), found


def block(*size, rows, columns):
    region = torch.zeros(*size, dtype=torch.bool)
    region[..., slice(*rows), slice(*columns)] = True
    return region


def scene(*size):
    """Two channels: a large object of class 1 and a small one of class 2, on nothing."""
    image = torch.zeros(2, *size)
    image[0, ..., 4:12, 4:16] = 1
    image[1, ..., 16:20, 20:24] = 1
    return image


@pytest.mark.parametrize("size", [(6, 8), (3, 6, 8)])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_score_is_the_mean_logit_and_its_gradient_the_weights(size, label):
    region = block(*size, rows=(1, 4), columns=(2, 7))
    images = torch.rand(2, 2, *size)
    values, found = gradient(region_score(pixelwise, RegionTarget(label, region)), images)
    means = torch.stack([image[:, region].mean(1) for image in images])
    torch.testing.assert_close(values, means @ WEIGHTS[label])
    share = region / region.sum()
    expected = WEIGHTS[label].view(-1, *[1] * len(size)) * share
    torch.testing.assert_close(found, expected.expand_as(found))


@pytest.mark.parametrize("size", [(24, 32), (2, 24, 32)])
def test_the_network_says_itself_what_covers_most_of_each_image(size):
    other = torch.zeros(2, *size)
    other[1, ..., 2:9, 3:6] = 0.5
    images = torch.stack([scene(*size), other])
    regions = block(*size, rows=(4, 12), columns=(4, 16)), block(*size, rows=(2, 9), columns=(3, 6))
    values, found = gradient(region_score(pixelwise, background=True), images)
    torch.testing.assert_close(values, torch.tensor([3.0, 1.0]))
    for one, region, weights in zip(found, regions, WEIGHTS[1:], strict=True):
        expected = weights.view(-1, *[1] * len(size)) * region / region.sum()
        torch.testing.assert_close(one, expected)
    # Where no class is the background, that of nothing covers most.
    assert region_score(pixelwise)(images).tolist() == [0, 0]


def test_a_class_is_asked_for_where_the_network_answers_it():
    images = torch.stack([scene(24, 32), torch.zeros(2, 24, 32)])
    values, found = gradient(region_score(pixelwise, RegionTarget(2)), images)
    torch.testing.assert_close(values, torch.tensor([2.0, 0.0]))
    region = block(24, 32, rows=(16, 20), columns=(20, 24))
    assert (found[0, 1] > 0).equal(region)
    assert not found[1].any()  # where nothing is of the class there is no evidence


def test_where_all_is_background_the_score_is_zero_and_so_is_its_gradient():
    values, found = gradient(region_score(pixelwise, background=True), torch.zeros(2, 2, 8, 8))
    assert values.tolist() == [0, 0]
    assert not found.any()


def test_a_logit_without_bound_outside_the_region_does_not_matter():
    images = torch.zeros(1, 2, 8, 8)
    images[0, 0, 7, 7] = torch.inf
    region = block(8, 8, rows=(0, 2), columns=(0, 2))
    assert region_score(pixelwise, RegionTarget(1, region))(images).tolist() == [0]


def test_each_image_has_a_score_of_its_own():
    images = torch.rand(3, 2, 8, 8)
    for target in (None, RegionTarget(1), RegionTarget(1, torch.ones(8, 8, dtype=torch.bool))):
        score = region_score(pixelwise, target)
        alone = torch.cat([score(image[None]) for image in images])
        torch.testing.assert_close(score(images), alone)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (RegionTarget(3), "class 3 .* classes 0 to 2"),
        (RegionTarget(-1), "class -1 .* classes 0 to 2"),
        (RegionTarget(1, torch.zeros(8, 8, dtype=torch.bool)), "empty"),
        (RegionTarget(1, torch.ones(8, 9, dtype=torch.bool)), r"\[8, 9\].*\[8, 8\]"),
        (RegionTarget(1, torch.ones(1, 8, 8, dtype=torch.bool)), r"\[1, 8, 8\]"),
        (RegionTarget(1, torch.ones(8, 8)), "torch.float32.*torch.bool"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(target, message):
    with pytest.raises(UserError, match=message):
        region_score(pixelwise, target)(torch.zeros(2, 2, 8, 8))


class Cells(nn.Module):
    """Averages cells of 4x4 pixels, and judges each cell."""

    def __init__(self):
        super().__init__()
        self.cells = nn.AvgPool2d(4)

    def forward(self, images):
        return nn.functional.interpolate(pixelwise(self.cells(images)), scale_factor=4)


@pytest.mark.parametrize("method", [grad_cam, hires_cam])
@pytest.mark.parametrize(
    ("label", "rows", "columns"), [(1, (4, 12), (4, 16)), (2, (16, 20), (20, 24))]
)
def test_a_map_points_at_the_region(label, rows, columns, method):
    network, image = Cells(), scene(24, 32)[None]
    # The map is bilinear from cells of four pixels: it reaches two pixels further.
    near = block(24, 32, rows=(rows[0] - 2, rows[1] + 2), columns=(columns[0] - 2, columns[1] + 2))
    for region in (None, block(24, 32, rows=rows, columns=columns)):
        score = region_score(network, RegionTarget(label, region))
        with torch.inference_mode():
            (heat,) = method(score, image, network.cells)
        assert (heat > 0).equal(near)


def test_only_a_gradient_of_each_place_tells_two_like_objects_apart():
    network, image = Cells(), torch.zeros(1, 2, 24, 32)
    image[0, 0, 4:12, 4:12] = image[0, 0, 4:12, 20:28] = 1
    asked = RegionTarget(1, block(24, 32, rows=(4, 12), columns=(4, 12)))
    mean, each = (
        method(region_score(network, asked), image, network.cells)[0]
        for method in (grad_cam, hires_cam)
    )
    torch.testing.assert_close(mean[:, :16].sum(), mean[:, 16:].sum())
    assert each[:, 16:].sum() == 0 < each[:, :16].sum()


def answer_of(*rows):
    """Logits ``[1, 3, 2, 4]`` whose greatest are of these classes."""
    mask = torch.tensor(rows)
    return torch.nn.functional.one_hot(mask, 3).permute(2, 0, 1)[None].float()


def test_what_is_explained_is_what_covers_most_or_what_is_asked_for():
    logits = torch.cat([answer_of([0, 0, 0, 1], [0, 0, 2, 2]), answer_of([0] * 4, [0] * 4)])
    first, second = region_targets(logits, background=True)
    assert (first.label, first.region.tolist()) == (2, [[False] * 4, [False, False, True, True]])
    assert second is None
    assert region_targets(logits)[0].label == 0
    asked, missing = region_targets(logits, 1)
    assert (asked.label, asked.region.sum()) == (1, 1)
    assert missing is None


def test_a_box_is_a_region_of_what_covers_most_of_it():
    logits = answer_of([0, 0, 1, 1], [0, 0, 2, 1])
    (found,) = region_targets(logits, box=(1.9, 0, 4, 2))
    assert (found.label, found.region.tolist()) == (1, [[False, False, True, True]] * 2)
    (found,) = region_targets(logits, 0, box=(-3, 0, 1, 1))
    assert (found.label, found.region.sum(), found.region[0, 0]) == (0, 1, True)
    with pytest.raises(UserError, match="no pixel of the image lies in the box"):
        region_targets(logits, box=(7, 0, 9, 2))


def test_how_sure_it_is_of_a_region_is_the_mean_probability():
    logits = answer_of([0, 0, 1, 1], [0, 0, 2, 1]).repeat(2, 1, 1, 1)
    region = torch.tensor([[False, False, True, True], [False] * 4])
    targets = [RegionTarget(1, region), RegionTarget(2, ~region)]
    sure = region_score(lambda images: logits, targets, probabilities=True)(torch.zeros(2, 1, 2, 4))
    shares = logits.softmax(1)
    expected = torch.stack([shares[0, 1][region].mean(), shares[1, 2][~region].mean()])
    torch.testing.assert_close(sure, expected)


def test_a_segmenter_is_explained_through_its_network():
    torch.manual_seed(0)
    module = Segmenter(
        network=unet("test_resnet", 3, decoder_channels=(16, 16, 8, 8, 8)),
        num_classes=3, class_names=["background", "cell", "edge"],
        mean=[0.5] * 3, std=[0.25] * 3, optimizer=SGD(lr=0.1),
    ).eval()  # fmt: skip
    images = torch.rand(2, 3, 37, 50)  # the network takes multiples of 32
    logits = module(images).detach()
    answer = logits.argmax(1)
    areas = torch.stack([one.flatten().bincount(minlength=3) for one in answer])[:, 1:]
    values, found = gradient(module.attribution_fn(), images)
    for i, label in enumerate((areas.argmax(1) + 1).tolist()):
        where = answer[i] == label
        assert where.any()
        torch.testing.assert_close(values[i], logits[i, label][where].mean())
    assert (found.abs().sum((1, 2, 3)) > 0).all()
    maps = grad_cam(module.attribution_fn(), images, module.attribution_layer(), module.feature_map)
    assert maps.shape == (2, 37, 50)
    assert maps.isfinite().all()
