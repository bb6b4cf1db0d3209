"""The loaders of a datamodule under Lightning: order, resuming, ranks."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_imgproc.data.base import available_cpus
from lit_imgproc.data.imagenet.datamodule import MNIST


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("mnist")
    MNIST.write_toy(root)
    return root


def make(root, workers=0, batch_size=32):
    return MNIST(
        root=str(root), batch_size=batch_size, num_workers=workers, augment={"train": "crop_flip"}
    )


class Watcher(pl.LightningModule):
    """Writes down what each training batch holds and what evaluation sees."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(28 * 28, 10)
        self.seen = []
        self.evaluated = []

    def training_step(self, batch, _):
        digest = int(batch["image"].long().sum())
        self.seen.append((self.current_epoch, batch["id"], digest))
        return torch.nn.functional.cross_entropy(
            self.layer(batch["image"].flatten(1) / 255), batch["label"]
        )

    def validation_step(self, batch, _):
        self.evaluated += batch["id"]

    test_step = validation_step

    def predict_step(self, batch, _):
        return batch["id"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def trainer(**arguments):
    defaults = {"max_epochs": 3, "callbacks": [], "num_sanity_val_steps": 0}
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(arguments.get("callbacks")),
        use_distributed_sampler=False,
        **(defaults | arguments),
    )


# The trainer that resumes does not write checkpoints itself.
resumes = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


@resumes
@pytest.mark.parametrize(("workers", "val_check_interval"), [(0, 1.0), (0, 2), (1, 2)])
def test_training_resumes_from_any_step(root, tmp_path, workers, val_check_interval):
    keep_all = ModelCheckpoint(
        dirpath=tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}"
    )
    whole = Watcher()
    trainer(callbacks=[keep_all], val_check_interval=val_check_interval).fit(
        whole, make(root, workers)
    )
    steps = make(root).steps_per_epoch()
    assert len(whole.seen) == 3 * steps
    assert len({tuple(ids) for _, ids, _ in whole.seen}) == 3 * steps
    for step in range(1, 3 * steps):
        resumed = Watcher()
        trainer(val_check_interval=val_check_interval).fit(
            resumed, make(root), ckpt_path=tmp_path / f"step={step}.ckpt"
        )
        assert resumed.seen == whole.seen[step:], step


@resumes
def test_training_resumes_from_a_checkpoint_of_validation(root, tmp_path):
    keep_all = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{step}")
    whole = Watcher()
    trainer(callbacks=[keep_all], val_check_interval=3).fit(whole, make(root))
    checkpoints = sorted(tmp_path.iterdir())
    assert len(checkpoints) > 3
    for path in checkpoints:
        resumed = Watcher()
        trainer(val_check_interval=3).fit(resumed, make(root), ckpt_path=path)
        assert resumed.seen == whole.seen[int(path.stem.removeprefix("step=")) :], path.stem


def test_a_shortened_epoch_is_followed_by_a_fresh_one(root):
    module = Watcher()
    trainer(limit_train_batches=2).fit(module, make(root, workers=1))
    order = make(root).train_dataloader()
    for epoch in range(3):
        order.batch_sampler.set_epoch(epoch)
        expected = [batch["id"] for batch in itertools.islice(order, 2)]
        assert [ids for number, ids, _ in module.seen if number == epoch] == expected


def test_overfitting_sees_the_same_images_in_every_epoch(root):
    module = Watcher()
    trainer(overfit_batches=1, max_epochs=2).fit(module, make(root))
    (_, ids, digest), (_, again, digest_again) = module.seen
    assert (ids, digest) == (again, digest_again)


def test_prediction_goes_through_the_test_images_in_order(root):
    data = make(root)
    batches = trainer().predict(Watcher(), data)
    assert list(itertools.chain(*batches)) == data.dataset("test").names


@pytest.mark.parametrize("batch_size", [7, 49])
def test_two_ranks_share_the_images(root, tmp_path, batch_size):
    # In a process of its own: forking one in which PyTorch has trained before can hang.
    arguments = [str(root), str(tmp_path), str(batch_size)]
    subprocess.run([sys.executable, __file__, *arguments], check=True, timeout=300)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    evaluated = [name for seen, _ in ranks for name in seen]
    assert sorted(evaluated) == sorted(make(root).dataset("val").names)
    alone = [batch["id"] for batch in make(root, 0, 2 * batch_size).train_dataloader()]
    for whole, *shares in zip(alone, ranks[0][1], ranks[1][1], strict=True):
        assert sorted(whole) == sorted(itertools.chain(*shares))
    assert len(ranks[0][1]) == make(root, 0, batch_size).steps_per_epoch(world_size=2)


def test_the_number_of_workers_follows_the_cpus_of_a_rank(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert available_cpus(limit=9) == 6
    assert MNIST().num_workers == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert MNIST().num_workers == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "40")
    assert MNIST().num_workers == 8
    assert MNIST(num_workers=0).num_workers == 0


class Writer(Watcher):
    """Leaves what it has seen in a file, one a rank."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_fit_end(self):
        seen = [self.evaluated, [ids for _, ids, _ in self.seen]]
        (self.folder / f"{self.trainer.global_rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    data_root, folder, size = sys.argv[1:]
    trainer(max_epochs=1, strategy="ddp_fork", devices=2).fit(
        Writer(Path(folder)), make(data_root, batch_size=int(size))
    )
