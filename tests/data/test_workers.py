"""Workers that are really killed: the training sees the same batches as without, or is told."""

import gc
import itertools
import logging
import multiprocessing
import os
import signal
import time

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lit_imgproc.data.base import DataError
from lit_imgproc.data.imagenet.datamodule import ImageFolder
from lit_imgproc.data.order import EvalBatches, OrderedLoader, TrainBatches, TrainLoader

# Torch's exception can come while torch itself opens temporary files, to see whether it still may,
# or amid the end of an object; and torch leaves the socket over which the tensors of a worker that
# is gone were to come.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SIZE = 40


class Pairs(Dataset):
    """Gives back what it was asked for. The worker that fetches ``fatal`` dies of it.

    Each death takes a file of ``folder`` away, so that it can be survived.
    """

    def __init__(self, folder=None, fatal=None, number=signal.SIGKILL):
        self.folder, self.fatal, self.number = folder, fatal, number

    def __len__(self):
        return SIZE

    def __getitem__(self, key):
        index = key[0] if isinstance(key, tuple) else key
        if index == self.fatal and (deaths := sorted(self.folder.iterdir())):
            deaths[0].unlink()
            os.kill(os.getpid(), self.number)
        return torch.tensor(key)


def make(dataset, kind="train", persistent=True, workers=2):
    order = TrainBatches(SIZE, 4, seed=0) if kind == "train" else EvalBatches(SIZE, 4)
    cls = TrainLoader if kind == "train" else OrderedLoader
    persistent = persistent and workers > 0
    return cls(dataset, batch_sampler=order, num_workers=workers, persistent_workers=persistent)


def read(loader, passes=2):
    return [[batch.tolist() for batch in loader] for _ in range(passes)]


@pytest.fixture
def deaths(tmp_path):
    """A folder that allows for so many deaths."""

    def allow(count):
        for number in range(count):
            (tmp_path / f"death{number}").touch()
        return tmp_path

    return allow


@pytest.fixture(autouse=True)
def _no_worker_is_left():
    yield
    gc.collect()
    assert multiprocessing.active_children() == []


def kill(pid, number=signal.SIGKILL):
    """Kill a process and wait until it is dead, but leave it to its parent to notice."""
    os.kill(pid, number)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def pids(loader):
    return [worker.pid for worker in loader._iterator._workers]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("kind", ["train", "eval"])
@pytest.mark.parametrize("fatal", [0, 17, SIZE - 1])
def test_a_worker_killed_at_work_changes_no_batch(deaths, caplog, kind, persistent, fatal):
    expected = read(make(Pairs(), kind, workers=0))
    loader = make(Pairs(deaths(2), fatal), kind, persistent)
    assert read(loader) == expected
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "as it does when memory runs out" in caplog.text
    assert "Lower data.num_workers" in caplog.text
    assert list(loader.dataset.folder.iterdir()) == []
    del loader


def test_a_worker_killed_while_the_loader_begins_changes_no_batch(monkeypatch):
    expected = read(make(Pairs(), workers=0), 1)
    loader = make(Pairs())
    begin = DataLoader.__iter__

    def begin_slowly(self):
        iterator = begin(self)
        if killed:
            kill(iterator._workers[killed.pop()].pid)
            time.sleep(0.1)  # and here the signal comes
        return iterator

    killed = [1]
    monkeypatch.setattr(DataLoader, "__iter__", begin_slowly)
    assert read(loader, 1) == expected
    assert killed == []
    del loader


@pytest.mark.parametrize("kind", ["train", "eval"])
@pytest.mark.parametrize("killed", [[0], [1], [0, 1]])
@pytest.mark.parametrize("after", [1, 6, 10])
def test_a_worker_killed_at_rest_changes_no_batch(kind, killed, after):
    expected = read(make(Pairs(), kind, workers=0))
    loader = make(Pairs(), kind)
    first, seen = [], []
    for batch in loader:
        first.append(batch.tolist())
        if len(first) == after:
            seen = pids(loader)
            for worker in killed:
                kill(seen[worker])
    assert [first, *read(loader, 1)] == expected
    assert set(seen).isdisjoint(pids(loader))
    del loader


def test_a_worker_killed_between_two_passes_changes_no_batch(caplog):
    expected = read(make(Pairs(), workers=0))
    loader = make(Pairs())
    first = read(loader, 1)
    kill(pids(loader)[1])
    assert first + read(loader, 1) == expected
    assert len(caplog.records) == 1
    del loader


def test_the_position_stays_exact(deaths):
    expected = read(make(Pairs(), workers=0), 1)[0]
    for used in (1, 4, 5, 10):
        loader = make(Pairs(deaths(1), 17))
        assert [batch.tolist() for batch in itertools.islice(loader, used)] == expected[:used]
        resumed = make(Pairs(), workers=0)
        resumed.load_state_dict(loader.state_dict())
        assert read(resumed, 1)[0] == expected[used:]
        del loader


def test_the_death_of_a_worker_does_not_disturb_another_loader():
    idle, busy = make(Pairs()), make(Pairs(), "eval")
    training = iter(idle)
    expected = read(make(Pairs(), workers=0), 1)[0]
    assert next(training).tolist() == expected[0]
    evaluation = iter(busy)
    next(evaluation)
    kill(pids(idle)[0])
    workers = pids(busy)
    assert len(list(evaluation)) == 9
    assert pids(busy) == workers
    assert [batch.tolist() for batch in training] == expected[1:]
    del idle, busy, training, evaluation


def test_other_loaders_are_watched_as_ever(deaths):
    ours = make(Pairs())
    read(ours, 1)
    plain = DataLoader(Pairs(deaths(1), 0), batch_size=4, num_workers=1)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(plain)  # the first batch, or torch may fail in other ways over what was half sent
    del ours, plain


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_four_deaths_in_a_pass_are_too_many(deaths, caplog, kind):
    loader = make(Pairs(deaths(4), 17), kind)
    with pytest.raises(DataError) as error:
        read(loader)
    assert str(error.value) == (
        "the system killed processes that load images 4 times in one pass over the data, as it "
        "does when memory runs out: lower data.num_workers (it is 2), data.batch_size or "
        "data.image_size"
    )
    assert len(caplog.records) == 3
    del loader, error


def test_deaths_are_counted_anew_in_each_pass(deaths):
    loader = make(Pairs(deaths(3), 17))
    expected = read(make(Pairs(), workers=0), 3)
    first = read(loader, 1)
    deaths(3)
    assert first + read(loader, 2) == expected
    del loader


def test_a_sigterm_to_the_workers_is_let_through(deaths):
    loader = make(Pairs(deaths(1), 17, signal.SIGTERM))
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        read(loader)
    del loader


def test_workers_that_were_asked_to_end_between_two_batches_are_let_through():
    loader = make(Pairs())
    batches = iter(loader)
    next(batches)
    for pid in pids(loader):
        kill(pid, signal.SIGTERM)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        next(batches)
    del loader, batches


# Trainings ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    ImageFolder.write_toy(root)
    return root


class Small(pl.LightningModule):
    """Kills a worker of its train or validation loader at some of its steps."""

    def __init__(self, train=(), val=()):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3 * 16 * 16, 3)
        self.deaths = {"train": train, "val": val}
        self.steps = {"train": 0, "val": 0}
        self.evaluated = []
        self.workers = set()

    def kill_in(self, stage, loader):
        if self.steps[stage] in self.deaths[stage]:
            self.workers.update(pids(loader))
            kill(pids(loader)[self.steps[stage] % 2])
        self.steps[stage] += 1

    def loss(self, batch):
        images = batch["image"].flatten(1) / 255
        return torch.nn.functional.cross_entropy(self.layer(images), batch["label"])

    def training_step(self, batch, _):
        self.kill_in("train", self.trainer.train_dataloader)
        return self.loss(batch)

    def validation_step(self, batch, _):
        self.kill_in("val", self.trainer.val_dataloaders)
        self.evaluated.append((batch["id"], float(self.loss(batch))))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def fit(root, module, workers):
    data = ImageFolder(
        root=str(root), image_size=16, batch_size=4, num_workers=workers, seed=1,
        augment={"train": "random_resized_crop"},
    )  # fmt: skip
    pl.Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=3,
        val_check_interval=5,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    ).fit(module, data)
    return module


def test_a_training_ends_with_the_same_weights(root, caplog):
    calm = fit(root, Small(), workers=0)
    # Amid epochs, before a validation, at the end of an epoch; in the first and last of a pass.
    struck = fit(root, Small(train=(0, 4, 11, 17, 30), val=(0, 2, 7)), workers=2)
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 8
    assert struck.evaluated == calm.evaluated
    for name, value in calm.state_dict().items():
        assert struck.state_dict()[name].equal(value), name
    for pid in struck.workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
