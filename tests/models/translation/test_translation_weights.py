"""Published state dicts: their names and shapes are written out here by the authors' own rule."""

import pytest
import torch

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import WeightsUnavailable
from lit_imgproc.models.translation.networks import (
    patch_discriminator,
    resnet_generator,
    unet_generator,
)
from lit_imgproc.models.translation.weights import load_translator, translated


def norm(name, channels, kind):
    """What a norm holds: a batch norm all, an old instance norm its statistics."""
    running = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    if kind == "instance":
        return running
    affine = {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}
    return affine | running | {f"{name}.num_batches_tracked": ()}


def convolution(name, *shape, bias):
    """Of a transposed convolution the second number is that of what comes out."""
    channels = shape[1] if bias == "transposed" else shape[0]
    return {f"{name}.weight": shape} | ({f"{name}.bias": (channels,)} if bias else {})


def published_unet(widths, kind, channels=3):
    """Blocks within blocks, the outermost first: ``model.model.1.model.3.….model``."""
    bias, last, names = kind == "instance", len(widths) - 1, {}
    at = "model.model"
    for level, width in enumerate(widths):
        outer = widths[level - 1] if level else channels
        wide = width if level == last else 2 * width
        up_bias = "transposed" if bias or level == 0 else False
        if level == 0:
            down, up, inner = 0, 3, 1
        elif level == last:
            down, up, inner = 1, 3, None
        else:
            down, up, inner = 1, 5, 3
            names |= norm(f"{at}.2", width, kind)
        names |= convolution(f"{at}.{down}", width, outer, 4, 4, bias=bias)
        names |= convolution(f"{at}.{up}", wide, outer, 4, 4, bias=up_bias)
        if level:
            names |= norm(f"{at}.{up + 1}", outer, kind)
        at = f"{at}.{inner}.model"
    return names


def published_resnet(width, blocks, kind):
    bias, names = kind == "instance", {}
    names |= convolution("model.1", width, 3, 7, 7, bias=bias) | norm("model.2", width, kind)
    for i in (0, 1):
        after = width * 2 ** (i + 1)
        names |= convolution(f"model.{4 + 3 * i}", after, after // 2, 3, 3, bias=bias)
        names |= norm(f"model.{5 + 3 * i}", after, kind)
    for i in range(10, 10 + blocks):
        for j in (1, 5):
            at = f"model.{i}.conv_block"
            names |= convolution(f"{at}.{j}", 4 * width, 4 * width, 3, 3, bias=bias)
            names |= norm(f"{at}.{j + 1}", 4 * width, kind)
    first = 10 + blocks
    for i in (0, 1):
        before = width * 2 ** (2 - i)
        up_bias = "transposed" if bias else False
        names |= convolution(f"model.{first + 3 * i}", before, before // 2, 3, 3, bias=up_bias)
        names |= norm(f"model.{first + 1 + 3 * i}", before // 2, kind)
    return names | convolution(f"model.{first + 7}", 3, width, 7, 7, bias=True)


def published_discriminator(kind):
    bias, names = kind == "instance", convolution("model.0", 2, 6, 4, 4, bias=True)
    for i, before in enumerate((2, 4, 8)):
        names |= convolution(f"model.{2 + 3 * i}", 2 * before, before, 4, 4, bias=bias)
        names |= norm(f"model.{3 + 3 * i}", 2 * before, kind)
    return names | convolution("model.11", 1, 16, 4, 4, bias=True)


def drawn(names):
    torch.manual_seed(0)
    return {name: torch.randn(shape) if shape else torch.tensor(7) for name, shape in names.items()}


CASES = {
    "U-Net": (
        published_unet([2, 4, 8, 16, 16], "batch"),
        lambda: unet_generator([32, 32], width=2),
    ),
    "U-Net with old instance norms": (
        published_unet([2, 4, 8, 16, 16, 16], "instance"),
        lambda: unet_generator([64, 64], width=2, norm="instance"),
    ),
    "residual": (
        published_resnet(2, 3, "instance"),
        lambda: resnet_generator(width=2, blocks=3),
    ),
    "residual with batch norms": (
        published_resnet(2, 1, "batch"),
        lambda: resnet_generator(width=2, blocks=1, norm="batch"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_published_generators_load(case, tmp_path):
    names, build = CASES[case]
    state = drawn(names)
    torch.save(state, tmp_path / "latest_net_G.pth")
    network = build()
    load_translator({"network": network}, str(tmp_path / "latest_net_G.pth"))
    # In the order of the authors' file a U-Net's decoder comes last of all: compare as sets.
    given = sorted(float(v.double().sum()) for k, v in state.items() if kept(k, network))
    own = sorted(float(v.double().sum()) for v in network.state_dict().values())
    assert own == pytest.approx(given)


def kept(name, network):
    tracked = any(key.endswith("running_var") for key in network.state_dict())
    return tracked or not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_each_tensor_goes_to_its_place():
    unet = unet_generator([32, 32], width=2)
    names = dict.fromkeys(
        (
            "0.weight", "3.bias", "1.model.1.weight", "1.model.2.running_mean", "1.model.5.weight",
            "1.model.6.bias", "1.model.3.model.3.model.3.model.1.weight",
            "1.model.3.model.3.model.3.model.3.weight", "1.model.3.model.3.model.3.model.4.bias",
        ),
        torch.zeros(1),
    )  # fmt: skip
    assert list(translated(unet, names)) == [
        "down.0.0.weight", "up.0.0.bias", "down.1.0.weight", "down.1.1.running_mean",
        "up.1.0.weight", "up.1.1.bias", "down.4.0.weight", "up.4.0.weight", "up.4.1.bias",
    ]  # fmt: skip
    resnet = resnet_generator(width=2, blocks=1)
    assert list(translated(resnet, {"10.conv_block.5.bias": torch.zeros(1)})) == [
        "layers.10.layers.5.bias"
    ]


def test_published_discriminators_load(tmp_path):
    for kind in ("batch", "instance"):
        state = drawn(published_discriminator(kind))
        torch.save(state, tmp_path / "latest_net_D.pth")
        network = patch_discriminator(width=2, norm=kind)
        load_translator({"network": network}, str(tmp_path / "latest_net_D.pth"))
        assert torch.equal(network.layers[8].weight, state["model.8.weight"])
    pixels = patch_discriminator(width=2, layers=0)
    names = (
        convolution("net.0", 2, 6, 1, 1, bias=True)
        | convolution("net.2", 4, 2, 1, 1, bias=False)
        | norm("net.3", 4, "batch")
        | convolution("net.5", 1, 4, 1, 1, bias=False)
    )
    torch.save(drawn(names), tmp_path / "latest_net_D.pth")
    load_translator({"network": pixels}, str(tmp_path / "latest_net_D.pth"))


def test_a_checkpoint_of_ours_gives_every_network_its_own(tmp_path):
    torch.manual_seed(0)
    one, other = resnet_generator(width=2, blocks=1), patch_discriminator(width=2)
    state = {f"network.{k}": v for k, v in one.state_dict().items()}
    state |= {f"discriminator.{k}": v for k, v in other.state_dict().items()}
    state |= {"normalization.mean": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    network, discriminator = resnet_generator(width=2, blocks=1), patch_discriminator(width=2)
    load_translator(
        {"network": network, "discriminator": discriminator}, str(tmp_path / "last.ckpt")
    )
    assert torch.equal(network.layers[1].weight, one.layers[1].weight)
    assert torch.equal(discriminator.layers[2].weight, other.layers[2].weight)


def test_what_does_not_fit_is_a_sentence(tmp_path):
    torch.save(drawn(published_resnet(2, 1, "instance")), tmp_path / "latest_net_G.pth")
    with pytest.raises(UserError, match="do not fit ResNetGenerator"):
        load_translator(
            {"network": resnet_generator(width=2, blocks=2)}, str(tmp_path / "latest_net_G.pth")
        )
    with pytest.raises(UserError, match=r"There is no weights file .*absent"):
        load_translator({"network": resnet_generator(width=2)}, str(tmp_path / "absent.pth"))
    with pytest.raises(WeightsUnavailable, match="No library publishes weights of translators"):
        load_translator({"network": resnet_generator(width=2)}, "pretrained")
