"""Explanation maps on two ranks, gloo processes on the CPU: both draw, one picture is left."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lit_imgproc import load_recipe
from lit_imgproc.callbacks.explain import Explain


@pytest.fixture
def options(store):
    return (
        "data.num_workers=0", "data.batch_size=32", "trainer.max_epochs=1",
        "trainer.limit_train_batches=6", "trainer.accelerator=cpu", "trainer.devices=2",
        "callbacks.predictions=null", f"tracking.uri={store.uri}",
        f"tracking.artifacts={store.artifacts}",
    )  # fmt: skip


def worst(run, count):
    """The validation images that one process finds the trained network most wrong about."""
    data, module = run.datamodule, run.module.eval()
    batch = data.batch("val", range(len(data.dataset("val"))))
    with torch.no_grad():
        wrong = F.cross_entropy(module(batch["image"] / 255), batch["label"], reduction="none")
    return data.batch("val", wrong.topk(count).indices.tolist())


@pytest.mark.parametrize(
    "strategy", ["ddp", pytest.param("model_parallel", marks=pytest.mark.slow)]
)
def test_both_ranks_draw_the_worst_of_all_images(options, strategy):
    options = (*options, f"trainer.strategy={strategy}")
    plain = load_recipe("quickstart", *options, "callbacks.explain=null").train()
    drawn = load_recipe("quickstart", *options, "callbacks.explain.most_wrong=4").train()
    told = {name: value for name, value in drawn.metrics.items() if name[:4] in ("val/", "test")}
    assert len(told) > 10
    assert told == {name: plain.metrics[name] for name in told}
    files = sorted(
        Path(drawn.record.info.artifact_uri.removeprefix("file://")).glob("images/*.png")
    )
    keys = [file.name.split("+")[0] for file in files]
    assert keys == ["explanations~grad_cam", "explanations~most_wrong"]
    module = drawn.module.eval()
    batch = module.on_after_batch_transfer(worst(drawn, 4), 0)
    alone = Explain().picture(module, batch)
    seen = cv2.cvtColor(cv2.imread(str(files[1])), cv2.COLOR_BGR2RGB)
    assert seen.shape == alone.shape
    assert np.abs(seen.astype(int) - alone).mean() < 1
