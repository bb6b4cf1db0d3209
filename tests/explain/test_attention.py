"""Attention maps: worked out by hand, against attention taken apart, and on what learned."""

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from lit_imgproc.errors import UserError
from lit_imgproc.explain.attention import attention_gradient, attention_rollout

METHODS = [attention_rollout, attention_gradient]


# By hand -----------------------------------------------------------------------------------------


class Told(nn.Module):
    """Attends as it is told: ``[heads, N, N]``."""

    def __init__(self, probabilities):
        super().__init__()
        self.probabilities = nn.Parameter(torch.tensor(probabilities))
        self.attn_drop = nn.Dropout(0.0)

    def forward(self, x):
        attention = self.attn_drop(self.probabilities.expand(len(x), -1, -1, -1))
        return x + (attention @ x[:, None]).mean(1)


class Pixels(nn.Module):
    """A transformer whose patches are the pixels; the class token, if it has one, starts at 0."""

    def __init__(self, *blocks, num_prefix_tokens=1, global_pool="token"):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.num_prefix_tokens, self.global_pool = num_prefix_tokens, global_pool

    def forward(self, images):
        x = F.pad(images.flatten(2).transpose(1, 2), (0, 0, self.num_prefix_tokens, 0))
        x = self.blocks(x)
        return x[:, 0] if self.global_pool == "token" else x[:, self.num_prefix_tokens :].mean(1)


FIRST = [  # two heads, whose mean is [[.2, .4, .4], [0, 1, 0], [0, .5, .5]]
    [[0.4, 0.4, 0.2], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]],
    [[0.0, 0.4, 0.6], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
]
SECOND = [[[0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        # Half of each block is the identity: [[.5, .5, 0], [0, .75, .25], [0, 0, 1]]
        # times [[.6, .2, .2], [0, 1, 0], [0, .25, .75]].
        ("token", [0.6, 0.1]),  # .5 * [.6, .2, .2] + .5 * [0, 1, 0]
        ("avg", [(0.8125 + 0.25) / 2, (0.1875 + 0.75) / 2]),
    ],
)
def test_rollout_worked_out_by_hand(pool, expected):
    network = Pixels(Told(FIRST), Told(SECOND), global_pool=pool).eval()
    maps = attention_rollout(lambda x: network(x)[:, 0], torch.rand(2, 1, 1, 2), network)
    torch.testing.assert_close(maps, torch.tensor(expected).expand(2, 1, 2))


def test_gradient_worked_out_by_hand():
    # The class token becomes A x = x1 / 4 + 3 x2 / 4: the gradient of that attention is x itself,
    # where x is below zero it does not count, and the map is relu(x) times A.
    network = Pixels(Told([[[0.0, 0.25, 0.75], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])).eval()
    images = torch.tensor([[2.0, 5.0], [4.0, -1.0]]).view(2, 1, 1, 2)
    maps = attention_gradient(lambda x: network(x)[:, 0], images, network)
    torch.testing.assert_close(maps, torch.tensor([[[0.5, 3.75]], [[1.0, 0.0]]]))


def test_attention_that_stays_where_it_is_tells_nothing_of_a_patch():
    images = torch.rand(1, 1, 2, 3)
    blocks = [Told([torch.eye(7).tolist()]) for _ in range(3)]
    network = Pixels(*blocks).eval()
    maps = attention_rollout(lambda x: network(x)[:, 0], images, network)
    torch.testing.assert_close(maps, torch.zeros(1, 2, 3))  # the class token saw no patch
    blocks = [Told([torch.eye(6).tolist()]) for _ in range(3)]
    network = Pixels(*blocks, num_prefix_tokens=0, global_pool="avg").eval()
    maps = attention_rollout(lambda x: network(x)[:, 0], images, network)
    torch.testing.assert_close(maps, torch.full((1, 2, 3), 1 / 6))  # each is its own part of all


def test_what_the_patches_take_of_each_other_sums_to_one_in_torchs_encoder_too():
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
    network = Pixels(*layers, num_prefix_tokens=0, global_pool="avg").eval()
    images = torch.randn(3, 8, 4, 5)
    maps = attention_rollout(lambda x: network(x)[:, 0], images, network)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))
    assert maps.std() > 0


# Against attention taken apart -------------------------------------------------------------------


class TakenApart(nn.Module):
    """The attention of timm's ViT or of torch, from its weights, with the probabilities kept."""

    def __init__(self, attention):
        super().__init__()
        self.of_torch = isinstance(attention, nn.MultiheadAttention)
        self.attention, self.seen = attention, None

    def forward(self, x, *args, **kwargs):
        a = self.attention
        if self.of_torch:
            qkv, out = F.linear(x, a.in_proj_weight, a.in_proj_bias), a.out_proj
        else:
            qkv, out = a.qkv(x), a.proj
        q, k, v = qkv.unflatten(-1, (3, a.num_heads, -1)).permute(2, 0, 3, 1, 4)
        self.seen = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        self.seen.retain_grad()
        x = out((self.seen @ v).transpose(1, 2).flatten(2))
        return (x, None) if self.of_torch else x


def lively(network):
    """Weights that make attention uneven, and scores that depend on it."""
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            nn.init.normal_(parameter, std=0.3 if "qkv" in name or "in_proj" in name else 0.1)
    return network.eval()


def vit(name="test_vit", size=(64, 64), **arguments):
    return timm.create_model(name, img_size=size, num_classes=5, depth=2, **arguments)


def small_deit():
    return vit("deit_tiny_distilled_patch16_224", embed_dim=48)


def registers():
    return vit(reg_tokens=4)


def torchvision_vit():
    return TorchvisionViT(
        32, 8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=32, num_classes=5
    )


# The network, the size of its images, its grid, its prefix, and the tokens that it answers from.
CASES = {
    "vit": (vit, (64, 64), (4, 4), 1, [0]),
    "vit, not square": (lambda: vit(size=(48, 96)), (48, 96), (3, 6), 1, [0]),
    "distilled": (small_deit, (64, 64), (4, 4), 2, [0, 1]),
    "registers": (registers, (64, 64), (4, 4), 5, [0]),
    "pooled": (lambda: vit(global_pool="avg"), (64, 64), (4, 4), 1, list(range(1, 17))),
    "pooled, no class token": (
        lambda: vit(global_pool="avg", class_token=False),
        (64, 64),
        (4, 4),
        0,
        list(range(16)),
    ),
    "other image size": (lambda: vit(dynamic_img_size=True), (32, 80), (2, 5), 1, [0]),
    "patches not square": (lambda: vit(patch_size=(8, 16)), (64, 64), (8, 4), 1, [0]),
    "torchvision": (torchvision_vit, (32, 32), (4, 4), 1, [0]),
}


def of_target(network, target):
    return lambda x: network(x)[:, target]


def chefer(attention, gradient):
    """One image: lists of ``[heads, N, N]`` to the relevance ``[N, N]``."""
    relevance = np.eye(attention[0].shape[-1])
    for a, g in zip(attention, gradient, strict=True):
        relevance = relevance + np.maximum(a * g, 0).mean(0) @ relevance
    return relevance - np.eye(len(relevance))


def rollout(attention):
    result = np.eye(attention[0].shape[-1])
    for a in attention:
        block = (a.mean(0) + np.eye(len(result))) / 2
        result = block / block.sum(1, keepdims=True) @ result
    return result


@pytest.mark.parametrize("case", CASES)
def test_equals_the_rules_on_attention_taken_apart(case):
    make, size, grid, prefix, answers = CASES[case]
    network = lively(make())
    apart = copy.deepcopy(network)
    for layer in list(apart.modules()):
        for name in ("attn", "self_attention"):
            if hasattr(layer, name):
                setattr(layer, name, TakenApart(getattr(layer, name)))
    layers = [layer for layer in apart.modules() if isinstance(layer, TakenApart)]
    images = torch.rand(2, 3, *size)
    apart(images)[:, 2].sum().backward()
    attentions = [layer.seen.detach().double().numpy() for layer in layers]
    gradients = [layer.seen.grad.double().numpy() for layer in layers]
    assert len(layers) == 2
    assert np.ptp(attentions[0][0, 0, 0]) > 1e-3

    def as_map(matrix):
        patches = torch.tensor(matrix[answers].mean(0)[prefix:]).view(1, 1, *grid)
        return F.interpolate(patches.float(), size=size, mode="bilinear")[0, 0]

    each = [([a[i] for a in attentions], [g[i] for g in gradients]) for i in range(2)]
    expected = torch.stack([as_map(rollout(a)) for a, _ in each])
    close = {"rtol": 1e-4, "atol": 1e-5}
    maps = attention_rollout(of_target(network, 2), images, network)
    torch.testing.assert_close(maps / expected.max(), expected / expected.max(), **close)
    expected = torch.stack([as_map(chefer(a, g)) for a, g in each])
    maps = attention_gradient(of_target(network, 2), images, network)
    torch.testing.assert_close(maps / expected.max(), expected / expected.max(), **close)
    assert (maps >= 0).all()
    assert maps.std() > 0


def test_the_fast_path_of_torch_gives_the_same_attention():
    network = lively(torchvision_vit())
    images = torch.rand(2, 3, 32, 32)
    fast = attention_rollout(of_target(network, 0), images, network)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        slow = attention_rollout(of_target(network, 0), images, network)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("beit_base_patch16_224", {"embed_dim": 48, "num_heads": 3}),
        ("eva02_tiny_patch14_224", {"embed_dim": 48, "num_heads": 3}),
        ("vit_relpos_small_patch16_224", {"embed_dim": 48, "num_heads": 3}),
        ("vit_small_patch14_reg4_dinov2", {"embed_dim": 48, "num_heads": 3}),
        ("test_vit", {}),
        ("torchvision", {}),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_recording_does_not_change_what_the_network_answers(method, name, arguments):
    side = 32 if name == "torchvision" else 56 if "14" in name else 64
    network = torchvision_vit() if name == "torchvision" else vit(name, (side, side), **arguments)
    lively(network)
    images = torch.rand(2, 3, side, side)
    heard = []

    def score(x):
        heard.append(network(x))
        return heard[-1][:, 1]

    maps = method(score, images, network)
    with torch.no_grad():
        torch.testing.assert_close(heard[0].detach(), network(images), rtol=1e-4, atol=1e-5)
    assert len(heard) == 1
    assert maps.shape == (2, side, side)
    assert (maps >= 0).all()
    assert (maps.std((1, 2)) > 0).all()


def test_only_the_gradient_tells_targets_apart():
    network = lively(vit())
    images = torch.rand(2, 3, 64, 64)
    first, second = (of_target(network, target) for target in (0, 3))
    same = [attention_rollout(score, images, network) for score in (first, second)]
    torch.testing.assert_close(*same)
    one, other = (attention_gradient(score, images, network) for score in (first, second))
    assert not torch.allclose(one / one.max(), other / other.max(), rtol=0.05)


def test_images_of_a_batch_do_not_touch_each_other():
    network = lively(vit())
    images = torch.rand(3, 3, 64, 64)
    for method in METHODS:
        together = method(of_target(network, 1), images, network)
        alone = torch.cat([method(of_target(network, 1), x[None], network) for x in images])
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-7)


# Where and how it is called ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [vit, torchvision_vit])
def test_frozen_networks_and_inference_mode_give_the_same_maps(make, method):
    network = lively(make())
    images = torch.rand(2, 3, *((64, 64) if make is vit else (32, 32)))
    expected = method(of_target(network, 1), images, network)
    network.requires_grad_(False)
    torch.testing.assert_close(method(of_target(network, 1), images, network), expected)
    with torch.inference_mode():
        maps = method(of_target(network, 1), images.clone(), network)
        assert torch.is_inference_mode_enabled()
    torch.testing.assert_close(maps.clone(), expected)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_gives_float32_maps(method):
    network = lively(vit())
    images = torch.rand(2, 3, 64, 64)
    expected = method(of_target(network, 1), images, network)
    network.bfloat16()
    maps = method(of_target(network, 1), images.bfloat16(), network)
    assert maps.dtype == torch.float32
    assert F.cosine_similarity(maps.flatten(), expected.flatten(), dim=0) > 0.99


def state(network):
    """All that an explanation might leave changed."""
    modules = list(network.modules())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    fused = [getattr(m, "fused_attn", None) for m in modules]
    gradients = [(p.requires_grad, p.grad) for p in network.parameters()]
    return hooks, fused, gradients, [m.training for m in modules], torch.is_grad_enabled()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [vit, torchvision_vit])
def test_leaves_everything_as_it_was_also_when_the_score_fails(make, method):
    network = make()  # in training mode
    if make is vit:
        network.blocks[0].attn.fused_attn = False  # stays so
        assert network.blocks[1].attn.fused_attn
    images = torch.rand(1, 3, *((64, 64) if make is vit else (32, 32)))
    before = state(network)

    def fails(x):
        network(x)
        raise ZeroDivisionError

    method(of_target(network, 0), images, network)
    assert state(network) == before
    with pytest.raises(ZeroDivisionError):
        method(fails, images, network)
    assert state(network) == before
    assert not images.requires_grad


# What cannot be explained so ---------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "size", "arguments"),
    [
        ("swin_tiny_patch4_window7_224", 56, {"depths": (1, 1, 1, 1), "img_size": 56}),
        ("pvt_v2_b0", 64, {}),
        ("maxvit_rmlp_pico_rw_256", 64, {"img_size": 64}),
        ("samvit_base_patch16_224", 64, {"depth": 2, "embed_dim": 48, "num_heads": 2}),
        ("convit_tiny", 224, {"depth": 2, "local_up_to_layer": 1}),
        ("xcit_nano_12_p16_224", 64, {"depth": 1}),
        ("test_vit3", 160, {}),  # pools by an attention of its own
        ("test_resnet", 64, {}),
    ],
)
def test_refuses_networks_without_attention_over_one_grid(name, size, arguments, method):
    network = timm.create_model(name, num_classes=5, **arguments).eval()
    before = state(network)
    with pytest.raises(UserError, match=r"cannot be explained by its attention.*grad_cam"):
        method(of_target(network, 0), torch.rand(2, 3, size, size), network)
    assert state(network) == before


class Windows(Pixels):
    """Attends within each pair of pixels: many small grids."""

    def forward(self, images):
        x = images.flatten(2).transpose(1, 2)
        return self.blocks(x.reshape(-1, 2, x.shape[-1])).view_as(x).mean(1)


class Channels(Pixels):
    """Its channels attend to each other."""

    def forward(self, images):
        return self.blocks(images.flatten(2)).mean(2)


@pytest.mark.parametrize(("kind", "tokens"), [(Windows, 2), (Channels, 5)])
def test_refuses_attention_that_is_not_between_all_patches(kind, tokens):
    network = kind(Told([torch.eye(tokens).tolist()]), num_prefix_tokens=0, global_pool="avg")
    with pytest.raises(UserError, match="cannot be explained by its attention"):
        attention_rollout(lambda x: network(x)[:, 0], torch.rand(1, 5, 2, 2), network)


def test_refuses_the_mix_transformer_of_segformer():
    from segmentation_models_pytorch import Segformer

    network = Segformer("mit_b0", encoder_weights=None, classes=3).eval()
    with pytest.raises(UserError, match="cannot be explained by its attention"):
        attention_rollout(lambda x: network(x).mean((1, 2, 3)), torch.rand(1, 3, 64, 64), network)


@pytest.mark.parametrize("method", METHODS)
def test_refuses_a_score_that_does_not_run_the_network(method):
    network, other = vit().eval(), vit().eval()
    with pytest.raises(UserError, match="took part in the score"):
        method(of_target(other, 0), torch.rand(1, 3, 64, 64), network)


# What learned ------------------------------------------------------------------------------------


def patches_that_decide(count, random):
    """Noise with a green patch; the images of class 1 have a red one as well."""
    images = 0.5 * torch.rand(count, 3, 16, 16, generator=random)
    labels = torch.randint(2, (count,), generator=random)
    red = torch.randint(16, (count,), generator=random)
    green = (red + 1 + torch.randint(15, (count,), generator=random)) % 16
    patches = images.view(count, 3, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5)
    every = torch.arange(count)
    patches[every, red // 4, red % 4, 0] += 0.5 * labels[:, None, None]
    patches[every, green // 4, green % 4, 1] += 0.5
    return images, labels, red


def test_the_gradient_finds_the_patch_that_decides():
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    network = VisionTransformer(
        img_size=16,
        patch_size=4,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=2,
        class_token=False,
        global_pool="avg",
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(100):
        images, labels, _ = patches_that_decide(32, random)
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    images, labels, red = patches_that_decide(128, random)
    assert (network(images).argmax(1) == labels).float().mean() > 0.95
    images, red = images[labels == 1], red[labels == 1]
    maps = attention_gradient(lambda x: network(x).diff(dim=1)[:, 0], images, network)
    highest = maps.flatten(1).argmax(1)
    found = highest // 16 // 4 * 4 + highest % 16 // 4
    assert (found == red).float().mean() > 0.9
