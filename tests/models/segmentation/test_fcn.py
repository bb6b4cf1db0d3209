import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vgg import make_layers

from lit_imgproc.models.segmentation.fcn import fcn8s, fcn16s, fcn32s

EVERY = [fcn32s, fcn16s, fcn8s]


def thin(make, **given):
    """A network of the same geometry, with few channels and random scores."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = make(2, fc_channels=4, **given)
    layers = [1, 1, "M", 2, 2, "M", 3, 3, 3, "M", 4, 4, 4, "M", 4, 4, 4, "M"]
    network.features = make_layers(layers)
    network.fc6 = nn.Conv2d(4, 4, 7, padding=3)
    network.fc7, network.score_fr = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
    interpolating = make(2, fc_channels=1)
    for name in ("upscore", "upscore2", "upscore16", "upscore_pool4", "upscore8"):
        if hasattr(network, name):
            network.set_submodule(name, interpolating.get_submodule(name))
    for name, channels in (("score_pool4", 4), ("score_pool3", 3)):
        if hasattr(network, name):
            network.set_submodule(name, nn.Conv2d(channels, 2, 1))
    for name, parameter in network.named_parameters():
        if name.startswith(("features", "fc")):  # so that a black image stays black
            (nn.init.zeros_ if name.endswith("bias") else nn.init.kaiming_normal_)(parameter)
    return network.eval()


@pytest.mark.parametrize(
    ("make", "parameters"), [(fcn32s, 136_152_917), (fcn16s, 134_815_994), (fcn8s, 134_489_759)]
)
def test_have_as_many_parameters_as_the_reference_implementation(make, parameters):
    with torch.device("meta"):
        network = make(21)
        logits = network(torch.rand(1, 3, 96, 64))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert logits.shape == (1, 21, 96, 64)
    with pytest.raises(ValueError, match="multiples of 32"):
        network(torch.rand(1, 3, 90, 64, device="meta"))


@pytest.mark.parametrize("make", EVERY)
def test_deconvolutions_interpolate(make):
    network = make(3, fc_channels=1)
    layers = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(layers) == {fcn32s: 1, fcn16s: 2, fcn8s: 3}[make]
    for layer in layers:
        factor = layer.stride[0]
        constant = torch.full((1, 3, 4, 5), 0.7)
        scores = torch.rand(1, 3, 4, 5)
        with torch.no_grad():
            inner = slice(factor // 2, -factor // 2)
            enlarged = layer(constant)
            assert enlarged.shape[-2:] == (4 * factor, 5 * factor)
            torch.testing.assert_close(
                enlarged[..., inner, inner], torch.full_like(enlarged, 0.7)[..., inner, inner]
            )
            expected = F.interpolate(scores, scale_factor=factor, mode="bilinear")
            torch.testing.assert_close(
                layer(scores)[..., inner, inner], expected[..., inner, inner]
            )


def reference(network, image):
    """The scores of the reference implementation: padded by 100, and cropped."""

    def enlarged(layer, scores):
        return F.conv_transpose2d(scores, layer.weight, stride=layer.stride)

    def cropped(scores, offset, like):
        return scores[..., offset : offset + like.shape[-2], offset : offset + like.shape[-1]]

    pool3 = network.features[:17](F.pad(image, [99] * 4))  # and 1 of the first convolution
    pool4 = network.features[17:24](pool3)
    fc6 = F.conv2d(network.features[24:](pool4), network.fc6.weight, network.fc6.bias).relu()
    scores = network.score_fr(network.fc7(fc6).relu())
    if network.stride == 32:
        return cropped(enlarged(network.upscore, scores), 19, image)
    scores = enlarged(network.upscore2, scores)
    scores = scores + cropped(network.score_pool4(pool4), 5, scores)
    if network.stride == 16:
        return cropped(enlarged(network.upscore16, scores), 27, image)
    scores = enlarged(network.upscore_pool4, scores)
    scores = scores + cropped(network.score_pool3(pool3), 9, scores)
    return cropped(enlarged(network.upscore8, scores), 31, image)


@pytest.mark.parametrize("make", EVERY)
def test_scores_stand_where_those_of_the_reference_implementation_do(make):
    network = thin(make)
    # Far from the border, what is padded does not matter. Cells begin 3 pixels earlier there.
    picture = torch.rand(1, 3, 64, 64)
    ours, theirs = torch.zeros(1, 3, 576, 576), torch.zeros(1, 3, 570, 570)
    ours[..., 256:320, 256:320] = picture
    theirs[..., 253:317, 253:317] = picture
    with torch.no_grad():
        mine, expected = network(ours), reference(network, theirs)
    assert expected.shape[-2:] == (570, 570)
    assert expected.std() > 0
    torch.testing.assert_close(
        mine[..., 103:500, 103:500], expected[..., 100:497, 100:497], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("make", EVERY)
def test_scores_begin_at_zero_and_everything_learns(make):
    torch.manual_seed(0)
    learned = {} if make is fcn32s else {"learned_upsampling": True}
    network = make(2, in_channels=1, fc_channels=8, **learned)
    images = torch.rand(2, 1, 64, 64)
    logits = network(images)
    assert not logits.any()
    for name, parameter in network.named_parameters():
        if name.startswith("score"):
            nn.init.normal_(parameter)
    network(images).square().sum().backward()
    for name, parameter in network.named_parameters():
        fixed = name == f"{network.last}.weight"
        assert parameter.requires_grad != fixed
        assert fixed or parameter.grad.any(), name


@pytest.mark.parametrize("make", EVERY)
def test_interpolation_is_fixed_unless_it_is_to_be_learned(make):
    with torch.device("meta"):
        network = make(2, fc_channels=8)
    fixed = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert fixed == {name for name, _ in network.named_parameters() if name.startswith("upscore")}


def test_at_once_scales_the_skips():
    plain, scaled = thin(fcn8s), thin(fcn8s, at_once=True)
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        plain.score_pool4.weight.mul_(0.01)
        plain.score_pool3.weight.mul_(0.0001)
        images = torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(scaled(images), plain(images))
