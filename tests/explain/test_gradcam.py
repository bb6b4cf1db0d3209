"""Grad-CAM against its closed form, against captum, and in the places where it is called."""

import pytest
import timm
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.gradcam import grad_cam, unit_range
from lit_imgproc.models.backbones import attribution_layer, feature_map


class Pooled(nn.Module):
    """Features, global average pooling, a linear head: here Grad-CAM is CAM divided by the area."""

    def __init__(self, inplace=False):
        super().__init__()
        self.features = nn.Conv2d(3, 5, 3, padding=1)
        self.activation = nn.ReLU(inplace=inplace)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.activation(self.features(x)).mean((2, 3)))


def score_of(network, target):
    return lambda x: network(x)[:, target]


@pytest.fixture
def images():
    torch.manual_seed(0)  # of the networks' weights
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_equals_cam_for_a_pooled_linear_head(images):
    network = Pooled().eval()
    maps = grad_cam(score_of(network, 1), images, network.activation)
    features = network.activation(network.features(images))
    cam = (network.head.weight[1].view(1, -1, 1, 1) * features).sum(1) / 64
    torch.testing.assert_close(maps, cam.relu())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_equals_captum(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5).eval()
    for parameter in network.parameters():  # norms that start at zero would put out nothing
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    images = torch.rand(2, 3, 96, 96)
    layer = attribution_layer(network)
    highest = 0.0
    for target in range(5):
        ours = grad_cam(score_of(network, target), images, layer)
        theirs = LayerGradCam(network, layer).attribute(
            images, target=target, relu_attributions=True
        )
        theirs = F.interpolate(theirs.detach(), size=(96, 96), mode="bilinear")
        torch.testing.assert_close(ours, theirs[:, 0])
        highest = max(highest, float(ours.max()))
    assert highest > 0


def test_explains_the_patches_of_a_vit():
    network = timm.create_model("test_vit", num_classes=5).eval()
    images = torch.rand(2, 3, 160, 160)
    maps = grad_cam(
        lambda x: network(x).amax(1),
        images,
        attribution_layer(network),
        lambda a: feature_map(network, a),
    )
    assert maps.shape == (2, 160, 160)
    assert maps.std() > 0


def test_leaves_mode_gradients_and_hooks_as_they_were(images):
    network = Pooled().train()
    grad_cam(score_of(network, 0), images, network.activation)
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert not network.activation._forward_hooks
    assert torch.is_grad_enabled()


def test_an_activation_in_place_does_not_overwrite_what_is_weighed(images):
    plain, inplace = Pooled().eval(), Pooled(inplace=True).eval()
    inplace.load_state_dict(plain.state_dict())
    expected = grad_cam(score_of(plain, 2), images, plain.features)
    torch.testing.assert_close(grad_cam(score_of(inplace, 2), images, inplace.features), expected)


def test_a_frozen_trunk_is_explained_too(images):
    network = Pooled().eval().requires_grad_(False)
    expected = grad_cam(score_of(network, 1), images, network.activation)
    assert expected.max() > 0


def test_runs_under_inference_mode(images):
    network = Pooled().eval()
    expected = grad_cam(score_of(network, 1), images, network.activation)
    with torch.inference_mode():
        maps = grad_cam(score_of(network, 1), images.clone(), network.activation)
        assert torch.is_inference_mode_enabled()
    torch.testing.assert_close(maps.clone(), expected)


def test_a_layer_that_takes_no_part_is_refused(images):
    network = Pooled().eval()
    with pytest.raises(UserError, match="took no part"):
        grad_cam(score_of(network, 0), images, nn.Conv2d(3, 3, 1))


def test_only_a_local_map_tells_one_place_from_others_like_it(images):
    network = Pooled().eval()
    same = images[:1, :, :1, :1].expand(1, 3, 8, 8).contiguous()

    def score(x):  # of the object at one place, among many alike
        return network.activation(network.features(x))[:, :, 2, 5].sum(1)

    everywhere = grad_cam(score, same, network.activation)[0]
    there = grad_cam(score, same, network.activation, local=True)[0]
    features = network.activation(network.features(same))[0]
    torch.testing.assert_close(there[2, 5], features[:, 2, 5].sum())
    assert (there > 0).nonzero().tolist() == [[2, 5]]
    assert everywhere[4, 4] > 0


def test_unit_range_scales_each_map_and_leaves_a_flat_one_at_zero():
    maps = torch.stack([torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.full((2, 2), 7.0)])
    expected = torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(unit_range(maps), expected)
