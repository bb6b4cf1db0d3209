"""Recipes whose networks take turns: steps, resume, ranks, divergence, through the toys."""

import re
from pathlib import Path

import pytest
import torch
from resuming import CutOff, bomb, differences, points, state

from lit_imgproc import checkpoints, load_recipe
from lit_imgproc.callbacks.nonfinite import NonFiniteLoss
from lit_imgproc.errors import UserError
from lit_imgproc.models.alternating import AlternatingModule

RECIPES = {
    "gan/dcgan_conditional_fashion_mnist": set(),
    "gan/wgan_gp_fashion_mnist": {"gradient_penalty"},
    "gan/stylegan2_fruits": {"r1", "path_length", "augment_probability"},
    "translation/pix2pix_dubai": {"l1"},
    "translation/cyclegan_apples": {"cycle_loss", "identity_loss"},
}
"""With what each logs of a step beside the losses of both players."""
SMALL = (
    "trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1", "callbacks.predictions=null", "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_steps=1", "data.batch_size=4",
)  # fmt: skip
LOSSES = {"generator_loss", "discriminator_loss"}


@pytest.fixture
def options(store):
    return (*SMALL, f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}")


def train(recipe, *options, moment=0, **how):
    experiment = load_recipe(recipe, *options, toy=True)
    with bomb(moment):
        try:
            experiment.train(**how)
        except CutOff:
            assert moment
    return experiment.result()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_is_a_batch_and_a_training_that_was_cut_off_goes_on_exactly(store, options, recipe):
    alone = train(recipe, *options)
    logged = points(store, alone.id)
    assert checkpoints.read(alone.last_checkpoint())["global_step"] == 6
    for name in LOSSES | RECIPES[recipe]:
        steps = [point[0] for point in logged[f"train/{name}"]]
        assert set(steps) <= set(range(6)), name
    assert len(logged["train/discriminator_loss"]) == 6
    cut = train(recipe, *options, moment=30)
    assert 0 < checkpoints.read(cut.last_checkpoint())["global_step"] < 6
    found = train(recipe, *options, resume=cut.id)
    assert differences(state(alone), state(found)) == []
    assert points(store, found.id) == logged


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_diverges_stops_and_is_told_where(options, recipe, monkeypatch):
    step = AlternatingModule.training_step

    def broken(self, batch, batch_idx):
        if self.trainer.global_step == 2:
            batch = {**batch, "image": batch["image"] * float("nan")}
        return step(self, batch, batch_idx)

    monkeypatch.setattr(AlternatingModule, "training_step", broken)
    with pytest.raises(NonFiniteLoss, match="the loss is not finite at step 2") as caught:
        train(recipe, *options)
    assert caught.value.place.ids
    assert "clip" not in str(caught.value)
    last = re.search(r"the last good state is (.*last\.ckpt)", str(caught.value))[1]
    saved = checkpoints.read(Path(last))
    assert saved["global_step"] == 2
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.slow  # a minute: four processes that import everything
@pytest.mark.parametrize(
    ("recipe", "steps"), [("gan/stylegan2_fruits", 6), ("translation/cyclegan_apples", 4)]
)
def test_two_ranks_share_the_batches_of_an_epoch(options, recipe, steps):
    run = train(recipe, *options, "trainer.devices=2")
    assert run.status == "FINISHED"
    # Of CycleGAN's toy there are two batches for each of them.
    assert checkpoints.read(run.last_checkpoint())["global_step"] == steps
    assert all(torch.isfinite(torch.tensor(v)) for v in run.metrics.values())


def test_options_for_a_single_optimizer_are_refused(options):
    for option in ("trainer.gradient_clip_val=1", "trainer.accumulate_grad_batches=2"):
        with pytest.raises(UserError, match="trained in turn"):
            train("gan/dcgan_conditional_fashion_mnist", *options, option)
