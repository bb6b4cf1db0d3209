"""Class activation maps against closed forms and other libraries, and where they are called."""

import copy

import pytest
import pytorch_grad_cam
import timm
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.cam import (
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    score_cam,
    unit_range,
)
from lit_imgproc.models.backbones import attribution_layer, feature_map

METHODS = [grad_cam, grad_cam_plus_plus, hires_cam, layer_cam, score_cam]
PEERS = {
    grad_cam: pytorch_grad_cam.GradCAM,
    grad_cam_plus_plus: pytorch_grad_cam.GradCAMPlusPlus,
    hires_cam: pytorch_grad_cam.HiResCAM,
    layer_cam: pytorch_grad_cam.LayerCAM,
    score_cam: pytorch_grad_cam.ScoreCAM,
}
every_method = pytest.mark.parametrize("method", METHODS)
every_gradient = pytest.mark.parametrize("method", METHODS[:-1])


class Pooled(nn.Module):
    """Features, global average pooling, a linear head: here Grad-CAM is CAM divided by the area."""

    def __init__(self, inplace=False, conv=nn.Conv2d):
        super().__init__()
        self.features = conv(3, 5, 3, padding=1)
        self.activation = nn.ReLU(inplace=inplace)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.activation(self.features(x)).flatten(2).mean(2))


class Nonlinear(Pooled):
    """Its gradients differ from place to place."""

    def forward(self, x):
        return self.head(self.activation(self.features(x)).square().flatten(2).mean(2))


def score_of(network, target):
    return lambda x: network(x)[:, target]


@pytest.fixture
def images():
    torch.manual_seed(0)  # of the networks' weights
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def made(name):
    """A network of timm, in which no norm starts at zero and puts out nothing."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5).eval()
    for key, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, *((-0.1, 0.1) if "bias" in key else (0.5, 1.5)))
    return network


def patches(size):
    """Two images of coarse patches: of mere noise all places look alike, and maps are flat."""
    coarse = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(size, size))


# Closed forms ------------------------------------------------------------------------------------


def test_equals_cam_for_a_pooled_linear_head(images):
    network = Pooled().eval()
    maps = grad_cam(score_of(network, 1), images, network.activation)
    features = network.activation(network.features(images))
    cam = (network.head.weight[1].view(1, -1, 1, 1) * features).sum(1) / 64
    torch.testing.assert_close(maps, cam.relu())
    # The gradient is the same at all places: Grad-CAM and HiResCAM are one map.
    torch.testing.assert_close(hires_cam(score_of(network, 1), images, network.activation), maps)


def test_equals_the_formulas_place_by_place(images):
    """Of each paper, in double precision and in plain loops."""
    network = Nonlinear().eval()
    network.head.weight.data *= 300  # g * sum(A) is about 2, as Grad-CAM++ weighs it against 2
    activation = network.activation(network.features(images)).detach().requires_grad_()
    logits = network.head(activation.square().flatten(2).mean(2))
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), activation)
    a, g = activation.detach().double(), gradient.double()
    wanted = {method: torch.zeros(2, 8, 8, dtype=torch.double) for method in METHODS[:-1]}
    for b in range(2):
        for k in range(5):
            plus = 0.0
            for value in g[b, k].flatten().tolist():
                if value > 0:
                    alpha = value**2 / (2 * value**2 + a[b, k].sum() * value**3)
                    plus += alpha * value
            wanted[grad_cam][b] += g[b, k].mean() * a[b, k]
            wanted[grad_cam_plus_plus][b] += plus * a[b, k]
            wanted[hires_cam][b] += g[b, k] * a[b, k]
            wanted[layer_cam][b] += g[b, k].clamp(min=0) * a[b, k]
    for method, expected in wanted.items():
        maps = method(score_of(network, 2), images, network.activation)
        torch.testing.assert_close(maps, expected.clamp(min=0).float())
        assert maps.amax((1, 2)).min() > 0


def test_score_cam_equals_the_paper_with_its_black_image(images):
    network = Pooled().eval()
    features = network.activation(network.features(images)).detach()
    expected = torch.zeros(2, 8, 8)
    for b in range(2):
        increase = torch.zeros(5)
        for k in range(5):
            mask = features[b, k] - features[b, k].min()
            mask = mask / mask.max()
            seen, black = network(images[b : b + 1] * mask), network(torch.zeros(1, 3, 8, 8))
            increase[k] = (seen - black)[0, 3]
        weights = increase.exp() / increase.exp().sum()
        expected[b] = (weights.view(5, 1, 1) * features[b]).sum(0)
    for batch_size in (1, 2, 32):  # alone, with a rest, and all at once
        maps = score_cam(score_of(network, 3), images, network.activation, batch_size=batch_size)
        torch.testing.assert_close(maps, expected)


def test_score_cam_never_holds_more_than_a_batch(images):
    network, seen = Pooled().eval(), []

    def score(x):
        seen.append(len(x))
        return network(x)[:, 0]

    score_cam(score, images, network.activation, batch_size=2)
    assert seen == [1, 2, 2, 1] * 2  # the image itself, and its five channels


def test_only_a_local_map_tells_one_place_from_others_like_it(images):
    network = Pooled().eval()
    same = images[:1, :, :1, :1].expand(1, 3, 8, 8).contiguous()

    def score(x):  # of the object at one place, among many alike
        return network.activation(network.features(x))[:, :, 2, 5].sum(1)

    everywhere = grad_cam(score, same, network.activation)[0]
    features = network.activation(network.features(same))[0]
    for method in (hires_cam, layer_cam):
        there = method(score, same, network.activation)[0]
        torch.testing.assert_close(there[2, 5], features[:, 2, 5].sum())
        assert (there > 0).nonzero().tolist() == [[2, 5]]
    assert everywhere[4, 4] > 0


# Other libraries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_equals_captum(name):
    network = made(name)
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


@every_method
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_equals_pytorch_grad_cam(name, method, monkeypatch):
    """Two things of theirs are evened out, for the rest is to be the same.

    Their Grad-CAM++ adds 1e-6 to a denominator that is made of squares of gradients, which are of
    that size themselves behind a mean over places: here the logits are large, and so are the
    gradients. Their Score-CAM brings masks to the image's size with the corners aligned, and maps
    without: the package, as the authors' own implementation, does both without.
    """
    monkeypatch.setattr(
        nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size=size, mode="bilinear")
    )
    network = made(name)
    if method is grad_cam_plus_plus:
        network.get_classifier().weight.data *= 1e7
    images = patches(160 if name == "test_vit" else 80)
    layer = attribution_layer(network)
    seen = []
    for target in (0, 3) if method is score_cam else range(5):
        ours = method(score_of(network, target), images, layer, lambda a: feature_map(network, a))
        peer = PEERS[method](network, [layer], reshape_transform=lambda a: feature_map(network, a))
        with peer:
            theirs = peer(images, [ClassifierOutputTarget(target)] * 2)
        torch.testing.assert_close(unit_range(ours), torch.from_numpy(theirs), rtol=0, atol=5e-5)
        seen.append(ours)
    assert not torch.stack(seen).amax((1, 2, 3)).allclose(seen[0].max())


# Sizes -------------------------------------------------------------------------------------------


@every_method
def test_is_of_the_size_of_the_images(method):
    network = made("test_resnet")
    images = torch.rand(2, 3, 70, 101)
    maps = method(score_of(network, 0), images, attribution_layer(network))
    assert maps.shape == (2, 70, 101)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad


@every_method
def test_explains_the_patches_of_a_vit(method):
    network = made("test_vit")
    images = torch.rand(2, 3, 160, 160)
    maps = method(
        score_of(network, 1),
        images,
        attribution_layer(network),
        lambda a: feature_map(network, a),
    )
    assert maps.shape == (2, 160, 160)
    assert maps.std() > 0


@every_method
def test_explains_volumes_as_images(images, method):
    """A volume of equal slices, which a network looks at one by one, has a map of equal slices."""
    flat, deep = Nonlinear().eval(), Nonlinear(conv=nn.Conv3d).eval()
    deep.features.weight.data.zero_()
    deep.features.weight.data[:, :, 1] = flat.features.weight.data
    deep.features.bias.data = flat.features.bias.data
    deep.head.load_state_dict(flat.head.state_dict())
    volumes = images[:, :, None].expand(2, 3, 4, 8, 8).contiguous()
    wanted = method(score_of(flat, 1), images, flat.activation)
    maps = method(score_of(deep, 1), volumes, deep.activation)
    assert maps.shape == (2, 4, 8, 8)
    if method is not score_cam:  # the mean over four slices is four times the area
        wanted = wanted / 4
    if method is grad_cam_plus_plus:  # which sums over places in both factors
        wanted = wanted * 4
    torch.testing.assert_close(maps, wanted[:, None].expand_as(maps))
    assert wanted.max() > 0


def test_a_volume_is_scaled_up_in_all_three_dimensions():
    network = nn.AvgPool3d(2)
    volume = torch.zeros(1, 1, 6, 8, 10)
    volume[:, :, 2:4, 4:6, 6:8] = 1
    (heat,) = hires_cam(lambda x: network(x).square().flatten(1).sum(1), volume, network)
    at = heat.nonzero()
    # Trilinear: one voxel further than the cell.
    assert at.amin(0).tolist() == [1, 3, 5]
    assert at.amax(0).tolist() == [4, 6, 8]
    torch.testing.assert_close(heat.max(), torch.tensor(2 * 0.75**3))


# Numbers -----------------------------------------------------------------------------------------


@every_gradient
def test_a_gradient_of_zero_gives_a_map_of_zero(images, method):
    network = Pooled().eval()
    nn.init.zeros_(network.head.weight)
    maps = method(score_of(network, 0), images, network.activation)
    assert maps.shape == (2, 8, 8)
    assert maps.eq(0).all()


@every_method
def test_a_layer_that_puts_out_zero_gives_a_map_of_zero(images, method):
    network = Pooled().eval()
    nn.init.constant_(network.features.bias, -100.0)
    maps = method(score_of(network, 0), images, network.activation)
    assert maps.eq(0).all()


def test_a_denominator_of_zero_is_no_nan():
    layer = nn.Identity()
    images = torch.full((1, 1, 2, 2), -0.5)  # they sum to -2, and with a gradient of 1 ...
    maps = grad_cam_plus_plus(lambda x: layer(x).flatten(1).sum(1), images, layer)
    assert maps.eq(0).all()
    # ... while another channel still counts, with 1 / (2 + 2) at each place.
    images = torch.cat([images, torch.full_like(images, 0.5)], 1)
    maps = grad_cam_plus_plus(lambda x: layer(x).flatten(1).sum(1), images, layer)
    torch.testing.assert_close(maps, torch.full((1, 2, 2), 0.5))


@every_gradient
def test_small_gradients_do_not_vanish(images, method):
    network = Nonlinear().eval()
    maps = method(lambda x: network(x)[:, 1] * 1e-25, images, network.activation)
    assert (maps > 0).any()
    expected = method(lambda x: network(x)[:, 1] * 1e-5, images, network.activation)
    torch.testing.assert_close(maps * 1e20, expected, rtol=1e-3, atol=0)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_give_a_map_in_single_precision(images, method, dtype):
    network = Nonlinear().eval()
    half = copy.deepcopy(network).to(dtype)
    expected = method(score_of(network, 1), images, network.activation)
    maps = method(lambda x: half(x.to(dtype))[:, 1], images, half.activation)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(unit_range(maps), unit_range(expected), rtol=0, atol=0.06)


@every_method
def test_half_precision_does_not_overflow(method):
    layer, images = nn.Identity(), torch.full((2, 4, 8, 8), 1000.0)

    def score(x):  # activations of 1000 with gradients of 1000: their product is beyond 65504
        return (layer(x.half()) * 1000).flatten(1)[:, :60].mean(1)

    maps = method(score, images, layer)
    assert maps.isfinite().all()
    assert (maps > 0).any()


# What is left as it was --------------------------------------------------------------------------


@every_method
def test_leaves_mode_gradients_and_hooks_as_they_were(images, method):
    network = Pooled().train()
    network.head.weight.grad = kept = torch.ones_like(network.head.weight)
    before, inputs = copy.deepcopy(network.state_dict()), images.clone()
    state = torch.get_rng_state()
    method(score_of(network, 0), images, network.activation)
    assert network.training
    assert network.head.weight.grad is kept
    assert kept.eq(1).all()
    assert all(p.grad is None for p in network.parameters() if p is not network.head.weight)
    assert all(p.requires_grad for p in network.parameters())
    assert not any(layer._forward_hooks for layer in network.modules())
    assert torch.is_grad_enabled()
    assert torch.get_rng_state().equal(state)
    assert images.equal(inputs)
    assert not images.requires_grad
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())


@every_method
def test_a_score_that_fails_leaves_no_hook(images, method):
    network = Pooled().eval()

    def score(x):
        network(x)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        method(score, images, network.activation)
    assert not network.activation._forward_hooks
    assert torch.is_grad_enabled()


@every_method
def test_an_activation_in_place_does_not_overwrite_what_is_weighed(images, method):
    plain, inplace = Pooled().eval(), Pooled(inplace=True).eval()
    inplace.load_state_dict(plain.state_dict())
    expected = method(score_of(plain, 2), images, plain.features)
    torch.testing.assert_close(method(score_of(inplace, 2), images, inplace.features), expected)


@every_method
def test_nor_one_in_place_to_the_input_of_a_layer_that_hands_it_on(images, method):
    class Handed(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.same, self.inplace = nn.Identity(), inplace

        def forward(self, x):
            x = x * 1
            y = self.same(x)
            x = x.neg_() if self.inplace else -x
            return torch.stack([(y * y).sum((1, 2, 3)), x.sum((1, 2, 3))], 1)

    plain, inplace = Handed(inplace=False), Handed(inplace=True)
    expected = method(score_of(plain, 0), images, plain.same)
    torch.testing.assert_close(method(score_of(inplace, 0), images, inplace.same), expected)
    assert expected.max() > 0


@every_method
def test_a_frozen_network_is_explained_too(images, method):
    network = Pooled().eval()
    expected = method(score_of(network, 1), images, network.activation)
    network.requires_grad_(False)
    torch.testing.assert_close(method(score_of(network, 1), images, network.activation), expected)
    assert expected.max() > 0


@every_method
def test_runs_under_inference_mode(images, method):
    network = Pooled().eval()
    expected = method(score_of(network, 1), images, network.activation)
    with torch.inference_mode():
        maps = method(score_of(network, 1), images.clone(), network.activation)
        assert torch.is_inference_mode_enabled()
    torch.testing.assert_close(maps.clone(), expected)


@every_method
def test_an_image_of_inference_mode_may_meet_the_layer_again_behind_it(images, method):
    layer = nn.AvgPool2d(3, stride=1, padding=1)

    def score(x):
        return (layer(x) * x).sum((1, 2, 3))

    expected = method(score, images, layer)
    with torch.inference_mode():
        maps = method(score, images.clone(), layer)
    torch.testing.assert_close(maps.clone(), expected)


@every_method
def test_rows_of_pixels_give_the_same_map(method):
    network = made("test_resnet")
    images = torch.rand(2, 3, 64, 64)
    expected = method(score_of(network, 1), images, attribution_layer(network))
    network.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    maps = method(score_of(network, 1), images, attribution_layer(network))
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-5)


# What is refused ---------------------------------------------------------------------------------


@every_method
def test_a_layer_that_takes_no_part_is_refused(images, method):
    network = Pooled().eval()
    with pytest.raises(UserError, match="layer Conv2d took no part"):
        method(score_of(network, 0), images, nn.Conv2d(3, 3, 1))


@every_method
def test_a_layer_that_runs_twice_is_refused(images, method):
    shared = nn.Conv2d(3, 3, 3, padding=1)
    with pytest.raises(UserError, match="Conv2d runs more than once"):
        method(lambda x: shared(shared(x)).mean((1, 2, 3)), images, shared)
    assert not shared._forward_hooks


@every_gradient
@pytest.mark.parametrize("how", ["detached", "unused", "no_grad"])
def test_a_score_without_a_gradient_is_refused(images, method, how):
    network = Pooled().eval()

    def score(x):
        with torch.set_grad_enabled(how != "no_grad" and torch.is_grad_enabled()):
            features = network.activation(network.features(x))
        if how == "detached":
            features = features.detach()
        if how == "unused":
            features = torch.zeros_like(features)
        return network.head(features.mean((2, 3)))[:, 0]

    with pytest.raises(UserError, match="no gradient with respect to what the layer ReLU"):
        method(score, images, network.activation)


@every_method
def test_an_output_that_is_no_tensor_is_refused(images, method):
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    layer = Two()
    with pytest.raises(UserError, match="layer Two puts out a tuple"):
        method(lambda x: layer(x)[0].mean((1, 2, 3)), images, layer)


@every_method
def test_an_output_that_is_not_laid_out_is_refused(method):
    network = made("test_vit")
    images = torch.rand(1, 3, 160, 160)
    with pytest.raises(UserError, match=r"puts out \[1, 101, 64\] .*`feature_map` has to lay"):
        method(score_of(network, 0), images, attribution_layer(network))


@every_method
def test_a_score_that_is_not_one_an_image_is_refused(images, method):
    network = Pooled().eval()
    with pytest.raises(UserError, match=r"has the shape \[., 4\]: .* one value an image"):
        method(network, images, network.activation)


def test_score_cam_refuses_a_score_of_one_target_an_image(images):
    network = Pooled().eval()
    for labels in (torch.tensor([1]), torch.tensor([1, 2])):
        with pytest.raises((UserError, RuntimeError)):
            score_cam(
                lambda x, labels=labels: network(x).gather(1, labels[:, None])[:, 0],
                images,
                network.activation,
            )


def test_unit_range_scales_each_map_and_leaves_a_flat_one_at_zero():
    maps = torch.stack([torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.full((2, 2), 7.0)])
    expected = torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(unit_range(maps), expected)
    torch.testing.assert_close(unit_range(maps[:, None]), expected[:, None])  # of a volume
