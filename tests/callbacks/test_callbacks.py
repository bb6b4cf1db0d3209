"""What happens beside training, each against what it must not change and must leave."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lit_imgproc import load_recipe
from lit_imgproc.callbacks.ema import EMA
from lit_imgproc.callbacks.samples import fixed_samples
from lit_imgproc.callbacks.seeding import StepSeed
from lit_imgproc.callbacks.throughput import Throughput
from lit_imgproc.callbacks.unfreeze import GradualUnfreeze
from lit_imgproc.errors import UserError

SMALL = (
    "data.num_workers=0",
    "data.batch_size=32",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=2",
    "trainer.accelerator=cpu",
    "trainer.num_sanity_val_steps=0",
)


def fit(*overrides, extra=(), without=("checkpoint", "lr_monitor", "predictions", "explain")):
    """A short fit of the quickstart without a tracker, with further callbacks."""
    drop = [f"callbacks.{name}=null" for name in without]
    experiment = load_recipe("quickstart", *SMALL, *drop, *overrides)
    trainer = experiment.trainer()
    trainer.callbacks.extend(extra)
    trainer.fit(experiment.module, datamodule=experiment.datamodule)
    return trainer, experiment


# EMA ---------------------------------------------------------------------------------------------


def test_ema_has_its_closed_form():
    """Three updates of a weight that is 1, from an average of 0, leave 1 - 0.9^3 = 0.271."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA(decay=0.9)
    trainer = pl.Trainer(accelerator="cpu", logger=False)
    module.device = torch.device("cpu")
    ema.setup(trainer, module, "fit")
    ema._average_model.update_parameters(module)  # the first one copies
    nn.init.ones_(module.weight)
    for _ in range(3):
        ema._average_model.update_parameters(module)
    assert float(ema._average_model.module.weight.detach()) == pytest.approx(0.271)


def test_ema_that_warms_up_has_its_closed_form():
    """It keeps (1 + n) / (10 + n) after n steps: from 0 with a weight of 1, after steps 1 and 2."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA(decay=0.2, warmup=True)
    module.device = torch.device("cpu")
    ema.setup(pl.Trainer(accelerator="cpu", logger=False), module, "fit")
    for step, weight in enumerate((0.0, 1.0, 1.0, 1.0)):
        nn.init.constant_(module.weight, weight)
        assert ema.should_update(step_idx=step)
        ema._average_model.update_parameters(module)
    left = (2 / 11) * 0.2 * 0.2  # 3 / 12 and 4 / 13 are above the decay
    assert float(ema._average_model.module.weight.detach()) == pytest.approx(1 - left)


def test_ema_is_what_is_validated_and_kept():
    class Weights(pl.Callback):
        def on_validation_epoch_end(self, trainer, module):
            self.validated = {k: v.clone() for k, v in module.network.state_dict().items()}

        def on_train_epoch_end(self, trainer, module):
            self.raw = {k: v.clone() for k, v in module.network.state_dict().items()}

    weights = Weights()
    experiment = load_recipe(
        "quickstart", *SMALL, "trainer.max_epochs=1", "callbacks.ema={decay: 0.5}",
        *[f"callbacks.{name}=null" for name in ("checkpoint", "lr_monitor", "predictions")],
        "callbacks.explain=null",
    )  # fmt: skip
    trainer = experiment.trainer()
    trainer.callbacks.insert(0, weights)
    trainer.fit(experiment.module, datamodule=experiment.datamodule)
    final = experiment.module.network.state_dict()
    floats = [name for name, value in final.items() if value.is_floating_point()]
    assert any(not final[name].equal(weights.raw[name]) for name in floats)
    for name in floats:
        torch.testing.assert_close(final[name], weights.validated[name])


def test_ema_is_what_is_tested(tmp_path):
    """The state of the best checkpoint, which is what a run gives back."""

    path = tmp_path / "best.ckpt"

    class Tested(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(path)

        def on_test_epoch_start(self, trainer, module):
            self.state = {k: v.clone() for k, v in module.network.state_dict().items()}

    tested = Tested()
    trainer, experiment = fit(
        "trainer.max_epochs=1", "callbacks.ema={decay: 0.5}", "trainer.limit_test_batches=1",
        extra=[tested],
    )  # fmt: skip
    saved = torch.load(path, weights_only=True)
    trainer.test(experiment.module, datamodule=experiment.datamodule, ckpt_path=path,
                 weights_only=True, verbose=False)  # fmt: skip
    average = {k[8:]: v for k, v in saved["state_dict"].items() if k.startswith("network.")}
    raw = saved["current_model_state"]
    assert any(not value.equal(raw[f"network.{name}"]) for name, value in average.items())
    for name, value in average.items():
        assert tested.state[name].equal(value), name


# Seeding -----------------------------------------------------------------------------------------


def test_a_step_draws_the_same_whatever_happened_between_the_steps():
    class Draws(pl.Callback):
        def __init__(self, noise):
            self.noise, self.drawn = noise, []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.drawn.append(float(torch.rand(())))

        def on_train_batch_end(self, *args):
            if self.noise:
                torch.rand(17)

    quiet, noisy = Draws(False), Draws(True)
    fit("trainer.max_epochs=2", extra=[quiet])
    fit("trainer.max_epochs=2", extra=[noisy])
    assert quiet.drawn == noisy.drawn
    assert len(set(quiet.drawn)) == len(quiet.drawn) == 12


def test_seeds_differ_between_ranks_and_experiments():
    class Place:
        current_epoch, global_rank = 0, 0

    def draw(seed, rank):
        place = Place()
        place.global_rank = rank
        StepSeed(seed).on_train_batch_start(place, pl.LightningModule(), None, 0)
        return float(torch.rand(()))

    assert len({draw(0, 0), draw(0, 1), draw(1, 0)}) == 3


# Unfreezing --------------------------------------------------------------------------------------


def test_layers_are_freed_from_the_head_on():
    class Free(pl.Callback):
        def __init__(self):
            self.free = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 0:
                named = module.network.named_parameters()
                self.free.append({name for name, p in named if p.requires_grad})

    free = Free()
    fit("trainer.max_epochs=3", extra=[GradualUnfreeze(epochs_per_group=1), free])
    first, second, third = free.free
    assert 0 < len(first) < len(second) < len(third)
    assert first < second < third
    assert {name.split(".")[0] for name in first} == {"linear"}


def test_unfreezing_tells_ddp_what_it_needs():
    trainer = pl.Trainer(accelerator="cpu", strategy="ddp", logger=False)
    with pytest.raises(UserError, match="ddp_find_unused_parameters_true"):
        GradualUnfreeze().on_fit_start(trainer, None)


# Throughput, samples, pictures -------------------------------------------------------------------


def test_throughput_counts_the_images():
    trainer, _ = fit("trainer.max_epochs=1", "trainer.log_every_n_steps=3")
    (speed,) = [c for c in trainer.callbacks if isinstance(c, Throughput)]
    assert speed.latest["speed/images_per_second"] > 0
    assert 0 <= speed.latest["speed/data_wait"] <= 1


def test_samples_are_taken_from_the_classes_in_turn():
    data = load_recipe("quickstart", *SMALL).datamodule
    batch = fixed_samples(data, 23)
    counts = torch.bincount(batch["label"], minlength=10)
    assert sorted(counts.tolist()) == [2] * 7 + [3] * 3
    again = fixed_samples(data, 23)
    assert batch["id"] == again["id"]
    assert batch["image"].equal(again["image"])


def test_drawing_does_not_change_the_training():
    """The weights after two epochs are the same bits with pictures as without."""
    from lit_imgproc.callbacks.explain import Explain
    from lit_imgproc.callbacks.predictions import Predictions

    _, plain = fit("trainer.max_epochs=2")
    _, drawn = fit("trainer.max_epochs=2", extra=[Predictions(), Explain()])
    for name, value in plain.module.state_dict().items():
        assert value.equal(drawn.module.state_dict()[name]), name
