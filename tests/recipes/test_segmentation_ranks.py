"""Segmentation on two ranks, as gloo processes on the CPU, learns and measures what one does."""

import pytest
import torch

from lit_imgproc import checkpoints, load_recipe

SMALL = (
    # Instance norms, and patches without padding: nothing depends on the dealing. None is empty, in
    # which such a norm would see the noise of rounding. A region loss is of the batch of a rank,
    # and Adam makes much of gradients that are all but 0.
    "model.loss={cross_entropy: 1}", "model.optimizer={name: sgd, lr: 0.02}",
    "trainer.limit_train_batches=2", "trainer.max_epochs=2",
    "data.patch_size=[8, 8, 8]", "data.foreground=1.0", "trainer.check_val_every_n_epoch=1",
    "trainer.limit_test_batches=1.0", "trainer.limit_val_batches=1.0",
)  # fmt: skip


@pytest.fixture
def options(store):
    return (*SMALL, f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}")


def test_two_ranks_learn_and_measure_what_one_does(options):
    recipe = "segmentation/unet_3d_hippocampus"
    one = load_recipe(recipe, *options, "data.batch_size=4", toy=True).train()
    two = load_recipe(recipe, *options, "data.batch_size=2", "trainer.devices=2", toy=True).train()
    state, other = (checkpoints.read(run.last_checkpoint())["state_dict"] for run in (one, two))
    started = load_recipe(recipe, *options, toy=True).module.state_dict()
    moved = [name for name, value in state.items() if not value.equal(started[name])]
    assert len(moved) > 5
    # As a whole: biases before a norm are moved by the noise of rounding alone.
    apart = torch.cat([(other[name] - state[name]).flatten() for name in moved])
    way = torch.cat([(state[name] - started[name]).flatten() for name in moved])
    assert apart.norm() < 0.01 * way.norm()
    tested = {name for name in one.metrics if name.startswith(("test/", "val/"))}
    assert {"test/iou", "test/case_dice", "test/surface_dice", "val/loss"} <= tested
    for name in tested:
        # A distance in millimetres jumps with a single voxel of two hundred.
        room = {"rel": 0.005} if "hd95" in name else {"abs": 1e-3}
        assert two.metrics[name] == pytest.approx(one.metrics[name], **room), name
