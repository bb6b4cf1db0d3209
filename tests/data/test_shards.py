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

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.imagenet.datamodule import ImageFolder
from lit_imgproc.data.imagenet.sharded import ShardedImages
from lit_imgproc.data.imagenet.toy import write_folder
from lit_imgproc.data.shards import write_shards
from lit_imgproc.errors import UserError

litdata = pytest.importorskip("litdata")

pytestmark = [
    # litdata leaves the files that it reads to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def silent(values, what, total):
    return values


def pictures(root, **arguments):
    settings = {"image_size": 40, "cache": "jpeg", "num_workers": 0}
    return ImageFolder(root=str(root), **(settings | arguments))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data set, and its shards in several chunks a split."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("pictures", "shards"))
    write_folder(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_imgproc.data.shards.CHUNK", "15KB")
        write_shards(pictures(root), folder, silent)
    assert len(list((folder / "train").glob("*.bin"))) > 3
    return root, folder


def make(folder, **arguments):
    settings = {"batch_size": 8, "num_workers": 0, "augment": {"train": "random_resized_crop"}}
    return ShardedImages(root=str(folder), **(settings | arguments))


def images(loader, count=None):
    """The images by name, in order."""
    return [
        (name, image.numpy().tobytes())
        for batch in itertools.islice(loader, count)
        for name, image in zip(batch["id"], batch["image"], strict=True)
    ]


@pytest.fixture(params=["folder", "elsewhere"])
def place(request, written):
    """Where the shards lie: in a folder, or in what litdata treats as an object store."""
    return written[1] if request.param == "folder" else f"local:{written[1]}"


def test_facts_and_fingerprint_are_those_of_the_images(written, place):
    source, data = pictures(written[0]), make(place)
    assert data.splits() == source.splits()
    assert data.facts() == source.facts()
    assert data.fingerprint() == source.fingerprint()
    assert data.input_spec() == source.input_spec()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_that_of_the_cache_in_order(written, place, workers):
    source, data = pictures(written[0], batch_size=8), make(place, num_workers=workers)
    for theirs, ours in (
        (source.val_dataloader(), data.val_dataloader()),
        (source.test_dataloader(), data.test_dataloader()),
        (source.predict_dataloader(), data.predict_dataloader()),
    ):
        for one, other in zip(theirs, ours, strict=True):
            assert one["id"] == other["id"]
            assert torch.equal(one["label"], other["label"])
            assert torch.equal(one["image"], other["image"])
    assert data.dataset("val").size(0) == source.dataset("val").image(0).shape[:2]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_training_sees_every_image_of_whole_batches_once(written, place, workers):
    data = make(place, num_workers=workers)
    loader = data.train_dataloader()
    assert len(loader) == data.steps_per_epoch() == 6
    first, second = images(loader), images(loader)
    labels = dict(zip(data.dataset("train").names, data.dataset("train").labels, strict=True))
    for epoch in (first, second):
        assert len({name for name, _ in epoch}) == len(epoch) == 48
    assert [name for name, _ in first] != [name for name, _ in second]
    assert len(set(first) & set(second)) < 5  # augmented otherwise
    for batch in loader:
        assert batch["label"].tolist() == [labels[name] for name in batch["id"]]


def test_an_augmentation_is_a_function_of_seed_epoch_and_image(written):
    epochs = [dict(images(make(written[1], num_workers=n).train_dataloader())) for n in (0, 2)]
    assert epochs[0] == epochs[1]
    other = dict(images(make(written[1], seed=1).train_dataloader()))
    assert sum(other[name] == epochs[0][name] for name in other) < 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("used", [0, 1, 4])
def test_training_goes_on_in_mid_epoch(written, place, workers, used):
    whole = make(place, num_workers=workers).train_dataloader()
    expected = [images(whole), images(whole)]
    stopped = make(place, num_workers=workers).train_dataloader()
    assert images(stopped, used) == expected[0][: 8 * used]
    state = json.loads(json.dumps(stopped.state_dict()))
    if used == 0:
        return
    resumed = make(place, num_workers=workers).train_dataloader()
    resumed.load_state_dict(state)
    assert images(resumed) == expected[0][8 * used :]
    assert images(resumed) == expected[1]


def test_steps_are_those_of_litdata(written):
    for batch_size, workers in itertools.product((1, 5, 7, 16), (0, 1, 2, 3)):
        data = make(written[1], batch_size=batch_size, num_workers=workers)
        assert data.steps_per_epoch() == len(data.train_dataloader()), (batch_size, workers)


def test_too_few_images(written):
    with pytest.raises(UserError, match="48 training images are too few for 1 processes that take"):
        make(written[1], batch_size=49).train_dataloader()


def test_more_workers_than_batches(written):
    assert len(images(make(written[1], batch_size=24, num_workers=3).train_dataloader())) == 48


def test_writing_goes_on_with_the_split_that_was_begun(written, tmp_path, monkeypatch):
    data = pictures(written[0])

    def stop(values, what, total):
        for number, value in enumerate(values):
            if (what, number) == ("val", 3):
                raise KeyboardInterrupt
            yield value

    with pytest.raises(KeyboardInterrupt):
        write_shards(data, tmp_path / "shards", stop)
    with pytest.raises(DataError, match="there are no whole shards"):
        make(tmp_path / "shards").prepare()
    done = []
    write_shards(data, tmp_path / "shards", lambda values, what, _: done.append(what) or values)
    assert done == ["checking", "jpeg", "val", "test"]
    assert make(tmp_path / "shards").fingerprint() == data.fingerprint()
    write_shards(data, tmp_path / "shards", lambda values, what, _: done.append(what) or values)
    assert done[4:] == ["checking", "jpeg"]


def test_other_shards_are_not_written_over(written, tmp_path):
    with pytest.raises(DataError, match="holds shards of other images, classes or settings"):
        write_shards(pictures(written[0], image_size=32), written[1], silent)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(DataError, match="is not empty and holds no shards"):
        write_shards(pictures(written[0]), tmp_path, silent)
    with pytest.raises(DataError, match="set it to jpeg"):
        write_shards(pictures(written[0], cache="raw"), tmp_path / "new", silent)


@pytest.mark.parametrize("place", ["nowhere", "local:/nowhere"])
def test_shards_that_are_not_there(place):
    with pytest.raises(DataError, match=r"nowhere/shards\.json: cannot be read, so there are no"):
        make(place).prepare()


def test_several_labels_an_image(written, tmp_path):
    root, _ = written
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [f"{file},{'big|' if number % 2 else ''}shape" for number, file in enumerate(files)]
    (root / "index.csv").write_text("\n".join(["path,label", *rows]))
    write_shards(pictures(root, index="index.csv"), tmp_path / "shards", silent)
    data = make(tmp_path / "shards")
    assert data.facts()["multilabel"] is True
    batch = next(iter(data.train_dataloader()))
    expected = pictures(root, index="index.csv").dataset("train")
    labels = dict(zip(expected.names, expected.labels.tolist(), strict=True))
    assert batch["label"].tolist() == [labels[name] for name in batch["id"]]


def test_the_toy_is_in_shards(tmp_path):
    ShardedImages.write_toy(tmp_path)
    data = make(tmp_path)
    assert data.splits() == {"train": 48, "val": 12, "test": 24}
    assert data.batch("val", [0, 5])["image"].shape == (2, 3, 48, 48)


SCRIPT = """
import sys
import lightning.pytorch as pl, torch
from lit_imgproc.data.imagenet.sharded import ShardedImages

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 40 * 40, 3)
        self.trained, self.evaluated = [], []
    def training_step(self, batch, _):
        self.trained += batch["id"]
        logits = self.layer(batch["image"].flatten(1) / 255.0)
        return torch.nn.functional.cross_entropy(logits, batch["label"])
    def validation_step(self, batch, _):
        self.evaluated += batch["id"]
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)
    def on_fit_end(self):
        with open(f"{sys.argv[2]}/{self.trainer.global_rank}", "w") as file:
            print(*self.trained, sep=" ", file=file)
            print(*self.evaluated, sep=" ", file=file)

if __name__ == "__main__":
    pl.Trainer(accelerator="cpu", max_epochs=1, strategy="ddp_fork", devices=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
    ).fit(Module(), datamodule=ShardedImages(root=sys.argv[1], batch_size=4, num_workers=0))
"""


def test_two_ranks_share_the_images(written, tmp_path):
    # In a process of its own: forking one in which PyTorch has trained before can hang.
    home = tmp_path / "home"
    home.mkdir()
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(written[1]), str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, env=os.environ | {"HOME": str(home)})
    (one, val_one), (two, val_two) = (
        [line.split() for line in Path(tmp_path, str(rank)).read_text().splitlines()]
        for rank in (0, 1)
    )
    assert len(one) == len(two) == 24
    assert len({*one, *two}) == 48
    assert sorted(val_one + val_two) == sorted(make(written[1]).dataset("val").names)
    assert not (home / ".lightning").exists()  # litdata's own default


class Watcher(pl.LightningModule):
    """Writes down what each training batch holds."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 40 * 40, 3)
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((batch["id"], int(batch["image"].long().sum())))
        return self.layer(batch["image"].flatten(1) / 255.0).square().mean()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def trainer(**arguments):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=2,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing="callbacks" in arguments,
        use_distributed_sampler=False,
        **arguments,
    )


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_resumes_from_any_step(written, tmp_path, workers):
    keep_all = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    whole = Watcher()
    trainer(callbacks=[keep_all]).fit(whole, make(written[1], num_workers=workers))
    assert len(whole.seen) == 12
    for step in (1, 4, 6, 9):
        resumed = Watcher()
        data = make(written[1], num_workers=workers)
        trainer().fit(resumed, data, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert resumed.seen == whole.seen[step:], step
