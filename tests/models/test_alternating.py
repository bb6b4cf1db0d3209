"""Networks that are trained in turn: whose turn it is, and that a step is a batch."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lit_imgproc import optim
from lit_imgproc.models.alternating import AlternatingModule
from lit_imgproc.models.base import Normalization


class Two(AlternatingModule):
    """A network that moves twice a batch, and a critic that moves once."""

    def __init__(self, schedule=None):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.critic = nn.Linear(2, 2), nn.Linear(2, 1)
        self.normalization = Normalization([0.5], [0.5])
        self.optimizer, self.schedule = optim.SGD(lr=0.1, momentum=0.0), schedule
        self.needed, self.steps = [], []

    def players(self):
        return {"network": self.network, "critic": self.critic}

    def optimizer_of(self, player):
        return self.optimizer if player == "network" else optim.Adam(lr=0.01)

    def play(self, batch):
        self.steps.append(self.trainer.global_step)
        with self.turn("critic"):
            self.needed.append([p.requires_grad for p in self.parameters()])
            critic = self.critic(self.network(batch["image"])).mean()
            self.descend("critic", critic)
        with self.turn("network"):
            for _ in range(2):
                loss = self.critic(self.network(batch["image"])).square().mean()
                self.descend("network", loss)
        return loss.detach() + critic.detach()


def fit(module, **options):
    images = [{"image": torch.rand(4, 2)} for _ in range(6)]
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(images, batch_size=None))
    return trainer


def test_a_step_is_a_batch_however_often_optimizers_move(tmp_path):
    module = Two()
    trainer = fit(module, max_epochs=2, default_root_dir=tmp_path)
    assert trainer.global_step == 12
    assert module.steps == list(range(12))
    assert trainer.checkpoint_callback.best_model_path.endswith("epoch=1-step=12.ckpt")


def test_max_steps_counts_batches():
    module = Two()
    assert fit(module, max_steps=5, enable_checkpointing=False).global_step == 5
    assert len(module.steps) == 5


def test_who_has_no_turn_needs_no_gradient_and_does_not_move():
    module = Two()
    module.play = lambda batch: _critics_turn(module, batch)
    before = module.network.weight.clone(), module.critic.weight.clone()
    fit(module, max_steps=1, enable_checkpointing=False)
    assert module.needed == [[False, False, True, True]]
    assert module.network.weight.equal(before[0])
    assert not module.critic.weight.equal(before[1])
    assert all(p.requires_grad for p in module.parameters())


def _critics_turn(module, batch):
    with module.turn("critic"):
        module.needed.append([p.requires_grad for p in module.parameters()])
        loss = module.critic(module.network(batch["image"])).mean()
        module.descend("critic", loss)
    return loss.detach()


def test_frozen_weights_stay_frozen_after_a_turn():
    module = Two()
    module.network.bias.requires_grad_(False)
    with module.turn("critic"):
        pass
    assert not module.network.bias.requires_grad


def test_every_player_has_its_own_optimizer_and_the_schedule():
    module = Two(optim.Linear(start=0.5))
    trainer = fit(module, max_epochs=1, enable_checkpointing=False)
    sgd, adam = trainer.optimizers
    assert isinstance(sgd, torch.optim.SGD)
    assert isinstance(adam, torch.optim.Adam)
    # Six batches: constant for three, then down a line to 0.
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.0, 0.0])
    assert [c.name for c in trainer.lr_scheduler_configs] == ["lr-network", "lr-critic"]
    assert [g["name"] for g in adam.param_groups] == [
        "critic/layer0/no_decay",
        "critic/layer0/decay",
    ]


def test_the_returned_loss_tells_of_any_player_that_diverged():
    module = Two()
    with torch.no_grad():
        module.critic.weight.fill_(float("nan"))
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(outputs["loss"])

    fit(module, max_steps=1, enable_checkpointing=False, callbacks=[Watch()])
    assert seen[0].isnan()


def test_linear_stays_then_falls():
    schedule = optim.Linear(start=0.5)
    assert [schedule.factor(s, 8, 2) for s in (0, 4, 6, 8, 9)] == [1, 1, 0.5, 0, 0]


class Penalized(AlternatingModule):
    """A generator and a critic whose loss has a gradient of a gradient in it."""

    def __init__(self, state):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.critic = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        self.normalization = Normalization([0.5], [0.5])
        self.optimizer, self.schedule, self.state = optim.SGD(lr=0.1, momentum=0.9), None, state

    def players(self):
        return {"network": self.network, "critic": self.critic}

    def play(self, batch):
        images = batch["image"].requires_grad_(True)
        with self.turn("critic"):
            scores = self.critic(images)
            (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
            critic = (scores - self.critic(self.network(images).detach())).mean()
            self.descend("critic", critic + slope.square().sum(1).mean())
        with self.turn("network"):
            self.descend("network", self.critic(self.network(images)).mean())
        return critic.detach()

    def on_train_end(self):
        torch.save(self.state_dict(), f"{self.state}-{self.global_rank}.pt")


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
def test_two_ranks_learn_what_one_does(tmp_path):
    """With half a batch each, whoever has no turn, and through the gradient of a gradient."""
    images = torch.randn(6, 8, 2, generator=torch.Generator().manual_seed(1))

    class Shares(pl.LightningDataModule):
        def train_dataloader(self):
            rank, ranks = self.trainer.global_rank, self.trainer.world_size
            return DataLoader([{"image": batch[rank::ranks]} for batch in images], batch_size=None)

    for ranks, strategy in ((1, "auto"), (2, "ddp_fork_find_unused_parameters_true")):
        trainer = pl.Trainer(
            accelerator="cpu", devices=ranks, strategy=strategy, max_epochs=2, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(Penalized(tmp_path / str(ranks)), datamodule=Shares())
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    start = Penalized(None).state_dict()
    assert not one["network.0.weight"].allclose(start["network.0.weight"], atol=1e-2)
    for name, value in one.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)
        assert first[name].equal(second[name])
