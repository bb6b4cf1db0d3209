"""Detection on two ranks, as gloo processes on the CPU, learns and measures what one does."""

import pytest
import torch

from lit_imgproc import checkpoints, load_recipe

SMALL = (
    # One stage without samples drawn at random, and frozen norms: nothing depends on the dealing.
    "model.network={name: retinanet, trunk: test_efficientnet, fpn_channels: 32,"
    " frozen_norms: true, score_thresh: 0.0}",
    "data.aspect_grouping=false", "data.resize=squash", "trainer.limit_train_batches=2",
    "trainer.max_epochs=2", "trainer.limit_test_batches=1.0", "trainer.limit_val_batches=1.0",
)  # fmt: skip


@pytest.fixture
def options(store):
    return (*SMALL, f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}")


def test_two_ranks_learn_and_measure_what_one_does(options):
    recipe = "detection/retinanet_resnet50_coco"
    one = load_recipe(recipe, *options, "data.batch_size=4", toy=True).train()
    two = load_recipe(recipe, *options, "data.batch_size=2", "trainer.devices=2", toy=True).train()
    state, other = (checkpoints.read(run.last_checkpoint())["state_dict"] for run in (one, two))
    started = load_recipe(recipe, *options, toy=True).module.state_dict()
    moved = [name for name, value in state.items() if not value.equal(started[name])]
    assert len(moved) > 50
    for name in moved:
        torch.testing.assert_close(other[name], state[name], rtol=1e-3, atol=1e-5, msg=name)
    tested = {name for name in one.metrics if name.startswith("test/")}
    assert len(tested) > 8
    assert max(one.metrics[name] for name in tested) > 0
    for name in tested:
        assert two.metrics[name] == pytest.approx(one.metrics[name], abs=1e-3), name
