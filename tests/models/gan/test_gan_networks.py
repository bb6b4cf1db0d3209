"""DCGAN's networks: sizes, what they are told, and published weights."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.networks import DCGANDiscriminator, DCGANGenerator
from lit_imgproc.models.gan.weights import load_players


def count(network):
    return sum(p.numel() for p in network.parameters())


def published_generator(latent_dim=100, width=64, channels=3):
    """``netG`` of PyTorch's example, layer after layer, for 64 pixels."""
    sizes = [8 * width, 4 * width, 2 * width, width]
    layers = [nn.ConvTranspose2d(latent_dim, sizes[0], 4, 1, 0, bias=False)]
    for wide, narrow in zip(sizes, [*sizes[1:], channels], strict=True):
        layers += [nn.BatchNorm2d(wide), nn.ReLU(True)]
        layers += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False)]
    return nn.Sequential(*layers, nn.Tanh())


def published_discriminator(width=64, channels=3):
    """``netD`` of it."""
    sizes = [width, 2 * width, 4 * width, 8 * width]
    layers = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for narrow, wide in pairwise(sizes):
        layers += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 4, 1, 0, bias=False))


def test_parameters_at_64_pixels():
    assert count(DCGANGenerator([64, 64])) == 3_576_704
    assert count(DCGANDiscriminator([64, 64])) == 2_765_568


@pytest.mark.parametrize("size", [8, 28, 32, 40, 64])
def test_images_of_many_sizes(size):
    generator = DCGANGenerator([size, size], in_channels=1, latent_dim=8, width=4)
    discriminator = DCGANDiscriminator([size, size], in_channels=1, width=4)
    images = generator(torch.randn(3, 8))
    assert images.shape == (3, 1, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)


@pytest.mark.parametrize("size", [[28, 32], [27, 27], [4, 4], [36, 36]])
def test_sizes_that_cannot_be_made_are_said(size):
    for network in (DCGANGenerator, DCGANDiscriminator):
        with pytest.raises(UserError, match=f"these are {size[0]}x{size[1]}: set data.image_size"):
            network(size)


def test_weights_start_as_in_the_paper():
    torch.manual_seed(0)
    generator, discriminator = DCGANGenerator([64, 64]), DCGANDiscriminator([64, 64])
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            mean, std = (1, 0.02) if "norms" in name and "weight" in name else (0, 0.02)
            if "bias" in name:
                assert not parameter.any()
            else:
                assert abs(parameter.mean() - mean) < 0.01, name
                assert abs(parameter.std() - std) < 0.006, name
    assert not isinstance(list(generator.children())[-1][-1], nn.ReLU)
    assert len(discriminator.norms) == len(discriminator.convs) - 1  # none after the first


def test_a_conditional_pair_hears_the_class():
    told = {"image_size": [28, 28], "in_channels": 1, "width": 4, "conditional": True}
    generator = DCGANGenerator(**told, num_classes=3).eval()
    discriminator = DCGANDiscriminator(**told, num_classes=3).eval()
    latents = torch.randn(1, 100).expand(3, -1)
    images = generator(latents, torch.arange(3))
    assert (images[0] - images[1]).abs().max() > 0
    one = images[:1].expand(3, -1, -1, -1)
    logits = discriminator(one, torch.arange(3))
    # The projection: the logit is the head's, and an inner product with the vector of the class.
    discriminator.projection.weight.data.zero_()
    plain = discriminator(one, torch.arange(3))
    assert plain.unique().numel() == 1
    assert (logits - plain).abs().min() > 0


def test_a_conditional_network_needs_a_number_of_classes():
    with pytest.raises(UserError, match="needs num_classes"):
        DCGANGenerator([28, 28], conditional=True)
    assert DCGANGenerator([28, 28], num_classes=10).num_classes is None


def test_an_unnormed_or_layer_normed_discriminator_sees_each_image_by_itself():
    images = torch.randn(4, 1, 28, 28)
    for norm in ("none", "layer"):
        network = DCGANDiscriminator([28, 28], in_channels=1, width=4, norm=norm)
        torch.testing.assert_close(network(images)[:2], network(images[:2]))
    network = DCGANDiscriminator([28, 28], in_channels=1, width=4)
    assert not torch.allclose(network(images)[:2], network(images[:2]))


def test_spectral_weights_stretch_nothing_by_more_than_one():
    network = DCGANDiscriminator(
        [28, 28], in_channels=1, width=4, norm="none", spectral=True, conditional=True,
        num_classes=3,
    )  # fmt: skip
    for _ in range(20):
        network(torch.randn(2, 1, 28, 28), torch.tensor([0, 1]))
    for layer in (*network.convs, network.head, network.projection):
        sigma = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert abs(sigma - 1) < 0.02


def test_published_weights_give_what_they_gave(tmp_path):
    torch.manual_seed(0)
    theirs = published_generator(width=8).eval(), published_discriminator(width=8).eval()
    ours = DCGANGenerator([64, 64], width=8).eval(), DCGANDiscriminator([64, 64], width=8).eval()
    players = dict(zip(("generator", "discriminator"), ours, strict=True))
    images = torch.randn(2, 3, 64, 64)
    for (name, _), network in zip(players.items(), theirs, strict=True):
        path = tmp_path / f"{name}.pth"
        torch.save({f"main.{key}": value for key, value in network.state_dict().items()}, path)
        assert load_players(players, str(path)) == (name,)
    latents = torch.randn(2, 100)
    torch.testing.assert_close(ours[0](latents), theirs[0](latents[:, :, None, None]))
    torch.testing.assert_close(ours[1](images), theirs[1](images).flatten())


def test_weights_that_fit_neither_player_are_said(tmp_path):
    players = {
        "generator": DCGANGenerator([64, 64], width=8),
        "discriminator": DCGANDiscriminator([64, 64], width=8),
    }
    torch.save({f"main.{k}": v for k, v in published_generator(width=4).state_dict().items()},
               tmp_path / "other.pth")  # fmt: skip
    with pytest.raises(UserError, match=r"other.pth are not those of this generator"):
        load_players(players, str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match=r"give model\.weights a file"):
        load_players(players, "pretrained")
