"""What every module inherits: eight-bit batches, the steps of a schedule, sentences."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.base import ImageModule, Normalization


class Bare(ImageModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Conv2d(1, 1, 1)
        self.normalization = Normalization([0.25], [0.5])


class Data(pl.LightningDataModule):
    def steps_per_epoch(self, world_size=1):
        return 100 // world_size


def test_normalization_has_its_closed_form():
    layer = Normalization([0.5, 0.25], [0.25, 0.5])
    image = torch.tensor([1.0, 0.25]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    expected = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    torch.testing.assert_close(layer(image), expected)


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.0]), ([0.5, 0.5], [1.0]), ([], [])])
def test_normalization_refuses_what_it_cannot_divide_by(mean, std):
    with pytest.raises(UserError, match="one value a channel"):
        Normalization(mean, std)


def test_eight_bit_images_become_floats_in_unit_range():
    batch = {"image": torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), "id": ["a"]}
    image = Bare().on_after_batch_transfer(batch, 0)["image"]
    torch.testing.assert_close(image, torch.tensor([[[[0.0, 0.2, 1.0]]]]))
    assert Bare().double().on_after_batch_transfer(batch, 0)["image"].dtype == torch.float64


def test_other_samples_keep_their_values():
    batch = {"image": torch.tensor([[[[-1000.0, 400.0]]]])}
    assert Bare().on_after_batch_transfer(batch, 0)["image"] is batch["image"]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3}, (300, 100)),
        ({"max_epochs": 3, "accumulate_grad_batches": 8}, (39, 13)),
        ({"max_epochs": 3, "limit_train_batches": 7}, (21, 7)),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, (150, 50)),
        ({"max_epochs": 3, "max_steps": 70}, (70, 100)),
        ({"max_steps": 70}, (70, 100)),
    ],
)
def test_planned_steps(options, steps):
    module, data = Bare(), Data()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
    trainer.datamodule = data
    module.trainer = trainer
    if "max_epochs" not in options:
        trainer.fit_loop.max_epochs = -1
    assert module.planned_steps() == steps


def test_a_schedule_without_an_end_is_refused():
    module = Bare()
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, max_epochs=-1)
    module.trainer.datamodule = Data()
    with pytest.raises(UserError, match=r"set trainer\.max_epochs"):
        module.planned_steps()


@pytest.mark.parametrize(
    "ask", [lambda m: m.attribution_fn(), lambda m: m.draw({}, None), lambda m: m.export_network()]
)
def test_what_a_family_does_not_offer_is_a_sentence(ask):
    with pytest.raises(UserError, match="Bare"):
        ask(Bare())
