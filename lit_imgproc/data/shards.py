"""Images in litdata's shards, for object stores: written once, streamed by whoever trains.

A folder of shards holds a folder for each split with litdata's chunks (an item is the ``image``, a
JPEG as the ``jpeg`` cache keeps it, its ``label``, ``name`` and ``index``), ``images.npz`` with the
names and labels of all, and ``shards.json``, which is written last.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np

from lit_imgproc.data.base import Progress, Split
from lit_imgproc.data.decode import Encoded
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.form import Form
from lit_imgproc.data.imagenet.datasets import ClassificationDataset, Labels, Pixels
from lit_imgproc.data.imagenet.image_folder import ImageFolder
from lit_imgproc.data.names import KEPT, Names
from lit_imgproc.data.transforms import Augment
from lit_imgproc.extras import require
from lit_imgproc.inputs import InputSpec

CHUNK = "64MB"
RECORD, IMAGES = "shards.json", "images.npz"


def write_shards(data: ImageFolder, folder: Path, progress: Progress) -> None:
    """Write the images of a data set as shards, after its ``jpeg`` cache has been made.

    A split that is finished is kept when this is done again after it was stopped.

    Args:
        data: With ``cache="jpeg"``.
        folder: Where the shards will lie; it may be copied to an object store as it is.
        progress: Shows how far it is.

    Raises:
        DataError: As :meth:`ImageFolder.prepare_cache`; the folder holds something else; or it
            cannot be written to.
    """
    if data.cache != "jpeg":
        raise DataError("data.cache: shards are made of a cache of JPEGs: set it to jpeg.")
    data.prepare_cache(progress)
    facts, splits = data.facts(), data.splits()
    record = {
        "fingerprint": data.fingerprint(),
        "form": Form("jpeg", data.input_spec()).name,
        "spec": data.input_spec().to_dict(),
        "facts": facts,
        "splits": splits,
    }
    text = json.dumps(record, indent=1)
    begun = folder / f".{RECORD}"  # what the splits are of that lie there already
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not begun.exists() and any(folder.iterdir()):
            raise DataError(f"{folder}: is not empty and holds no shards: choose another folder.")
        if begun.exists() and begun.read_text("utf-8") != text:
            raise DataError(
                f"{folder}: holds shards of other images, classes or settings: choose another "
                "folder, or delete it."
            )
        begun.write_text(text, "utf-8")
        for split in splits:
            if not (folder / split).is_dir():
                _write_split(data, split, folder, progress)
        _write_images(data, folder / IMAGES)
        (folder / f"{RECORD}.partial").write_text(text, "utf-8")
        (folder / f"{RECORD}.partial").replace(folder / RECORD)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}).") from error


def _write_split(data: ImageFolder, split: Split, folder: Path, progress: Progress) -> None:
    streaming = require("litdata.streaming", "shards")
    unfinished = folder / f".{split}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    dataset = cast(ClassificationDataset, data.dataset(split))
    # Its own `optimize` would start processes, which have nothing to do but copy.
    chunks = streaming.Cache(str(unfinished), chunk_bytes=CHUNK)
    for index in progress(range(len(dataset)), split, len(dataset)):
        label = dataset.labels[index]
        chunks[index] = {
            "image": cast(Encoded, dataset.stored(index)).data,
            "label": label if label.ndim else int(label),
            "name": dataset.names[index],
            "index": index,
        }
    chunks.done()
    chunks.merge()
    unfinished.replace(folder / split)


def _write_images(data: ImageFolder, path: Path) -> None:
    arrays: dict[str, Any] = {}
    for split in data.splits():
        dataset = cast(ClassificationDataset, data.dataset(split))
        arrays[f"{split} labels"] = dataset.labels
        # A name may hold any character but this one.
        joined = "\0".join(dataset.names).encode("utf-8", KEPT)
        arrays[f"{split} names"] = np.frombuffer(joined, np.uint8)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def is_remote(url: str) -> bool:
    """Whether shards are fetched from there, and not read where they lie."""
    return "://" in url or url.startswith("local:")


class ShardDataset(ClassificationDataset):
    """The images of one split, read from shards; by number, or as they are streamed.

    Args:
        url: Where its chunks lie.
        cache: The folder that chunks are fetched to, unless they lie in a local one.
        names: See :class:`ClassificationDataset`, as for the others.
        facts: Of the data set that the shards were made of.
        seed: Of the augmentation of images that are streamed.
    """

    def __init__(
        self,
        url: str,
        cache: Path,
        names: Names,
        labels: Labels,
        facts: dict[str, Any],
        spec: InputSpec,
        augment: Augment | None,
        seed: int,
    ) -> None:
        super().__init__(names, labels, facts["class_names"], spec, augment)
        self._facts = facts
        self.url, self.cache, self.seed = url, cache, seed
        self._streams: dict[int, Any] = {}
        self._streamed: tuple[int, bytes] = (-1, b"")

    def stream(self, **options: Any) -> Any:
        """A ``litdata.StreamingDataset`` of the chunks."""
        litdata = require("litdata", "shards")
        fetched = {"cache_dir": str(self.cache)} if is_remote(self.url) else {}
        if fetched:
            self.cache.mkdir(parents=True, exist_ok=True)
        return litdata.StreamingDataset(self.url, **fetched, **options)

    def training(self) -> Any:
        """A stream of augmented samples, in an order of litdata's, other in every epoch."""
        decode = _Decode(self)
        # Equally many whole batches for every rank.
        stream = self.stream(shuffle=True, seed=self.seed, drop_last=True, transform=decode)
        decode.stream = stream
        return stream

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of the image in the shard."""
        return self.stored(index).shape[:2]

    def image(self, index: int) -> Pixels:
        """The decoded image."""
        return self.stored(index).decode()

    def stored(self, index: int) -> Encoded:
        """The JPEG."""
        number, data = self._streamed
        if number != index:
            data = bytes(self._by_number()[index]["image"])
        return Encoded(data, f"{self.url}: {self.names[index]}", self.spec.channels)

    def sample(self, item: dict[str, Any], epoch: int) -> dict[str, Any]:
        """Augment an item of the stream: a function of seed, epoch and image alone."""
        index = int(item["index"])
        digest = hashlib.blake2b(f"{self.seed} {epoch} {index}".encode(), digest_size=8).digest()
        self._streamed = index, bytes(item["image"])
        return self[index, int.from_bytes(digest, "little") >> 1]

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Of the training images that the shards were made of."""
        return self._facts["mean"], self._facts["std"]

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the class names, names, labels and JPEGs to a digest."""
        digest.update("\0".join([*self.class_names, *self.names]).encode())
        digest.update(self.labels.tobytes())
        for index in range(len(self)):
            digest.update(self.stored(index).data)

    def _by_number(self) -> Any:
        # One a process: what reads the chunks cannot be shared with forked workers.
        if os.getpid() not in self._streams:
            stream = self.stream()
            _ = stream[:0]  # from now on it fetches whole chunks, not an image at a time
            self._streams = {os.getpid(): stream}
        return self._streams[os.getpid()]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_streams": {}}


class _Decode:
    """Makes samples of the items of a stream."""

    stream: Any

    def __init__(self, dataset: ShardDataset) -> None:
        self._dataset = dataset

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return self._dataset.sample(item, self.stream.current_epoch)
