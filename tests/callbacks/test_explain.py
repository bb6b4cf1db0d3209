"""Explanation maps through a training: what they are of, and that the training stays the same."""

import functools
import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_imgproc import load_recipe
from lit_imgproc.callbacks.explain import Explain
from lit_imgproc.models.base import ImageModule
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.optim import SGD

SMALL = (
    "data.num_workers=0", "data.batch_size=32", "trainer.limit_train_batches=4",
    "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.num_sanity_val_steps=1",
    "trainer.enable_model_summary=false",
    *(f"callbacks.{name}=null" for name in ("checkpoint", "lr_monitor", "predictions", "explain")),
)  # fmt: skip


class Remembered(Explain):
    """Keeps what it would show the tracker: the key, the ids of the images and the picture."""

    def __init__(self, **options):
        super().__init__(**options)
        self.shown = []

    def show(self, trainer, module, key, batch):
        self.shown.append([key, list(batch["id"]), None])
        super().show(trainer, module, key, batch)

    def picture(self, module, batch):
        self.shown[-1][2] = super().picture(module, batch)
        return self.shown[-1][2]


def fit(*overrides, explain=None):
    """A short fit of the quickstart without a tracker."""
    experiment = load_recipe("quickstart", *SMALL, *overrides)
    trainer = experiment.trainer()
    if explain is not None:
        trainer.callbacks.insert(0, explain)  # before the average is taken out again
    trainer.fit(experiment.module, datamodule=experiment.datamodule)
    return trainer, experiment


def losses(module, data):
    """By id, the cross-entropy of each validation image."""
    batch = data.batch("val", range(len(data.dataset("val"))))
    with torch.no_grad():
        logits = module.eval()(batch["image"] / 255)
    each = F.cross_entropy(logits, batch["label"], reduction="none").tolist()
    return dict(zip(batch["id"], each, strict=True))


# The images that it is most wrong about ----------------------------------------------------------


@pytest.mark.parametrize("averaged", [(), ("callbacks.ema={decay: 0.5}",)])
def test_the_worst_validation_images_come_first(averaged):
    """The weights after the training are those of the last validation, so that losses can be."""
    explain = Remembered(most_wrong=5)
    _, experiment = fit(*averaged, explain=explain)
    assert [key for key, *_ in explain.shown] == [
        "explanations/grad_cam", "explanations/most_wrong"
    ] * 2  # fmt: skip
    wrong = losses(experiment.module, experiment.datamodule)
    worst = sorted(wrong, key=wrong.get, reverse=True)
    assert explain.shown[-1][1] == worst[:5]
    assert explain.shown[1][1] != worst[:5]  # after the epoch before
    assert explain.shown[0][1] == explain.shown[2][1]  # those that are followed
    assert len(explain.shown[0][1]) == 8


def test_what_is_no_validation_of_a_fit_is_not_looked_at():
    explain = Remembered(every_n_epochs=5)
    trainer, experiment = fit("trainer.num_sanity_val_steps=2", explain=explain)
    assert len(explain.shown) == 4  # the first epoch and the last
    trainer.validate(experiment.module, datamodule=experiment.datamodule, verbose=False)
    assert len(explain.shown) == 4
    assert explain._wrong == explain._ids == []


def test_none_is_looked_for_where_none_is_asked_for():
    explain = Remembered(most_wrong=0)
    fit("trainer.max_epochs=1", explain=explain)
    assert [key for key, *_ in explain.shown] == ["explanations/grad_cam"]


def test_only_the_first_of_several_sets_is_looked_at(monkeypatch):
    explain = Explain()
    monkeypatch.setattr(explain, "due", lambda trainer: True)
    for number in range(2):
        outputs, batch = {"wrong": torch.tensor([1.0])}, {"id": [f"of set {number}"]}
        explain.on_validation_batch_end(None, None, outputs, batch, 0, number)
    explain.on_validation_batch_end(None, None, None, batch, 1, 0)  # a module that does not say
    assert explain._ids == ["of set 0"]


@pytest.mark.parametrize("loss", [{"label_smoothing": 0.2}, {"class_weights": [1.0, 9.0, 3.0]}])
def test_how_wrong_a_classifier_is(loss):
    """The logarithm of the true class's probability, whatever the loss makes of it."""
    module = classifier(nn.Identity(), **loss)
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]])
    batch = {"image": probabilities.log(), "label": torch.tensor([1, 0])}
    wrong = module.validation_step(batch, 0)["wrong"]
    torch.testing.assert_close(wrong, -torch.tensor([0.2, 0.5]).log())
    many = classifier(nn.Identity(), multilabel=True, **loss)
    batch["label"] = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    batch["image"] = torch.logit(probabilities)
    wrong = many.validation_step(batch, 0)["wrong"]
    of_each = torch.tensor([[0.3, 0.2, 0.1], [0.5, 0.75, 0.75]])
    torch.testing.assert_close(wrong, -of_each.log().mean(1))


def classifier(network, **options):
    module = Classifier(
        network=network, num_classes=3, mean=[0.0], std=[1.0], optimizer=SGD(lr=0.1), **options
    )
    module.normalization = nn.Identity()
    return module


# When and how ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "validated_every", "drawn"),
    [(1, 1, [0, 1, 2, 3, 4, 5, 6, 7]), (3, 1, [0, 3, 6, 7]), (2, 2, [1, 3, 5, 7]),
     (1, 2, [1, 3, 5, 7]), (4, 2, [1, 5, 7]), (3, 2, [1, 3, 7]), (100, 3, [2])],
)  # fmt: skip
def test_pictures_are_drawn_where_not_each_epoch_is_validated(every, validated_every, drawn):
    explain = Explain(every_n_epochs=every)
    due = [
        epoch
        for epoch in range(validated_every - 1, 8, validated_every)
        if explain.due(
            SimpleNamespace(
                state=SimpleNamespace(fn="fit"), sanity_checking=False, current_epoch=epoch,
                max_epochs=8, check_val_every_n_epoch=validated_every,
            )
        )
    ]  # fmt: skip
    assert due == drawn


@pytest.mark.parametrize(
    "method", [None, "grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "score_cam"]
)
def test_the_key_says_the_method(method):
    explain = Remembered(method=method, images=3, most_wrong=0)
    fit("trainer.max_epochs=1", explain=explain)
    ((key, _, picture),) = explain.shown
    assert key == f"explanations/{method or 'grad_cam'}"
    assert picture.std() > 10


def test_a_module_that_cannot_be_explained_is_warned_of_once(caplog, monkeypatch):
    monkeypatch.setattr(Classifier, "attribution_targets", ImageModule.attribution_targets)
    with caplog.at_level(logging.WARNING, "lit_imgproc"):
        trainer, _ = fit(explain=Explain())
    said = [one.getMessage() for one in caplog.records if one.name.startswith("lit_imgproc")]
    assert len(said) == 1
    assert "callbacks.explain=null: Classifier does not say what could be explained" in said[0]
    assert trainer.current_epoch == 2


def test_a_file_that_is_gone_is_no_lack_of_explanations(monkeypatch):
    from lit_imgproc.data.base import DataError, ImageDataModule

    def gone(*_):
        raise DataError("a.png is gone")

    monkeypatch.setattr(ImageDataModule, "batch", gone)
    with pytest.raises(DataError, match="gone"):
        fit(explain=Explain())


# The training stays as it is ---------------------------------------------------------------------

WAYS = {
    "plain": (),
    "mixed": ("trainer.precision=bf16-mixed",),
    "half": ("trainer.precision=bf16-true",),
    "double": ("trainer.precision=64-true",),
    "compiled": ("model.compile=true",),
    "frozen and averaged": ("model.frozen=trunk", "callbacks.ema={decay: 0.5}"),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_have_the_same_bits(way, monkeypatch):
    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(whole, backend="eager"))
    explain = Remembered()
    _, plain = fit(*WAYS[way])
    _, seen = fit(*WAYS[way], explain=explain)
    for name, value in plain.module.state_dict().items():
        assert value.equal(seen.module.state_dict()[name]), name
    assert len(explain.shown) == 4
    for _, ids, picture in explain.shown:
        assert picture.std() > 10
        assert len(set(ids)) == len(ids)


def drawn():
    """What the generators that are everyone's would draw next."""
    numpys = np.random.get_state()[1].tolist()  # noqa: NPY002  (it is the one that is shared)
    return random.getstate(), numpys, torch.get_rng_state().tolist()


def test_nothing_of_the_module_or_of_chance_is_touched():
    experiment = load_recipe("quickstart", *SMALL)
    module, batch = experiment.module, experiment.datamodule.batch("val", range(4))
    batch = module.on_after_batch_transfer(batch, 0)
    layers = list(module.modules())
    for number, layer in enumerate(layers):
        layer.training = number % 2 == 0
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    chances = drawn()
    with torch.inference_mode():
        Explain().picture(module, batch)
    assert drawn() == chances
    assert all(value.equal(module.state_dict()[name]) for name, value in before.items())
    assert all((parameter.grad == 1).all() for parameter in module.parameters())
    assert [layer.training for layer in layers] == [n % 2 == 0 for n in range(len(layers))]
    assert not any(layer._forward_hooks for layer in layers)


def test_a_compiled_network_is_explained_as_if_it_were_not():
    plain, compiled = (load_recipe("quickstart", *SMALL) for _ in range(2))
    compiled.module.load_state_dict(plain.module.state_dict())
    compiled.module.network.compile(backend="eager")
    batch = plain.datamodule.batch("val", range(4))
    batch = plain.module.on_after_batch_transfer(batch, 0)
    pictures = [Explain().picture(one.module, batch) for one in (plain, compiled)]
    assert np.array_equal(*pictures)
