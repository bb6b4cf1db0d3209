import pytest
import torch
import torch.nn.functional as F

from lit_imgproc.errors import UserError
from lit_imgproc.models.style_transfer.networks import (
    InstanceNorm,
    adain_decoder,
    johnson,
    statistics_of,
)
from lit_imgproc.models.style_transfer.weights import load_stylizer


def test_parameter_counts_are_the_published_ones():
    assert sum(p.numel() for p in johnson().parameters()) == 1_679_235
    assert sum(p.numel() for p in adain_decoder().parameters()) == 3_505_219


@pytest.mark.parametrize("size", [(32, 32), (37, 50), (64, 33)])
def test_johnson_gives_an_image_of_the_same_size(size):
    assert johnson(4)(torch.rand(2, 3, *size) * 255).shape == (2, 3, *size)


def test_the_decoder_gives_eight_pixels_for_each_feature():
    assert adain_decoder(4)(torch.rand(2, 512, 3, 5)).shape == (2, 3, 24, 40)


def published_johnson(state, width):
    """What pytorch/examples computes, written out with its names."""

    def conv(x, name, stride=1):
        weight, bias = state[f"{name}.conv2d.weight"], state[f"{name}.conv2d.bias"]
        side = weight.shape[-1] // 2
        return F.conv2d(F.pad(x, [side] * 4, mode="reflect"), weight, bias, stride)

    def norm(x, name):
        return F.instance_norm(x, weight=state[f"{name}.weight"], bias=state[f"{name}.bias"])

    def up(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def network(x):
        x = norm(conv(x, "conv1"), "in1").relu()
        x = norm(conv(x, "conv2", 2), "in2").relu()
        x = norm(conv(x, "conv3", 2), "in3").relu()
        for block in (f"res{number}" for number in range(1, 6)):
            inner = norm(conv(x, f"{block}.conv1"), f"{block}.in1").relu()
            x = x + norm(conv(inner, f"{block}.conv2"), f"{block}.in2")
        x = norm(conv(up(x), "deconv1"), "in4").relu()
        x = norm(conv(up(x), "deconv2"), "in5").relu()
        return conv(x, "deconv3")

    return network


def test_published_weights_of_johnson_load_and_compute_the_same(tmp_path):
    torch.manual_seed(0)
    state = {}
    for name, value in johnson(4).state_dict().items():
        parts = name.split(".")
        is_conv = parts[-2].startswith(("conv", "deconv"))
        key = ".".join([*parts[:-1], "conv2d", parts[-1]]) if is_conv else name
        state[key] = torch.randn_like(value) * 0.2
    norms = {name.rsplit(".", 1)[0] for name in state if ".conv2d." not in name}
    old = {f"{name}.running_{what}": torch.ones(1) for name in norms for what in ("mean", "var")}
    torch.save(state | old, tmp_path / "mosaic.pth")
    network = johnson(4)
    load_stylizer(network, str(tmp_path / "mosaic.pth"))
    images = torch.rand(1, 3, 24, 32) * 255
    torch.testing.assert_close(network(images), published_johnson(state, 4)(images))


def test_published_weights_of_the_decoder_load_and_compute_the_same(tmp_path):
    places = (1, 5, 8, 11, 14, 18, 21, 25, 28)  # of the convolutions in decoder.pth
    own = adain_decoder(4).state_dict()
    shapes = [value.shape for name, value in own.items() if name.endswith("weight")]
    state = {}
    for place, shape in zip(places, shapes, strict=True):
        state[f"{place}.bias"] = torch.randn(shape[0]) * 0.1  # in an order of its own
        state[f"{place}.weight"] = torch.randn(shape) * 0.1
    torch.save(state, tmp_path / "decoder.pth")
    network = adain_decoder(4)
    load_stylizer(network, str(tmp_path / "decoder.pth"))
    features = torch.rand(1, 512, 3, 4)
    x = features
    for place in places:
        x = F.pad(x, [1] * 4, mode="reflect")
        x = F.conv2d(x, state[f"{place}.weight"], state[f"{place}.bias"])
        x = x if place == 28 else x.relu()
        if place in (1, 14, 21):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(network(features), x)


def test_weights_of_another_width_are_refused(tmp_path):
    torch.save(johnson(4).state_dict(), tmp_path / "thin.pth")
    with pytest.raises(UserError, match=r"thin\.pth do not fit Johnson"):
        load_stylizer(johnson(8), str(tmp_path / "thin.pth"))
    with pytest.raises(UserError, match="no library brings weights of style transfer"):
        load_stylizer(johnson(4), "pretrained")


def test_instance_norms_are_torchs_until_statistics_are_fixed():
    norm, features = InstanceNorm(3), torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(norm(features), F.instance_norm(features))
    whole = torch.randn(1, 3, 8, 8) * 4 + 2
    with statistics_of(norm, whole):
        torch.testing.assert_close(norm(whole), F.instance_norm(whole))
        left = norm(whole[..., :4])
    torch.testing.assert_close(left, F.instance_norm(whole)[..., :4])
    torch.testing.assert_close(norm(features), F.instance_norm(features))


def test_statistics_of_patches_are_those_of_all_of_them_together():
    norm, patches = InstanceNorm(3), torch.randn(4, 3, 5, 5) + torch.arange(4.0).view(4, 1, 1, 1)
    together = patches.permute(1, 0, 2, 3).reshape(1, 3, 20, 5)
    with statistics_of(norm, patches):
        torch.testing.assert_close(norm(together), F.instance_norm(together))
