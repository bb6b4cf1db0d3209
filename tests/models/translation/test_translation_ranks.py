"""pix2pix on two ranks, as gloo processes on the CPU, learns and measures what one process does."""

import pytest
import torch

from lit_imgproc import checkpoints, load_recipe

SMALL = (
    # Nothing depends on how images are dealt: no dropout, and norms of each image alone. Adam makes
    # much of gradients that are all but 0.
    "model.network.dropout=0", "model.network.norm=instance", "model.discriminator.norm=instance",
    "model.discriminator.width=4", "model.optimizer={name: sgd, lr: 0.02}",
    "trainer.limit_train_batches=3", "trainer.limit_val_batches=1.0",
    "trainer.limit_test_batches=1.0", "callbacks.predictions=null",
)  # fmt: skip


@pytest.mark.slow
def test_two_ranks_learn_and_measure_what_one_does(store):
    recipe = "translation/pix2pix_facades"
    options = (*SMALL, "trainer.precision=32-true")
    options = (*options, f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}")
    one = load_recipe(recipe, *options, "data.batch_size=4", toy=True).train()
    two = load_recipe(recipe, *options, "data.batch_size=2", "trainer.devices=2", toy=True).train()
    state, other = (checkpoints.read(run.last_checkpoint())["state_dict"] for run in (one, two))
    started = load_recipe(recipe, *options, toy=True).module.state_dict()
    for player in ("network.", "discriminator."):
        names = [name for name in state if name.startswith(player)]
        # As a whole: biases before a norm are moved by the noise of rounding alone.
        apart = torch.cat([(other[name] - state[name]).flatten() for name in names])
        way = torch.cat([(state[name] - started[name]).flatten() for name in names])
        assert way.norm() > 0
        assert apart.norm() < 0.01 * way.norm(), player
    tested = {name for name in one.metrics if name.startswith(("test/", "val/"))}
    assert {"test/l1", "test/psnr", "test/ssim", "val/fid_pixels"} <= tested
    for name in tested:
        assert two.metrics[name] == pytest.approx(one.metrics[name], rel=1e-3, abs=1e-4), name
