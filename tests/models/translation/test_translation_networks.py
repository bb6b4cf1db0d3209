import pytest
import torch
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.translation.networks import (
    KeptDropout,
    PatchDiscriminator,
    patch_discriminator,
    resnet_generator,
    unet_generator,
)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: unet_generator([256, 256]), 54_413_955),
        (lambda: unet_generator([128, 128]), 41_828_995),
        (lambda: resnet_generator(blocks=9), 11_378_179),
        (lambda: resnet_generator(blocks=6), 7_837_699),
        (lambda: patch_discriminator(), 2_768_705),
        (lambda: patch_discriminator(conditional=False, norm="instance"), 2_764_737),
    ],
)
def test_networks_are_as_large_as_the_authors(build, count):
    with torch.device("meta"):  # nothing is drawn
        assert parameters(build()) == count


def test_cyclegan_has_as_many_parameters_as_published():
    with torch.device("meta"):
        generator = resnet_generator()
        discriminator = patch_discriminator(conditional=False, norm="instance")
    assert 2 * (parameters(generator) + parameters(discriminator)) == 28_285_832


@pytest.mark.parametrize(
    ("layers", "logits", "field"), [(0, 256, 1), (1, 126, 16), (2, 62, 34), (3, 30, 70)]
)
def test_a_logit_sees_a_patch(layers, logits, field):
    network = patch_discriminator(conditional=False, width=1, layers=layers).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.1)  # whatever comes in counts
    images = torch.rand(1, 3, 256, 256, requires_grad=True)
    said = network(images)
    assert said.shape == (1, 1, logits, logits)
    (slope,) = torch.autograd.grad(said[0, 0, logits // 2, logits // 2], images)
    rows, columns = slope[0].abs().sum(0).nonzero().unbind(1)
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == field


def test_a_discriminator_of_pairs_sees_both():
    network = patch_discriminator(in_channels=4, out_channels=1, width=2)
    assert network.layers[0].in_channels == 5
    assert patch_discriminator(4, 1, conditional=False, width=2).layers[0].in_channels == 1


def test_the_unet_halves_an_image_to_a_pixel():
    network = unet_generator([64, 128], width=2)
    assert len(network.down) == 6
    widths = [layer[0].out_channels for layer in network.down]
    assert widths == [2, 4, 8, 16, 16, 16]
    with pytest.raises(UserError, match=r"image_size \[4, 64\]: unet_generator .* 8 pixels"):
        unet_generator([4, 64])


def test_convolutions_before_a_norm_without_weights_have_a_bias():
    with torch.device("meta"):
        plain = unet_generator([32, 32], width=2, norm="instance")
        paper = unet_generator([32, 32], width=2, norm="instance_affine")
        batch = unet_generator([32, 32], width=2)
    assert plain.down[1][0].bias is not None
    assert plain.down[1][1].weight is None
    assert paper.down[1][0].bias is None
    assert parameters(paper) == parameters(batch)


def test_an_instance_norm_with_weights_is_a_batch_norm_of_one_image():
    torch.manual_seed(0)
    batch = unet_generator([16, 16], width=4, dropout=0)
    affine = unet_generator([16, 16], width=4, norm="instance_affine", dropout=0)
    affine.load_state_dict(batch.state_dict(), strict=False)
    images = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(affine.eval()(images), batch.train()(images))


@pytest.mark.parametrize("build", [lambda: unet_generator([32, 32], width=2), resnet_generator])
@pytest.mark.parametrize("size", [(32, 32), (35, 50), (41, 32)])
def test_generators_keep_the_size_of_any_image(build, size):
    torch.manual_seed(0)
    network = build() if build is not resnet_generator else resnet_generator(width=2, blocks=1)
    made = network.eval()(torch.rand(2, 3, *size))
    assert made.shape == (2, 3, *size)
    assert made.abs().max() <= 1


def test_a_generator_of_residual_blocks_makes_what_its_blocks_leave_alone():
    network = resnet_generator(width=2, blocks=2)
    block = network.layers[10]
    maps = torch.rand(1, 8, 4, 4)
    nn.init.zeros_(block.layers[5].weight)
    nn.init.zeros_(block.layers[5].bias)
    torch.testing.assert_close(block(maps), maps)


def test_weights_start_as_in_dcgan():
    torch.manual_seed(0)
    network = PatchDiscriminator(3, 32, 3, "batch")
    drawn = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim == 4])
    assert drawn.std() == pytest.approx(0.02, rel=0.02)
    assert drawn.mean() == pytest.approx(0, abs=1e-3)
    scales = network.layers[3].weight.detach()
    assert scales.mean() == pytest.approx(1, abs=0.01)
    assert not network.layers[3].bias.any()


# The noise of the U-Net --------------------------------------------------------------------------


def test_dropout_is_in_the_three_innermost_levels_of_the_decoder():
    network = unet_generator([256, 256], width=1)
    noisy = [any(isinstance(layer, KeptDropout) for layer in level) for level in network.up]
    assert noisy == [False] * 5 + [True] * 3


def test_noise_outside_of_training_repeats_and_is_that_of_the_seed():
    torch.manual_seed(0)
    network = unet_generator([32, 32], width=4).eval()
    other = unet_generator([32, 32], width=4, noise_seed=1).eval()
    silent = unet_generator([32, 32], width=4, noise_seed=None).eval()
    other.load_state_dict(network.state_dict())
    silent.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 32, 32)
    first = network(images)
    assert torch.equal(first, network(images))
    torch.testing.assert_close(first[1:], network(images[1:]))  # whatever else is in the batch
    assert not torch.allclose(first, other(images))
    assert not torch.allclose(first, silent(images))
    network.train()
    assert not torch.allclose(network(images), network(images))


def test_kept_dropout_drops_its_share_and_keeps_the_mean():
    layer = KeptDropout(0.25, seed=3).eval()
    dropped = layer(torch.ones(1, 64, 32, 32))
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean() == pytest.approx(1, abs=0.01)
    assert dropped.max() == pytest.approx(1 / 0.75)
    state = torch.get_rng_state()
    layer(torch.ones(1, 2, 2, 2))
    assert torch.equal(state, torch.get_rng_state())
