"""The classifier: closed forms of its loss, frozen parts, views, a few images by heart."""

import math

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lit_imgproc.errors import UserError
from lit_imgproc.models.classification.metrics import per_class_accuracy
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.models.classification.networks import convnet, googlenet, resnet20
from lit_imgproc.models.targets import Target
from lit_imgproc.optim import SGD, Adam, OneCycle


def classifier(network=None, num_classes=3, **options):
    network = network or convnet(num_classes=num_classes, in_channels=1)
    channels = options.pop("channels", 1)
    options.setdefault("optimizer", SGD(lr=0.1))
    options.setdefault("mean", [0.5] * channels)
    options.setdefault("std", [0.25] * channels)
    return Classifier(network=network, num_classes=num_classes, **options)


def images_of(labels, channels=1, side=28):
    """Images that a look can tell apart: each class is bright in a place of its own."""
    images = torch.randint(0, 60, (len(labels), channels, side, side), dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 8 * label : 8 * label + 6, 4:24] += 150
    return images


def loader(count=24, **options):
    labels = torch.arange(count) % 3
    images = images_of(labels.tolist())
    data = [
        {"image": image, "label": label, "id": str(i)}
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return DataLoader(data, batch_size=12, **options)


def fitted(module, steps=30, callbacks=()):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=steps // 2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, loader(shuffle=True))
    return trainer


# The loss ----------------------------------------------------------------------------------------


def test_label_smoothing_has_its_closed_form():
    logits, label = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
    assert float(classifier().loss(logits, label)) == pytest.approx(0.2395448)
    smooth = classifier(label_smoothing=0.1).loss(logits, label)
    assert float(smooth) == pytest.approx(0.3728782)


def test_zero_logits_cost_the_logarithm_of_the_classes():
    loss = classifier(num_classes=10, label_smoothing=0.1).loss(
        torch.zeros(4, 10), torch.zeros(4, dtype=torch.long)
    )
    assert float(loss) == pytest.approx(math.log(10))


def test_multilabel_loss_is_binary_cross_entropy():
    module = classifier(multilabel=True)
    loss = module.loss(torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [0, 1, 1]]))
    assert float(loss) == pytest.approx(math.log(2))


def test_balanced_weights_are_inverse_to_the_counts_with_mean_one_over_images():
    module = classifier(class_weights="balanced", class_counts=[10, 20, 30])
    weights = module.class_weights
    torch.testing.assert_close(weights, torch.tensor([2.0, 1.0, 2 / 3]))
    assert float((weights * torch.tensor([10, 20, 30])).sum() / 60) == pytest.approx(1)


def test_auxiliary_heads_add_their_share_of_the_loss():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            logits = self.fc(x.mean((1, 2)).repeat(1, 4)[:, :4] * 0)
            return (logits, logits, logits) if self.training else logits

    batch = {"image": torch.rand(2, 1, 8, 8), "label": torch.tensor([0, 1]), "id": ["a", "b"]}
    losses = {}
    for weight in (0.0, 0.3):
        torch.manual_seed(0)
        module = classifier(Three(), auxiliary_weight=weight)
        module.log = lambda *args, **kwargs: None
        losses[weight] = float(module.training_step(batch, 0).detach())
    assert losses[0.3] == pytest.approx(1.6 * losses[0.0])


def test_googlenet_trains_with_its_auxiliary_heads_and_answers_without():
    module = classifier(googlenet(num_classes=3, in_channels=3), channels=3)
    module.log = lambda *args, **kwargs: None
    batch = {"image": torch.rand(2, 3, 64, 64), "label": torch.tensor([0, 1]), "id": ["a", "b"]}
    module.training_step(batch, 0).backward()
    assert all(p.grad is not None for p in module.network.parameters())
    assert module.eval()(batch["image"]).shape == (2, 3)


# Construction ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mean": None}, "mean and std are needed"),
        ({"mean": [0.1, 0.2]}, "one value a channel"),
        ({"class_names": ["a"]}, "1 class names"),
        ({"class_weights": [1.0]}, "1 class weights"),
        ({"class_weights": "balanced"}, "need class_counts"),
        ({"class_weights": "balanced", "class_counts": [1, 0, 2]}, "each above 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        classifier(**options)


def test_weights_of_a_file_bring_their_normalization(tmp_path):
    first = classifier(mean=[0.3], std=[0.2])
    path = tmp_path / "first.ckpt"
    torch.save({"state_dict": first.state_dict()}, path)
    second = classifier(weights=str(path), mean=None, std=None)
    torch.testing.assert_close(second.normalization.mean, first.normalization.mean)
    for name, value in first.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], value)


def test_a_plain_file_of_weights_needs_a_normalization(tmp_path):
    path = tmp_path / "plain.pth"
    torch.save(convnet(num_classes=3, in_channels=1).state_dict(), path)
    with pytest.raises(UserError, match=r"set model\.mean and model\.std"):
        classifier(weights=str(path), mean=None, std=None)


def test_published_cifar10_weights_load(shared_data):
    network = resnet20(num_classes=10, in_channels=3)
    file = shared_data / "weights" / "cifar10_resnet20.pth"
    module = classifier(
        network, 10, weights=str(file), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    assert float(module.network.linear.weight.detach().abs().mean()) > 0.1  # trained, not initial


# Training ----------------------------------------------------------------------------------------


def test_learns_a_few_images_by_heart():
    pl.seed_everything(0, verbose=False)
    module = classifier(optimizer=SGD(lr=0.05, momentum=0.9), schedule=OneCycle())
    trainer = fitted(module, 30)
    (metrics,) = trainer.validate(module, loader(), verbose=False)
    assert metrics["val/accuracy"] == 1
    assert metrics["val/loss"] < 0.1


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1}])
def test_learns_with_mixed_images(options):
    pl.seed_everything(0, verbose=False)
    module = classifier(optimizer=Adam(lr=0.003), **options)
    trainer = fitted(module, 30)
    (metrics,) = trainer.validate(module, loader(), verbose=False)
    assert metrics["val/accuracy"] > 0.9


def test_a_frozen_trunk_neither_learns_nor_drifts():
    module = classifier(frozen="trunk")
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    fitted(module, 4)
    changed = {
        name for name, value in module.network.state_dict().items() if not value.equal(before[name])
    }
    learning = {name for name, p in module.network.named_parameters() if p.requires_grad}
    assert changed == learning
    assert 0 < len(learning) < 3


def test_norms_and_biases_get_no_weight_decay():
    module = classifier(optimizer=SGD(lr=0.1, weight_decay=0.01))
    decays = {}
    for group in module.configure_optimizers().param_groups:
        decays |= {id(p): group["weight_decay"] for p in group["params"]}
    for name, parameter in module.network.named_parameters():
        assert decays[id(parameter)] == (0.01 if parameter.ndim > 1 else 0), name


# Evaluation --------------------------------------------------------------------------------------


def test_tests_report_what_a_count_by_hand_gives():
    class Echo(nn.Module):
        """Answers the class that the first pixel names."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(20.0))

        def forward(self, x):
            return nn.functional.one_hot(x[:, 0, 0, 0].round().long(), 3) * self.scale

    labels = [0, 0, 1, 1, 2, 2]
    answers = [0, 1, 1, 1, 2, 0]
    data = [
        {"image": torch.full((1, 4, 4), float(a)), "label": torch.tensor(y), "id": str(i)}
        for i, (a, y) in enumerate(zip(answers, labels, strict=True))
    ]
    module = classifier(Echo(), mean=[0.0], std=[1.0], class_names=["a", "b", "c"])
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (metrics,) = trainer.test(module, DataLoader(data, batch_size=4), verbose=False)
    assert metrics["test/accuracy"] == pytest.approx(4 / 6)
    assert metrics["test/accuracy/a"] == pytest.approx(0.5)
    assert metrics["test/accuracy/b"] == pytest.approx(1)
    assert metrics["test/f1"] == pytest.approx((0.5 + 0.8 + 2 / 3) / 3)
    # Sure of itself: two of six wrong, each at 20 nats.
    assert metrics["test/loss"] == pytest.approx(20 * 2 / 6, rel=1e-5)
    assert metrics["test/calibration_error"] == pytest.approx(2 / 6, rel=1e-5)
    figure = module.figures()["confusion_matrix"]
    assert [t.get_text() for t in figure.axes[0].texts] == list("110020101")


def test_per_class_accuracy_of_an_absent_class_is_nan():
    accuracy = per_class_accuracy(torch.tensor([[3, 1], [0, 0]]))
    assert float(accuracy[0]) == 0.75
    assert math.isnan(accuracy[1])


def test_multilabel_learns_and_predicts_sets():
    pl.seed_everything(0, verbose=False)
    module = classifier(multilabel=True, class_names=["a", "b", "c"], optimizer=Adam(lr=0.01))
    sets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]])
    images = torch.zeros(4, 1, 28, 28)
    for image, chosen in zip(images, sets, strict=True):
        for k in chosen.nonzero().flatten().tolist():
            image[:, 9 * k : 9 * k + 9] = 1
    data = [
        {"image": i, "label": s, "id": str(n)}
        for n, (i, s) in enumerate(zip(images, sets, strict=True))
    ] * 4
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=15, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=16))
    (metrics,) = trainer.test(module, DataLoader(data, batch_size=16), verbose=False)
    assert metrics["test/exact_match"] == 1
    assert metrics["test/auroc"] == 1
    answers = module.eval().predict_step({"image": images, "id": list("wxyz")}, 0)
    assert [answer["label"] for answer in answers] == [["a"], ["b", "c"], [], ["a", "b", "c"]]
    module.draw({"image": images, "label": sets, "id": list("wxyz")}, answers)


@pytest.mark.parametrize(("views", "count"), [("none", 1), ("hflip", 2), ("d4", 8)])
def test_views_are_distinct_and_averaged(views, count):
    module = classifier(test_time_augmentation=views).eval()
    image = torch.rand(1, 1, 28, 28)
    seen = [image, *[view(image) for view in module._views]]
    assert len({tuple(x.flatten().tolist()) for x in seen}) == count
    expected = torch.stack([module(x).softmax(1) for x in seen]).mean(0)
    torch.testing.assert_close(module.probabilities(image), expected)


def test_predictions_are_plain_and_drawn():
    module = classifier(class_names=["a", "b", "c"]).eval()
    batch = {"image": torch.rand(3, 1, 28, 28), "label": torch.arange(3), "id": ["x", "y", "z"]}
    answers = module.predict_step(batch, 0)
    assert [answer["id"] for answer in answers] == ["x", "y", "z"]
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["score"] == max(answer["probabilities"].values())
        assert answer["probabilities"][answer["label"]] == answer["score"]
    picture = module.draw(batch, answers)
    assert picture.dtype == "uint8"
    assert picture.ndim == 3


def test_the_exported_network_takes_images_in_unit_range():
    module = classifier().eval()
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(module.export_network()(images), module(images).softmax(1))


def test_an_attribution_is_of_the_class_asked_for_or_of_the_answer():
    module = classifier().eval()
    images = torch.rand(2, 1, 28, 28)
    logits = module(images)
    torch.testing.assert_close(module.attribution_fn(Target(1))(images), logits[:, 1])
    torch.testing.assert_close(module.attribution_fn()(images), logits.amax(1))
    each = module.attribution_fn([Target(1), Target(0)])(images)
    torch.testing.assert_close(each, torch.stack([logits[0, 1], logits[1, 0]]))


def test_how_sure_it_is_of_a_class_is_its_probability():
    module = classifier().eval()
    images = torch.rand(2, 1, 28, 28)
    shares = module(images).softmax(1)
    torch.testing.assert_close(module.confidence_fn(Target(1))(images), shares[:, 1])
    torch.testing.assert_close(module.confidence_fn()(images), shares.amax(1))


def test_what_is_explained_is_its_answer_or_the_class_asked_for():
    module = classifier().eval()
    batch = {"image": torch.rand(2, 1, 28, 28)}
    answers = module(batch["image"]).argmax(1).tolist()
    assert module.attribution_targets(batch) == [Target(k) for k in answers]
    assert module.attribution_targets(batch, 1) == [Target(1), Target(1)]
    with pytest.raises(UserError, match="no box can be explained"):
        module.attribution_targets(batch, 1, (0, 0, 5, 5))
