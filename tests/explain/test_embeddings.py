"""Embeddings against the head that reads them, projections against numpy, planted neighbours."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_imgproc.data.imagenet.datamodule import FashionMNIST
from lit_imgproc.errors import UserError
from lit_imgproc.explain.embeddings import (
    embed,
    embedding_figure,
    neighbours,
    project,
    variance_share,
)
from lit_imgproc.models.classification import networks
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.models.detection.module import Detector
from lit_imgproc.models.detection.networks import faster_rcnn
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.models.segmentation.networks import unet
from lit_imgproc.optim import SGD


def module_of(network, kind=Classifier, num_classes=5, channels=3):
    return kind(
        network=network,
        num_classes=num_classes,
        mean=[0.5] * channels,
        std=[0.5] * channels,
        optimizer=SGD(lr=0.1),
    )


def images_of(count=3, side=64, channels=3):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def clusters(count=30, dimensions=8, distance=20.0, seed=0):
    """Two Gaussians of deviation 1, and which of them each point is of."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    features = random.normal(size=(count, dimensions))
    features[:, 0] += distance * labels
    return features, labels.tolist()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)  # of the networks' weights


# Embeddings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("convnet", "linear"),
        ("test_resnet", "fc"),
        ("test_vit", "head"),
        ("googlenet", "fc"),
    ],
)
def test_the_head_makes_the_logits_of_the_embeddings(name, head):
    module = module_of(getattr(networks, name)(5)).train()
    images = images_of(side=160 if name == "test_vit" else 64)
    embeddings = embed(module, iter([images[:2], images[2:]]))
    assert module.training
    names = dict(module.network.named_modules())
    linear = names.get(head) or [m for m in names.values() if isinstance(m, nn.Linear)][-1]
    assert embeddings.shape == (3, linear.in_features)
    assert embeddings.dtype == np.float32
    with torch.no_grad():
        logits = module.eval()(images)
        again = linear(torch.from_numpy(embeddings))
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0


def test_a_head_on_maps_is_given_their_mean():
    class Convolutional(nn.Module):
        pretrained_cfg = {"classifier": "head"}  # noqa: RUF012

        def __init__(self):
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)

        def forward(self, images):
            return self.head(self.features(images)).mean((2, 3))

    module = module_of(Convolutional())
    images = images_of()
    maps = module.network.features(module.normalization(images))
    np.testing.assert_allclose(embed(module, [images]), maps.mean((2, 3)).detach(), atol=1e-6)


@pytest.mark.parametrize("kind", [Detector, Segmenter])
def test_of_what_lies_in_an_image_it_is_the_mean_over_all_places(kind):
    network = (
        faster_rcnn("test_resnet", num_classes=2, fpn_channels=16, head_channels=16)
        if kind is Detector
        else unet("test_resnet", 2)
    )
    module = module_of(network, kind, 2)
    images = images_of()
    seen = []
    handle = module.attribution_layer().register_forward_hook(lambda *call: seen.append(call[2]))
    module.eval().attribution_fn()(images)
    handle.remove()
    found = embed(module, [images[:1], images[1:]])
    np.testing.assert_allclose(found, seen[0].mean((2, 3)).detach(), rtol=1e-4, atol=1e-5)


def test_leaves_the_module_as_it_was():
    module = module_of(networks.test_resnet(5)).train()
    state = torch.get_rng_state()
    with torch.inference_mode():
        embed(module, [images_of()])
    with pytest.raises(RuntimeError):
        embed(module, [images_of(channels=2)])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(layer.training for layer in module.modules() if layer is not module)
    assert all(p.grad is None for p in module.parameters())
    layers = list(module.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def test_no_images_and_parts_of_images_are_refused():
    with pytest.raises(UserError, match="there are no images to embed"):
        embed(module_of(networks.convnet(5)), [])

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, 5)

        def forward(self, images):
            return self.head(images.reshape(2 * len(images), -1)).reshape(len(images), 2, 5).mean(1)

    with pytest.raises(UserError, match="Halves looks at parts of images"):
        embed(module_of(Halves()), [torch.rand(2, 3, 2, 4)])


# Projections -------------------------------------------------------------------------------------


def test_pca_is_the_singular_value_decomposition():
    features, _ = clusters()
    points = project(features, "pca")
    centred = features - features.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), atol=1e-9)
    assert variance_share(features, points) == pytest.approx((s[:2] ** 2).sum() / (s**2).sum())
    assert variance_share(features[:, :2], project(features[:, :2], "pca")) == pytest.approx(1)


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("dimensions", [3, 80])
def test_what_lies_apart_stays_apart(method, dimensions):
    features, labels = clusters(64, dimensions, distance=40)
    points = project(features, method)
    assert points.shape == (64, 2)
    first, second = (points[np.array(labels) == k] for k in (0, 1))
    spread = max(first.std(0).max(), second.std(0).max())
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > 3 * spread
    assert neighbours(points - points.min() + 1, labels, 1) > 0.9


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_same_seed_lays_out_the_same_and_other_random_states_stay(method):
    features, _ = clusters(40)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (project(features, method, seed=3) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_three_images_are_enough_and_like_ones_lie_on_each_other(method):
    features = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    points = project(features, method)
    assert points.shape == (3, 2)
    assert np.isfinite(points).all()
    assert points.std() > 0
    same = np.ones((4, 6), np.float32)
    assert not project(same, method).any()
    assert variance_share(same, project(same, method)) == 0
    with pytest.raises(UserError, match="2 images with 6 features cannot be laid out"):
        project(features[:2], method)
    with pytest.raises(UserError, match="3 images with 1 features"):
        project(features[:, :1], method)


# Neighbours --------------------------------------------------------------------------------------


def test_neighbours_are_counted_by_hand():
    angles = np.deg2rad([0, 1, 3, 90, 91])
    features = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array([[1], [9], [1], [5], [2]])
    # Nearest by angle: 0-1, 1-0, 2-1, 3-4, 4-3; lengths do not matter.
    assert neighbours(features, [0, 0, 0, 1, 1], k=1) == 1
    assert neighbours(features, [0, 0, 1, 1, 1], k=1) == pytest.approx(4 / 5)
    # Two neighbours: those of the pair of class 1 are each other and one of class 0.
    assert neighbours(features, [0, 0, 0, 1, 1], k=2) == pytest.approx(8 / 10)
    # As many as there are.
    assert neighbours(features, [0, 0, 0, 1, 1], k=99) == pytest.approx((3 * 2 + 2 * 1) / 20)


def test_an_image_is_not_its_own_neighbour_even_among_doubles():
    features = np.ones((4, 3))
    assert neighbours(features, [0, 1, 2, 3], k=3) == 0
    with pytest.raises(UserError, match="at least 2"):
        neighbours(features[:1], [0])


def test_neighbours_of_noise_are_guesses():
    features = np.random.default_rng(0).normal(size=(800, 16))
    labels = np.random.default_rng(1).integers(0, 4, 800).tolist()
    assert neighbours(features, labels) == pytest.approx(0.25, abs=0.03)
    features, labels = clusters(distance=50)
    assert neighbours(features - features.mean(0), labels) == 1


# Figures -----------------------------------------------------------------------------------------


def test_the_legend_names_the_classes_that_are_there():
    points, labels = np.random.default_rng(0).normal(size=(6, 2)), [0, 2, 2, 0, 2, 2]
    figure = embedding_figure(points, labels, ["cat", "dog", "emu"], "PCA")
    (axes,) = figure.axes
    assert axes.get_title() == "PCA"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cat", "emu"]
    drawn = [np.asarray(one.get_offsets()) for one in axes.collections]
    np.testing.assert_array_equal(drawn[0], points[[0, 3]])
    np.testing.assert_array_equal(drawn[1], points[[1, 2, 4, 5]])
    colours = {tuple(one.get_facecolor()[0]) for one in axes.collections}
    assert len(colours) == 2
    figure.canvas.draw()


def test_many_classes_have_a_colour_bar_and_none_have_neither():
    points = np.random.default_rng(0).normal(size=(100, 2))
    names = [str(k) for k in range(50)]
    bar = embedding_figure(points, [k % 50 for k in range(100)], names, "t-SNE")
    assert len(bar.axes) == 2
    assert bar.axes[0].get_legend() is None
    few_of_many = embedding_figure(points, [k % 20 for k in range(100)], names, "t-SNE")
    assert len({tuple(one.get_facecolor()[0]) for one in few_of_many.axes[0].collections}) == 20
    plain = embedding_figure(points, None, names, "t-SNE")
    assert len(plain.axes) == 1
    assert plain.axes[0].get_legend() is None
    for figure in (bar, few_of_many, plain):
        figure.canvas.draw()


def test_images_of_a_class_lie_together_even_before_training(shared_data):
    data = FashionMNIST(root=str(shared_data / "fashion_mnist"), num_workers=0).dataset("test")
    samples = [data[index] for index in range(300)]
    images = torch.stack([sample["image"] for sample in samples]) / 255
    labels = [int(sample["label"]) for sample in samples]
    module = module_of(networks.convnet(10, 1), num_classes=10, channels=1)
    features = embed(module, images.split(100))
    assert features.shape == (300, 864)
    assert neighbours(features, labels) > 0.5
    assert neighbours(features, labels[::-1]) < 0.2
    assert 0.2 < variance_share(features, project(features, "pca")) < 1
