import pytest
import torch
from torch import nn

from lit_imgproc.models.backbones import attribution_layer, first_convs, head_modules
from lit_imgproc.models.segmentation.unet_2015 import unet_2015


def test_is_that_of_the_paper():
    with torch.device("meta"):
        network = unet_2015(2)
        logits = network(torch.rand(1, 1, 572, 572))
    assert sum(parameter.numel() for parameter in network.parameters()) == 31_030_658
    assert logits.shape == (1, 2, 388, 388)
    assert (network.margin, network.divisor, network.remainder) == (92, 16, 12)


@pytest.mark.parametrize(("depth", "margin"), [(2, 8), (3, 20), (4, 44), (5, 92)])
def test_sizes_of_every_depth(depth, margin):
    with torch.device("meta"):
        network = unet_2015(3, in_channels=5, width=2, depth=depth)
    assert network.margin == margin
    fit = [
        n
        for n in range(2 * margin + 1, 2 * margin + 40)
        if n % network.divisor == network.remainder
    ]
    for height, width in ((fit[0], fit[1]), (fit[1], fit[0])):
        logits = network(torch.rand(2, 5, height, width, device="meta"))
        assert logits.shape == (2, 3, height - 2 * margin, width - 2 * margin)
    for wrong in {fit[0] + 1, fit[0] - network.divisor}:
        with pytest.raises(ValueError, match=f"greater than {2 * margin}"):
            network(torch.rand(1, 5, fit[0], wrong, device="meta"))


def test_skips_are_cut_where_they_belong():
    network = unet_2015(1, width=1, depth=3).eval()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():  # the image goes through the finest level alone, as it is
        for stage in (network.down[0], network.up[-1]):
            for convolution in (stage[0], stage[2]):
                convolution.weight[:, :1, 1, 1] = 1
        network.head.weight.fill_(1)
        image = torch.rand(1, 1, 60, 48)
        m = network.margin
        torch.testing.assert_close(network(image), image[..., m:-m, m:-m])


def test_tiles_join_without_seams():
    torch.manual_seed(0)
    network = unet_2015(2, width=4, depth=3).eval()
    image = torch.rand(1, 1, 84, 84)
    with torch.no_grad():
        whole = network(image)
        for top, left in ((0, 0), (20, 36), (36, 8)):
            tile = network(image[..., top : top + 48, left : left + 48])
            torch.testing.assert_close(tile, whole[..., top : top + 8, left : left + 8])


def test_weights_are_drawn_as_in_the_paper():
    torch.manual_seed(0)
    network = unet_2015(2, width=32, depth=3)
    drawn = {
        network.down[1][2]: 9 * 64,
        network.up[0][0]: 9 * 128,
        network.enlarge[0][0]: 128,  # each neuron sees one place
        network.down[2][0]: 9 * 64,
    }
    for layer, incoming in drawn.items():
        assert layer.weight.std().item() == pytest.approx((2 / incoming) ** 0.5, rel=0.03)
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))


def test_drops_out_at_the_end_of_the_contracting_path_alone():
    network = unet_2015(2, width=2, depth=4)
    seen = []
    network.dropout.register_forward_hook(lambda *call: seen.append(call[1][0].shape[1]))
    network(torch.rand(1, 1, 108, 108))
    assert seen == [8, 16]
    assert network.dropout.p == 0.5


def test_says_what_it_is_made_of_and_learns_all_of_it():
    torch.manual_seed(0)
    network = unet_2015(1, in_channels=13, width=8, depth=3)
    assert first_convs(network) == ["down.0.0"]
    assert network.down[0][0].in_channels == 13
    assert head_modules(network) == ["head"]
    assert attribution_layer(network) is network.up[0]
    network(torch.rand(1, 13, 52, 52)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
