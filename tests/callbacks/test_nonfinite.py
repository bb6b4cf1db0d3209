"""Losses that are NaN at a known batch: what is said, what is saved, what stays as it was."""

import json
import math
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lit_imgproc.callbacks.ema import EMA
from lit_imgproc.callbacks.nonfinite import NonFinite, NonFiniteLoss
from lit_imgproc.worker import leave

# What the trainings below are compared with leaves a batch out by returning nothing.
pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`")

BATCHES = 8


class Numbers(Dataset):
    """Two samples a batch; the values of the bad batches are NaN or infinite."""

    def __init__(self, bad=(), value=math.nan):
        self.values = torch.linspace(-1, 1, 2 * BATCHES * 4).reshape(-1, 4)
        for batch in bad:
            self.values[2 * batch] = value

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return {"x": self.values[index], "id": f"n{index}"}


class Net(pl.LightningModule):
    """Batch norm and a layer; it does not learn from the batches ``without``."""

    def __init__(self, without=()):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.without = without

    def training_step(self, batch, batch_idx):
        if batch_idx in self.without:
            return None
        return (self.network(batch["x"]) - 1).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.network(batch["x"]).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=0.1)


def fit(module, data, *callbacks, logger=False, **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=logger,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **({"max_epochs": 1, "log_every_n_steps": 1} | options),
    )
    trainer.fit(module, DataLoader(data, batch_size=2))
    return trainer


def state(trainer):
    """Weights, buffers and momentum."""
    momentum = trainer.optimizers[0].state_dict()["state"]
    return {
        **trainer.lightning_module.state_dict(),
        **{f"momentum {key}": value["momentum_buffer"] for key, value in momentum.items()},
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.equal(other[name]), name


# stop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stop_names_the_batch_and_what_to_try(tmp_path, value):
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=2)
    with pytest.raises(NonFiniteLoss) as error:
        fit(Net(), Numbers([5], value), NonFinite(), keep)
    (sentence,) = str(error.value).splitlines()
    assert sentence == (
        "the loss is not finite at step 5, train batch 5 of epoch 0, rank 0: n10, n11; lower "
        "model.optimizer.lr, clip gradients with trainer.gradient_clip_val, or set "
        "trainer.precision to bf16-mixed or 32-true where it is narrower (the last good state is "
        f"{tmp_path}/last.ckpt)"
    )
    place = error.value.place
    assert (place.stage, place.epoch, place.batch, place.step) == ("train", 0, 5, 5)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4


def test_without_a_checkpoint_the_sentence_says_so():
    with pytest.raises(NonFiniteLoss, match="no state had been saved yet"):
        fit(Net(), Numbers([0]), NonFinite())


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(
    ("bad", "every", "seen"), [(0, 5, 4), (1, 3, 2), (4, 3, 5), (6, 3, 7), (7, 50, 7)]
)
def test_on_a_gpu_it_looks_now_and_then_and_names_the_first(
    monkeypatch, accumulate, bad, every, seen
):
    """The last batch of an epoch of eight is looked at, too."""

    class Last(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.batch = batch_idx

    monkeypatch.setattr("lit_imgproc.callbacks.nonfinite._is_on_cpu", lambda _: False)
    last = Last()
    with pytest.raises(NonFiniteLoss) as error:
        fit(
            Net(), Numbers([bad, 7]), NonFinite(), last,
            log_every_n_steps=every, accumulate_grad_batches=accumulate,
        )  # fmt: skip
    assert (error.value.place.batch, last.batch) == (bad, seen)
    assert error.value.place.ids == [f"n{2 * bad}", f"n{2 * bad + 1}"]


@pytest.mark.parametrize("ema", [False, True])
def test_no_bad_state_is_ever_saved(tmp_path, monkeypatch, ema):
    monkeypatch.setattr("lit_imgproc.callbacks.nonfinite._is_on_cpu", lambda _: False)
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    average = [EMA(decay=0.5)] if ema else []
    with pytest.raises(NonFiniteLoss):
        fit(Net(), Numbers([4]), NonFinite(), keep, *average, log_every_n_steps=50)
    saved = sorted(tmp_path.iterdir())
    assert [path.name for path in saved] == [f"step={step}.ckpt" for step in (1, 2, 3, 4)]
    for path in saved:
        checkpoint = torch.load(path, weights_only=True)
        states = [checkpoint["state_dict"], checkpoint.get("current_model_state", {})]
        assert all(value.isfinite().all() for one in states for value in one.values())


def test_validation_does_not_begin_after_a_bad_batch(monkeypatch):
    class Validates(Net):
        validated = False

        def validation_step(self, batch, batch_idx):
            self.validated = True

        def val_dataloader(self):
            return DataLoader(Numbers(), batch_size=2)

    monkeypatch.setattr("lit_imgproc.callbacks.nonfinite._is_on_cpu", lambda _: False)
    module = Validates()
    with pytest.raises(NonFiniteLoss):
        fit(module, Numbers([1]), NonFinite(), log_every_n_steps=50, val_check_interval=2)
    assert not module.validated


def test_weights_that_a_finite_loss_has_broken_are_not_saved(tmp_path):
    class Root(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            # The root of zero is finite, its slope is not.
            return (
                loss + (0 * self.network[1].weight).abs().sum().sqrt() if batch_idx == 3 else loss
            )

    keep = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    with pytest.raises(NonFiniteLoss, match="the weights are not finite at step 3,"):
        fit(Root(), Numbers(), NonFinite(), keep)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("returns", ["dict", "tensor", "nothing"])
def test_manual_optimization(returns):
    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return {"dict": {"loss": loss}, "tensor": loss, "nothing": None}[returns]

    if returns == "nothing":
        fit(Manual(), Numbers([3]), NonFinite())  # there is no loss to look at
    else:
        with pytest.raises(NonFiniteLoss) as error:
            fit(Manual(), Numbers([3]), NonFinite())
        assert error.value.place.batch == 3
    skip = NonFinite(policy="skip")
    trainer = fit(Manual(), Numbers([3]), skip)
    assert skip.skipped == 1
    assert all(value.isfinite().all() for value in state(trainer).values())


def test_finite_losses_change_nothing():
    plain = fit(Net(), Numbers())
    for policy in ("stop", "skip"):
        watch = NonFinite(policy=policy)
        assert_same(state(fit(Net(), Numbers(), watch)), state(plain))
        assert watch.skipped == 0


# skip --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_skip_is_as_if_the_batch_had_not_been(tmp_path, caplog, value):
    logger = CSVLogger(tmp_path, name="", version="")
    skip = NonFinite(policy="skip")
    trainer = fit(Net(), Numbers([2, 5], value), skip, logger=logger)
    assert_same(state(trainer), state(fit(Net(without=(2, 5)), Numbers())))
    assert trainer.global_step == BATCHES  # schedules and steps go on
    warned = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(warned) == 2
    assert warned[0].endswith(
        "its loss is not finite: step 2, train batch 2 of epoch 0, rank 0: n4, n5"
    )
    header, *rows = (line.split(",") for line in (tmp_path / "metrics.csv").read_text().split())
    points = [(row[header.index("step")], row[header.index("train/skipped")]) for row in rows]
    assert points == [("3", "1"), ("6", "2")]


def test_skip_leaves_the_batches_since_the_last_step_out():
    skip = NonFinite(policy="skip")
    trainer = fit(Net(), Numbers([2]), skip, accumulate_grad_batches=2)
    assert skip.skipped == 1
    without = fit(Net(without=(2, 3)), Numbers(), accumulate_grad_batches=2)
    assert_same(state(trainer), state(without))


def test_skip_leaves_the_average_finite():
    def average(trainer):
        (ema,) = (c for c in trainer.callbacks if isinstance(c, EMA))
        return ema._average_model.state_dict()

    trainer = fit(Net(), Numbers([4]), NonFinite(policy="skip"), EMA(decay=0.5))
    assert all(value.isfinite().all() for value in average(trainer).values())
    assert_same(average(trainer), average(fit(Net(without=(4,)), Numbers(), EMA(decay=0.5))))


def test_skip_clips_the_other_steps_as_ever():
    options = {"gradient_clip_val": 0.1}
    trainer = fit(Net(), Numbers([2]), NonFinite(policy="skip"), **options)
    assert_same(state(trainer), state(fit(Net(without=(2,)), Numbers(), **options)))


def test_with_a_gradient_scaler_only_bad_losses_are_counted():
    class Overflows(Net):
        """Its gradient is too large for the scaler at batch 1, its loss is NaN at batch 4."""

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            weight = self.network[1].weight
            return loss + 1e35 * (weight - weight.detach()).sum() if batch_idx == 1 else loss

    def half():
        # Lightning would take bfloat16 on a CPU if it were asked for by name.
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**12))

    skip = NonFinite(policy="skip")
    trainer = fit(Overflows(), Numbers([4]), skip, plugins=half())
    assert skip.skipped == 1
    assert all(value.isfinite().all() for value in state(trainer).values())
    assert trainer.lightning_module.network[0].num_batches_tracked == BATCHES - 2
    with pytest.raises(NonFiniteLoss) as error:
        fit(Overflows(), Numbers([4]), NonFinite(), plugins=half())
    assert error.value.place.batch == 4


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_the_count_survives_a_resume(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="kept")
    fit(Net(), Numbers([2]), NonFinite(policy="skip"), keep)
    again = NonFinite(policy="skip")
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[again], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, max_epochs=2,
    )  # fmt: skip
    trainer.fit(Net(), DataLoader(Numbers([2]), batch_size=2), ckpt_path=tmp_path / "kept.ckpt")
    assert again.skipped == 2


# Two ranks ---------------------------------------------------------------------------------------


def test_two_ranks_agree_though_one_alone_sees_it(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, __file__, str(tmp_path)], check=True, timeout=600)
    for accumulate in (1, 2):
        stopped, skipped = (
            [
                json.loads((tmp_path / f"{policy}{accumulate}{rank}.json").read_text())
                for rank in (0, 1)
            ]
            for policy in ("stop", "skip")
        )
        assert [rank["place"] for rank in stopped] == [[2, 1, ["n9", "n11"]]] * 2
        assert [rank["skipped"] for rank in skipped] == [1, 1]
        assert skipped[0]["weights"] == skipped[1]["weights"]
        assert all(math.isfinite(value) for value in skipped[0]["weights"])


class Shared(Net):
    """Two ranks take turns with the samples; one of rank 1 is NaN."""

    def train_dataloader(self):
        data = Numbers()
        data.values[9] = math.nan
        mine = torch.utils.data.Subset(data, range(self.global_rank, len(data), 2))
        return DataLoader(mine, batch_size=2)


def fit_as_a_rank(folder, policy, accumulate):
    """Train, and leave in a file what this rank has come to."""
    module, watch, place = Shared(), NonFinite(policy=policy), None
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", callbacks=[watch], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=1, log_every_n_steps=1, use_distributed_sampler=False,
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    try:
        trainer.fit(module)
    except NonFiniteLoss as error:
        place = [error.place.batch, error.place.rank, error.place.ids]
    weights = torch.cat([p.detach().flatten() for p in module.network.parameters()]).tolist()
    said = {"place": place, "skipped": watch.skipped, "weights": weights}
    path = Path(folder, f"{policy}{accumulate}{trainer.global_rank}.json")
    path.write_text(json.dumps(said))


if __name__ == "__main__":
    for policy in ("skip", "stop"):
        for accumulate in (1, 2):
            fit_as_a_rank(sys.argv[1], policy, accumulate)
    leave(0)
