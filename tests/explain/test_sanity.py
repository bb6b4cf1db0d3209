"""The parameter randomisation check: what it leaves behind, and that it tells methods apart."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from lit_imgproc.explain.cam import grad_cam
from lit_imgproc.explain.sanity import FAILED, randomised, sanity_check
from lit_imgproc.explain.undisturbed import undisturbed
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.models.classification.networks import convnet, resnet20
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.models.segmentation.networks import unet
from lit_imgproc.optim import SGD


def classifier(network, channels=1):
    return Classifier(
        network=network, num_classes=2, mean=[0.5] * channels, std=[0.25] * channels,
        optimizer=SGD(lr=0.1),
    ).eval()  # fmt: skip


def shapes(count):
    """Small discs and crosses, each somewhere on noise: class 0 and class 1."""
    generator = torch.Generator().manual_seed(count)
    images = 0.3 * torch.rand(count, 1, 28, 28, generator=generator)
    labels = torch.arange(count) % 2
    places = torch.randint(0, 20, (count, 2), generator=generator).tolist()
    steps = torch.arange(8) - 3.5
    disc = (steps[:, None] ** 2 + steps**2 < 13).float()
    cross = ((steps.abs() < 1)[:, None] | (steps.abs() < 1)).float()
    for image, label, (top, left) in zip(images, labels, places, strict=True):
        image[0, top : top + 8, left : left + 8] += 0.7 * (cross if label else disc)
    return images, labels


@pytest.fixture(scope="module")
def trained():
    """A network that tells discs from crosses; seconds of training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = classifier(convnet(num_classes=2, in_channels=1)).train()
        optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
        images, labels = shapes(256)
        for _ in range(60):
            some = torch.randint(len(images), (32,))
            loss = F.cross_entropy(module(images[some]), labels[some])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        module.eval()
    images, labels = shapes(100)
    with torch.no_grad():
        assert (module(images).argmax(1) == labels).float().mean() > 0.9
    return module


@pytest.fixture
def images():
    return shapes(8)[0]


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module, before):
    after = module.state_dict()
    return [name for name, value in before.items() if torch.equal(after[name], value)]


def cams(module, images):
    with torch.no_grad():
        answers = module(images).argmax(1)

    def score(seen):
        return module(seen).gather(1, answers[:, None])[:, 0]

    return lambda: list(grad_cam(score, images, module.attribution_layer(), module.feature_map))


def edges(images):
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).view(1, 1, 3, 3)
    both = torch.cat([kernel, kernel.mT])
    return lambda: list(F.conv2d(images, both, padding=1).norm(dim=1))


# What is told apart ------------------------------------------------------------------------------


def test_grad_cam_of_a_trained_network_passes(trained, images):
    with undisturbed(trained):
        similarity = sanity_check(trained, cams(trained, images), images=images)
    assert len(similarity) == 4
    assert similarity[-1] < FAILED - 0.1


def test_an_edge_detector_fails_at_every_share(trained, images):
    with undisturbed(trained):
        similarity = sanity_check(trained, edges(images), images=images, shares=(0.3, 0.6, 1))
    assert similarity == pytest.approx([1, 1, 1])
    assert similarity[-1] >= FAILED


def test_a_method_whose_signs_alone_follow_the_network_fails(trained, images):
    def signed():
        signs = 1.0 if trained.network.linear.weight[0, 0] > first else -1.0
        return [heat * signs for heat in edges(images)()]

    first = trained.network.linear.weight[0, 0].item()
    assert sanity_check(trained, signed, images=images) == pytest.approx([1] * 4)


def test_flat_maps_of_the_random_network_count_as_0_and_others_not_at_all(trained):
    heat, flat = torch.arange(4.0).view(2, 2), torch.zeros(2, 2)
    answers = iter([[heat, heat, flat], [heat, flat, heat], [flat, flat, flat]])
    found = sanity_check(trained, lambda: next(answers), images=shapes(3)[0], shares=(0.5, 1))
    assert found == pytest.approx([0.5, 0])
    (nothing,) = sanity_check(trained, lambda: [flat], images=shapes(1)[0], shares=(1,))
    assert nothing != nothing  # nan


def test_a_seed_is_repeated_and_another_differs(trained, images):
    maps = cams(trained, images)
    state = torch.get_rng_state()
    first, again, other = (
        sanity_check(trained, maps, images=images, shares=(1,), seed=k) for k in (0, 0, 1)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


# What is changed, and restored -------------------------------------------------------------------


def test_parameters_and_buffers_are_restored_to_the_bit(trained, images):
    before = snapshot(trained)
    with randomised(trained, images, 1.0, seed=0):
        weights = [name for name, p in trained.named_parameters() if p.unique().numel() > 2]
        assert not set(unchanged(trained, before)) & set(weights)
        assert "network.bn2.running_var" not in unchanged(trained, before)
    assert unchanged(trained, before) == list(before)
    assert all(p.grad is None and p.requires_grad for p in trained.parameters())
    assert not any(m._forward_pre_hooks for m in trained.modules())
    with torch.inference_mode(), randomised(trained, images, 0.5, seed=0):
        pass
    assert unchanged(trained, before) == list(before)
    assert not any(p.is_inference() for p in trained.parameters())


def test_they_are_restored_after_an_error_too(trained, images):
    before = snapshot(trained)
    with pytest.raises(RuntimeError, match="in the middle"), randomised(trained, images, 1, seed=0):
        raise RuntimeError("in the middle")
    assert unchanged(trained, before) == list(before)
    with (
        pytest.raises(RuntimeError, match="channels"),
        randomised(trained, images.repeat(1, 3, 1, 1)[:, :2], 1, seed=0),
    ):
        pass
    assert unchanged(trained, before) == list(before)
    assert not any(m._forward_pre_hooks for m in trained.modules())


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.second(self.first(x.flatten(1)).relu()).relu())

    torch.manual_seed(0)
    module = classifier(Tied())
    before = snapshot(module)
    with randomised(module, torch.rand(4, 1, 2, 3), 1, seed=0):
        assert module.network.second.weight is module.network.first.weight
        assert not torch.equal(module.network.first.weight, before["network.first.weight"])
    assert unchanged(module, before) == list(before)


@pytest.mark.parametrize(
    ("make", "trunk", "head"),
    [
        (lambda: convnet(num_classes=2, in_channels=1), ("conv", "bn"), "linear.weight"),
        (
            lambda: timm.create_model("test_resnet", num_classes=2, in_chans=1),
            ("conv1", "bn1", "layer1", "layer2", "layer3"),
            "fc.weight",
        ),
    ],
)
def test_a_quarter_of_the_layers_leaves_the_trunk_alone(make, trunk, head):
    torch.manual_seed(0)
    module = classifier(make())
    before = snapshot(module)
    with randomised(module, torch.rand(4, 1, 32, 32), 0.25, seed=0):
        same = set(unchanged(module, before))
    lower = {n for n in before if n.removeprefix("network.").startswith(trunk)}
    assert lower
    assert lower <= same
    assert f"network.{head}" not in same


def test_a_network_without_a_linear_layer_is_randomised_from_its_end():
    torch.manual_seed(0)
    module = Segmenter(
        network=unet("test_resnet", 3, decoder_channels=(16, 16, 8, 8, 8)), num_classes=3,
        mean=[0.5] * 3, std=[0.25] * 3, optimizer=SGD(lr=0.1),
        class_names=["background", "cell", "edge"],
    ).eval()  # fmt: skip
    before = snapshot(module)
    images = [torch.rand(3, 32, 32), torch.rand(3, 64, 32)]  # of several sizes
    with randomised(module, images, 0.25, seed=0):
        same = unchanged(module, before)
        assert torch.isfinite(module(images[1][None])).all()
    changed = {name.split(".")[1] for name in set(before) - set(same)}
    assert changed == {"decoder", "segmentation_head"}
    assert unchanged(module, before) == list(before)


def test_values_are_shuffled_alike_whatever_the_share(trained, images):
    plain = trained.network.linear.weight.detach().clone()
    shuffled = []
    for share in (0.1, 1):
        with randomised(trained, images, share, seed=3):
            shuffled.append(trained.network.linear.weight.detach().clone())
    assert torch.equal(shuffled[0], shuffled[1])
    assert torch.equal(shuffled[0].flatten().sort()[0], plain.flatten().sort()[0])


def test_norms_get_the_statistics_of_what_reaches_them(trained, images):
    seen = {}
    norms = {"bn1": trained.network.bn1, "bn3": trained.network.bn3}
    with randomised(trained, images, 1, seed=0), torch.no_grad():
        handles = [
            norm.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
            for name, norm in norms.items()
        ]
        trained(images)
        for handle in handles:
            handle.remove()
        for name, norm in norms.items():
            variance, mean = torch.var_mean(seen[name], (0, 2, 3), correction=0)
            torch.testing.assert_close(norm.running_mean, mean)
            torch.testing.assert_close(norm.running_var, variance)


def test_a_deep_random_network_neither_dies_nor_explodes(shared_data):
    network = resnet20(num_classes=10)
    weights = torch.load(shared_data / "weights" / "cifar10_resnet20.pth", weights_only=True)
    weights = weights.get("state_dict", weights)
    network.load_state_dict({k.removeprefix("module."): v for k, v in weights.items()})
    module = Classifier(
        network=network, num_classes=10, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225],
        optimizer=SGD(lr=0.1),
    ).eval()  # fmt: skip
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = F.avg_pool2d(images, 7, stride=1, padding=3)  # not all of one colour from afar
    with randomised(module, images, 1.0, seed=0), torch.no_grad():
        logits = module(images)
    assert logits.abs().max() < 100  # 1e10 with the statistics of the trained network
    assert logits.std(0).mean() > 0.1  # images still differ
