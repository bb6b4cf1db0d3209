import pytest
import torch
from torch import nn

from lit_imgproc.models.style_transfer.module import AdaIN, StyleTransfer
from lit_imgproc.models.style_transfer.networks import adain_decoder, johnson, statistics_of
from lit_imgproc.models.style_transfer.tiles import patches, spans, tiled
from lit_imgproc.models.style_transfer.whole import redraw, redraw_as
from lit_imgproc.optim import Adam


def photograph(height, width, seed=0):
    """Smooth shapes with some noise, darker to the right: tiles differ in their statistics."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 16 + 1, width // 16 + 1, generator=random)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    noise = torch.rand(3, height, width, generator=random)
    return ((smooth + 0.2 * noise) * torch.linspace(1, 0.2, width)).clamp(0, 1)


@pytest.mark.parametrize(("length", "tile"), [(10, 4), (12, 4), (3, 8)])
def test_spans_cover_a_length_once(length, tile):
    found = spans(length, tile, 2)
    assert [at for span in found for at in range(span.first, span.last)] == list(range(length))
    assert all(0 <= span.seen.start <= span.first for span in found)
    assert all(span.last <= span.seen.stop <= length for span in found)


@pytest.mark.parametrize("blend", [0, 2, 4])
def test_tiles_of_what_looks_at_a_pixel_alone_are_the_whole(blend):
    image = photograph(37, 50)
    made = tiled(lambda part: 1 - part, image, tile=16, margin=4, blend=blend)
    torch.testing.assert_close(made, 1 - image, rtol=0, atol=1e-6)


def test_a_network_without_norms_makes_of_tiles_what_it_makes_of_the_whole():
    torch.manual_seed(0)
    network = johnson(2)
    for name, _ in list(network.named_modules()):
        if name.split(".")[-1].startswith("in"):
            network.set_submodule(name, nn.Identity())
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    image = photograph(203, 178)
    with torch.no_grad():
        whole = network(image[None])[0]
        parts = tiled(network, image, tile=64, margin=64, blend=0)
        mixed = tiled(network, image, tile=64, margin=80, blend=16)
        short = tiled(network, image, tile=64, margin=8, blend=0)
    scale = whole.std()
    assert (parts - whole).abs().max() < 1e-4 * scale
    assert (mixed - whole).abs().max() < 1e-4 * scale
    assert (short - whole).abs().max() > 1e-2 * scale  # the margin is what does it


def stylizer():
    torch.manual_seed(0)
    return StyleTransfer(
        network=johnson(4), style="stripes", optimizer=Adam(lr=1e-3), filters="vgg_random"
    ).eval()


def test_tiles_with_statistics_of_the_whole_have_no_seams():
    module, image = stylizer(), photograph(160, 512)
    image255 = module.normalization(image[None])
    with torch.no_grad():
        with statistics_of(module.network, image255):
            whole = module(image[None])[0]
            parts = tiled(lambda part: module(part), image, tile=128, margin=64, blend=0)
        torch.testing.assert_close(whole, module(image[None])[0], rtol=1e-3, atol=1e-4)
        own = tiled(lambda part: module(part), image, tile=128, margin=64, blend=0)
    assert (parts - whole).abs().max() < 1e-4 * whole.std()
    assert (own - whole).abs().max() > 0.1 * whole.std()  # what statistics of each tile would do


def test_a_large_image_is_redrawn_in_tiles_nearly_as_it_would_be_at_once():
    module, image = stylizer(), photograph(128, 448, seed=1)
    with torch.no_grad():
        whole = module(image[None])[0].clamp(0, 1)
        ticks = []
        parts = redraw(module, image, tile=96, progress=lambda *now: ticks.append(now))
    assert ticks[0] == (0, 10)
    assert ticks[-1] == (10, 10)
    difference = (parts - whole).abs()
    assert whole.std() > 0.05
    assert difference.max() < 0.1 * (whole.max() - whole.min())
    steps = (parts - whole).diff(dim=2).abs().mean((0, 1))
    assert steps[[95, 191, 287, 383]].mean() < 1.2 * steps.mean()  # no more at seams than anywhere
    assert module(image[None, :, :64, :64]).shape == (1, 3, 64, 64)  # the norms are free again


def test_any_style_in_tiles_is_the_whole():
    torch.manual_seed(0)
    module = AdaIN(network=adain_decoder(2), optimizer=Adam(lr=1e-3), filters="vgg_random").eval()
    image, picture = photograph(109, 203), photograph(40, 48, seed=3)
    with torch.no_grad():
        style = module.style_of([picture[None]], [1.0])
        features = module.encode(image[None])
        whole = module.decode(features, style, 0.7)[0, :, :109, :203].clamp(0, 1)
        parts = redraw_as(module, image, style, alpha=0.7, tile=96)
    assert parts.shape == image.shape
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)


def test_patches_lie_evenly_and_within():
    image = torch.arange(40 * 60.0).view(1, 40, 60)
    found = patches(image, 16, 6)
    assert found.shape == (6, 1, 16, 16)
    assert len(found.flatten(1)[:, 0].unique()) == 6
    assert patches(image[:, :16, :16], 16, 4)[0].equal(image[:, :16, :16])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image():
    import resource

    module = stylizer()
    with torch.no_grad():
        redraw(module, photograph(600, 1000), tile=256)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        image = photograph(1500, 2000)
        redraw(module, image, tile=256)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 8 * image.nbytes  # a network at once would take hundreds
