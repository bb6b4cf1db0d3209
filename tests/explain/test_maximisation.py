"""Activation maximisation against linear units, whose optimum is known, and on networks."""

import pytest
import torch
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.maximisation import channel, maximise
from lit_imgproc.models.classification import networks
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.models.segmentation.networks import unet
from lit_imgproc.models.targets import Target
from lit_imgproc.optim import SGD


def module_of(network, kind=Classifier, num_classes=5, channels=3):
    return kind(
        network=network,
        num_classes=num_classes,
        mean=[0.5] * channels,
        std=[0.5] * channels,
        optimizer=SGD(lr=0.1),
    )


def disc(side, channels):
    """A template: above 0 in a disc, below 0 around it."""
    at = torch.arange(side) - side / 2 + 0.5
    one = (torch.hypot(at[:, None], at) < side / 4).float() - 0.3
    return one * torch.tensor([1.0, 0.5, 0.7])[:channels, None, None]


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.fixture
def convnet():
    torch.manual_seed(0)
    return module_of(networks.convnet(5, 1), channels=1).train()


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (29, 3), (96, 3)])
def test_a_linear_unit_is_brought_to_its_optimum(convnet, side, channels):
    template = disc(side, channels)
    images = maximise(
        convnet,
        lambda images: (images * template).sum((1, 2, 3)),
        size=(side, side),
        channels=channels,
        jitter=0,
        total_variation=0,
    )
    assert images.shape == (1, channels, side, side)
    assert images.min() >= 0
    assert images.max() <= 1
    best = (template > 0).float()  # black where it is negative, full where it is positive
    assert correlation(images[0], best) > 0.95
    assert (images[0] * template).sum() > 0.8 * (best * template).sum()


def test_jitter_still_finds_it_and_units_may_differ_by_image(convnet):
    templates = torch.stack([disc(32, 1), -disc(32, 1)])
    images = maximise(
        convnet,
        lambda images: (images * templates).sum((1, 2, 3)),
        size=(32, 32),
        channels=1,
        count=2,
    )
    for image, template in zip(images, templates, strict=True):
        assert correlation(image, (template > 0).float()) > 0.85


def test_images_need_not_be_square(convnet):
    unit = lambda images: images[:, 0, :, :10].mean((1, 2)) - images[:, 0, :, 10:].mean((1, 2))  # noqa: E731
    image = maximise(convnet, unit, size=(16, 30), channels=1, jitter=0)[0, 0]
    assert image.shape == (16, 30)
    assert image[:, :8].mean() > 0.9
    assert image[:, 12:].mean() < 0.1


def test_total_variation_makes_it_smooth(convnet):
    template = torch.randn(1, 24, 24, generator=torch.Generator().manual_seed(0))
    rough, smooth = (
        maximise(
            convnet,
            lambda images: (images * template).mean((1, 2, 3)),
            size=(24, 24),
            channels=1,
            jitter=0,
            total_variation=weight,
        )
        for weight in (0.0, 0.8)
    )
    assert smooth.diff(dim=-1).abs().mean() < 0.75 * rough.diff(dim=-1).abs().mean()


def test_smoothness_is_relative_to_the_unit_whatever_its_scale(convnet):
    template = disc(24, 1)
    small, large = (
        maximise(
            convnet,
            lambda images, scale=scale: scale * (images * template).mean((1, 2, 3)),
            size=(24, 24),
            channels=1,
            steps=20,
        )
        for scale in (1e-3, 1e3)
    )
    torch.testing.assert_close(small, large, rtol=0, atol=1e-3)
    still = maximise(convnet, lambda images: 0 * images.sum((1, 2, 3)), size=(24, 24), channels=1,
                     steps=5)  # fmt: skip
    assert still.isfinite().all()


def test_colours_start_alike_and_those_of_photographs_move_first(convnet):
    """A step along brightness goes further than one along a colour."""

    def reached(axis):
        direction = torch.tensor(axis)[:, None, None]
        image = maximise(
            convnet,
            lambda images: (images * direction).mean((1, 2, 3)),
            size=(16, 16),
            channels=3,
            jitter=0,
            steps=3,
        )[0]
        return float((image * direction).mean())

    start = maximise(convnet, lambda images: images.sum((1, 2, 3)), size=(16, 16), channels=3,
                     steps=0)  # fmt: skip
    assert (start - 0.5).abs().max() < 0.05
    grey = reached([1.0, 1.0, 1.0]) - 0.5
    colour = reached([1.0, 0.0, -1.0])
    assert grey > 2 * colour > 0


def test_the_start_has_as_much_contrast_at_every_size(convnet):
    spreads = []
    for side in (28, 56, 224):
        start = maximise(convnet, lambda images: images.sum((1, 2, 3)), size=(side, side),
                         channels=1, steps=0, count=8)  # fmt: skip
        spreads.append(float(start.std()))
    assert max(spreads) < 1.5 * min(spreads)


def test_a_class_is_seen_in_its_image(convnet):
    unit = convnet.attribution_fn([Target(k) for k in range(5)])
    images = maximise(
        convnet, unit, size=(28, 28), channels=1, count=5, steps=60, total_variation=0
    )
    start = maximise(convnet, unit, size=(28, 28), channels=1, count=5, steps=0)
    noise = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    assert convnet.training
    convnet.eval()
    with torch.no_grad():
        logits = convnet(images)
        assert logits.argmax(1).tolist() == list(range(5))
        assert (logits.diagonal() > convnet(start).diagonal() + 0.05).all()
        assert (logits.diagonal() > convnet(noise).amax(0) + 0.05).all()


def test_channels_of_a_layer_are_units(convnet):
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    convnet.eval()
    maps = convnet.network.conv1(convnet.normalization(images))
    unit = channel(convnet, "conv1", [3, 5])
    torch.testing.assert_close(unit(images), maps[[0, 1], [3, 5]].mean((1, 2)))
    torch.testing.assert_close(channel(convnet, "conv1", 3)(images), maps[:, 3].mean((1, 2)))
    assert not convnet.network.conv1._forward_hooks
    unit = channel(convnet, "relu3", [7, 8])
    found = maximise(convnet, unit, size=(28, 28), channels=1, count=2, steps=60)
    with torch.no_grad():
        assert (unit(found) > 2 * unit(images)).all()


def test_channels_of_tokens_and_of_segmenters_are_units():
    torch.manual_seed(0)
    vit = module_of(networks.test_vit(5, image_size=32)).eval()
    segmenter = module_of(unet("test_resnet", 2), Segmenter, 2).eval()
    for module, layer in ((vit, "blocks.2"), (segmenter, "encoder.model.layer2")):
        unit = channel(module, layer, 4)
        found = maximise(module, unit, size=(32, 32), channels=3, steps=20)
        with torch.no_grad():
            assert unit(found) > unit(torch.full_like(found, 0.5))


def test_the_same_seed_makes_the_same_and_nothing_else_is_touched(convnet):
    unit = convnet.attribution_fn(Target(2))
    state = torch.get_rng_state()
    buffers = [b.clone() for b in convnet.buffers()]
    with torch.inference_mode():
        first, second, other = (
            maximise(convnet, unit, size=(28, 28), channels=1, steps=4, seed=seed)
            for seed in (1, 1, 2)
        )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not first.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, convnet.buffers(), buffers))
    assert all(p.grad is None and p.requires_grad for p in convnet.parameters())
    assert not any(layer._forward_hooks for layer in convnet.modules())


def test_units_that_cannot_be_maximised_are_named(convnet):
    with pytest.raises(UserError, match=r"shape \[1, 5\] for 1 images: one an image"):
        maximise(convnet, convnet, size=(28, 28), channels=1, jitter=0)
    with pytest.raises(UserError, match="ConvNet has no layer conv9"):
        channel(convnet, "conv9", 0)
    images = torch.rand(1, 1, 28, 28)
    with pytest.raises(UserError, match="conv1 has the channels 0 to 15, not 16"):
        channel(convnet, "conv1", 16)(images)
    assert not convnet.network.conv1._forward_hooks
    convnet.network.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(UserError, match="spare did not run"):
        channel(convnet, "spare", 0)(images)
