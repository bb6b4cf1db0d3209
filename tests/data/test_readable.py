"""Files that disappear or break while a training runs: it stops and says which, or goes without."""

import itertools
import logging
import multiprocessing
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lit_imgproc.callbacks.skipped import SkippedImages
from lit_imgproc.data import readable
from lit_imgproc.data.base import DataError
from lit_imgproc.data.imagenet.datamodule import ImageFolder
from lit_imgproc.data.readable import Readable, collate


@pytest.fixture
def root(tmp_path):
    ImageFolder.write_toy(tmp_path / "shapes")
    return tmp_path / "shapes"


def make(root, on_error, workers=0):
    return ImageFolder(
        root=str(root), image_size=16, batch_size=4, num_workers=workers, on_error=on_error
    )


class Small(pl.LightningModule):
    """Does something to the files at its third step, and writes down what it sees."""

    def __init__(self, damage):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 16 * 16, 3)
        self.damage = damage
        self.trained, self.evaluated = [], []

    def training_step(self, batch, _):
        if len(self.trained) == 2:
            self.damage()
        self.trained.append(batch["id"])
        return torch.nn.functional.cross_entropy(
            self.layer(batch["image"].flatten(1) / 255), batch["label"]
        )

    def validation_step(self, batch, _):
        self.evaluated.append(batch["id"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(data, module, tmp_path):
    logger = CSVLogger(tmp_path / "log", name="", version="")
    skipped = SkippedImages()
    pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[skipped],
        max_epochs=2,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    ).fit(module, data)
    return skipped, Path(logger.log_dir, "metrics.csv")


def gone(root, *names):
    return lambda: [(root / name).unlink() for name in names]


def broken(root, *names):
    return lambda: [(root / name).write_bytes(b"\xff\xd8\xff") for name in names]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("damage", "why"),
    [(gone, "cannot be read (No such file or directory)"), (broken, "not an image")],
)
@pytest.mark.parametrize("name", ["train/disc/disc_3.png", "val/ring/ring_0.jpg"])
def test_stop_names_the_file_in_one_sentence(root, tmp_path, workers, damage, why, name):
    module = Small(damage(root, name))
    with pytest.raises(DataError) as error:
        fit(make(root, "stop", workers), module, tmp_path)
    (sentence,) = str(error.value).splitlines()
    assert sentence.startswith(f"{root / name}: ")
    assert why in sentence
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_goes_on_with_what_can_be_read(root, tmp_path, caplog, workers):
    lost = ["train/disc/disc_3.png", "train/square/square_15.png", "val/ring/ring_0.jpg"]
    module = Small(gone(root, *lost))
    data = make(root, "skip", workers)
    skipped, log = fit(data, module, tmp_path)
    # Training goes on in batches of the same sizes, without the lost images in the second epoch.
    assert [len(ids) for ids in module.trained] == [4] * 24
    assert set(lost).isdisjoint(itertools.chain(*module.trained[12:]))
    # Evaluation is of the images that are left, in as many batches.
    expected = [name for name in data.dataset("val").names if name not in lost]
    assert len(module.evaluated) == 6
    assert list(itertools.chain(*module.evaluated[3:])) == expected
    records = [record for record in caplog.records if record.levelno == logging.WARNING]
    warned = [record.getMessage() for record in records]
    assert len(warned) == len(set(warned)) == 3
    for name in lost:
        assert sum(f"{root / name}: cannot be read" in line for line in warned) == 1
    assert skipped.state_dict()["logged"] == 3
    header, *rows = (line.split(",") for line in log.read_text().splitlines())
    counts = [row[header.index("data/skipped")] for row in rows]
    assert [count for count in counts if count][-1] == "3"


def test_another_image_takes_the_place_as_a_function_of_the_index(root):
    data = make(root, "skip").dataset("train")
    names = data.names
    gone(root, names[0], names[5], names[6], names[47])()
    fetched = Readable(data, "skip").__getitems__([(5, 1), (47, 2), (9, 3), (5, 1)])
    samples, skipped = fetched
    assert [sample["id"] for sample in samples] == [names[7], names[1], names[9], names[7]]
    assert [line.split(": ")[0] for line in skipped] == [
        str(root / names[index]) for index in (5, 6, 47, 0, 5, 6)
    ]
    assert collate(fetched)["skipped"] == skipped
    assert "skipped" not in collate(Readable(data, "skip").__getitems__([(9, 3)]))


def test_an_evaluation_batch_is_never_empty(root):
    data = make(root, "skip").dataset("val")
    gone(root, *data.names[:2])()
    error = collate(Readable(data, "skip").__getitems__([0, 1]))
    assert isinstance(error, DataError)
    assert str(error).startswith("none of the 2 images of an evaluation batch can be read; the ")
    assert str(root / data.names[0]) in str(error)


def test_a_lost_disk_is_no_string_of_accidents(root, monkeypatch):
    monkeypatch.setattr(readable, "LONGEST_GAP", 10)
    data = make(root, "skip").dataset("train")
    gone(root, *data.names)()
    error = Readable(data, "skip").__getitems__([(5, 1)])
    assert isinstance(error, DataError)
    assert str(error).startswith("10 images in a row cannot be read, so the disk or share")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_prediction_stops_or_skips_too(root, workers):
    data = make(root, "stop", workers)
    data.prepare()
    gone(root, "test/disc/disc_1.png")()
    with pytest.raises(DataError, match=r"^\S*disc_1.png: cannot be read"):
        list(data.predict_dataloader())
    data.on_error = "skip"
    assert sum(len(batch["id"]) for batch in data.predict_dataloader()) == 23


def test_files_that_are_broken_from_the_start_stop_it_or_are_left_out(root):
    broken(root, "train/disc/disc_3.png")()
    with pytest.raises(DataError, match=r"disc_3.png"):
        make(root, "stop").prepare()
    data = make(root, "skip")
    assert data.splits()["train"] == 47
    assert [sentence.split(":")[0][-10:] for sentence in data.left_out] == ["disc_3.png"]


def test_the_count_goes_on_after_a_resume(caplog):
    caplog.set_level(logging.WARNING)
    first, second = SkippedImages(), SkippedImages()
    first._look(None, None, {"skipped": ["a: gone", "b: gone"]}, 0)
    second.load_state_dict(first.state_dict())
    second._look(None, None, {"skipped": ["a: gone", "c: gone"]}, 0)
    assert second.state_dict()["known"] == ["a: gone", "b: gone", "c: gone"]
    assert len(caplog.records) == 3


def test_some_images_by_their_numbers(root):
    data = make(root, "skip")
    names = data.dataset("val").names
    gone(root, names[3])()
    assert data.batch("val", [1, 3, 5])["id"] == [names[1], names[5]]
    data.on_error = "stop"
    with pytest.raises(DataError, match=names[3]):
        data.batch("val", [1, 3, 5])


def test_what_differs_in_number_stays_a_list():
    samples = [
        {"image": torch.zeros(3, 4, 5), "boxes": torch.zeros(n, 4), "id": str(n), "label": n}
        for n in (2, 2)
    ]
    batch = collate((samples, []))
    assert batch["image"].shape == (2, 3, 4, 5)
    assert [boxes.shape for boxes in batch["boxes"]] == [(2, 4), (2, 4)]
    assert batch["label"].tolist() == [2, 2]
    assert batch["id"] == ["2", "2"]
    assert list(batch) == ["image", "id", "label", "boxes"]


def test_images_and_masks_of_different_sizes_are_lists():
    samples = [
        {"image": torch.zeros(3, 4, n), "mask": torch.zeros(4, n), "geometry": {"scale": n}}
        for n in (5, 6)
    ]
    batch = collate((samples, ["one was left out"]))
    assert [image.shape for image in batch["image"]] == [(3, 4, 5), (3, 4, 6)]
    assert [mask.shape for mask in batch["mask"]] == [(4, 5), (4, 6)]
    assert batch["geometry"] == [{"scale": 5}, {"scale": 6}]
    assert batch["skipped"] == ["one was left out"]
