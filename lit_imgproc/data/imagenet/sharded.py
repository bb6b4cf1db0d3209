"""Classification data in shards, for object stores."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader, default_collate

from lit_imgproc.data.base import BatchSize, ImageDataset, NumWorkers, Split
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.imagenet import toy
from lit_imgproc.data.imagenet.base import ClassificationData
from lit_imgproc.data.imagenet.image_folder import ImageFolder
from lit_imgproc.data.names import KEPT, Names
from lit_imgproc.data.shards import IMAGES, RECORD, ShardDataset, is_remote, write_shards
from lit_imgproc.data.transforms import AugmentChoice
from lit_imgproc.errors import UserError
from lit_imgproc.extras import require
from lit_imgproc.inputs import InputSpec


class StreamLoader:
    """A ``litdata.StreamingDataLoader`` for Lightning, which does not ask for more than it holds.

    Litdata's own notices that a resumed epoch is over only when it is asked for another batch, and
    would otherwise go on in it once more.

    Args:
        loader: Litdata's.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._used = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        used, self._used = self._used, 0
        for batch in self.loader:
            used += 1
            if used == len(self):
                self.loader.restore = False
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Litdata's own, of batches that were used."""
        return cast(dict[str, Any], self.loader.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch that was used when ``state`` was taken."""
        self.loader.load_state_dict(state)
        self._used = state["num_samples_yielded"] // self.loader.batch_size % len(self)


class ShardedImages(ClassificationData):
    """Images that ``lit-imgproc data prepare`` has written as shards, streamed with litdata.

    Size, channels and scaling are those that the shards were made with, and ``random_resized_crop``
    cuts out of what they hold.

    Training sees whole chunks in a random order, and the images of a chunk shuffled. This order
    depends on the number of ranks and workers: the promise that other data sets give, of the same
    batches whatever their number, does not hold here. The augmentation of an image is a function of
    seed, epoch and image. A training that was stopped goes on in mid-epoch by litdata's own record;
    the last images of an epoch that fill no batch of a worker are left out. Evaluation is in order,
    of every image once.

    Example:
        >>> data = ShardedImages(root="s3://bucket/fruits", augment={"train": "flip"})
        >>> data.batch_size
        32

    Args:
        root: A folder, or the URL of one that litdata can read: ``s3://…``, ``gs://…``.
        augment: What training does, for example ``{"train": "random_resized_crop"}``.
        cache_dir: The folder that chunks are fetched to; ``None`` takes
            ``~/.cache/lit_imgproc/shards``.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared and there are no whole shards.
    """

    def __init__(
        self,
        *,
        root: str,
        augment: AugmentChoice = None,
        cache_dir: str | None = None,
        batch_size: BatchSize = 32,
        num_workers: NumWorkers = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            augment=augment, cache=None, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.root = root.rstrip("/")
        own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.cache_dir = Path(cache_dir) if cache_dir else own / "lit_imgproc" / "shards"

    def input_spec(self) -> InputSpec:
        """What evaluation does to an image; read from the shards."""
        return InputSpec.from_dict(self._record["spec"])

    def facts(self) -> dict[str, Any]:
        """Those of the images that the shards were made of."""
        return dict(self._record["facts"])

    def fingerprint(self) -> str:
        """That of the images that the shards were made of."""
        return str(self._record["fingerprint"])

    def read(self) -> dict[Split, ImageDataset]:
        """Fetch the names and labels."""
        splits, facts = self._record["splits"], self.facts()
        with self._fetched(IMAGES) as path, np.load(path) as arrays:
            return {
                split: ShardDataset(
                    f"{self.root}/{split}",
                    self.cache_dir,
                    Names(bytes(arrays[f"{split} names"]).decode("utf-8", KEPT).split("\0")),
                    arrays[f"{split} labels"],
                    facts,
                    self.input_spec(),
                    self._augmentation() if split == "train" else None,
                    self.seed,
                )
                for split in splits
            }

    def steps_per_epoch(self, world_size: int = 1) -> int:
        """Training batches that each of ``world_size`` processes sees in an epoch."""
        return len(self.dataset("train")) // self.batch_size // world_size

    def train_dataloader(self) -> DataLoader[Any]:
        """Streamed, shuffled and augmented; its position is part of Lightning's checkpoints.

        Raises:
            UserError: There are too few images for one batch on every rank.
        """
        if getattr(self.trainer, "overfit_batches", 0) > 0:
            return self._eval_loader("train")
        dataset, (_, world_size) = cast(ShardDataset, self.dataset("train")), self._rank()
        if self.steps_per_epoch(world_size) == 0:
            raise UserError(
                f"The {len(dataset)} training images are too few for {world_size} processes "
                f"that take batches of {self.batch_size}: use fewer."
            )
        # A loader of litdata's that keeps its workers ends them only after seconds, one by one.
        own = {"collate_fn": default_collate, "persistent_workers": False}
        settings = self._loader_settings() | own
        litdata = require("litdata", "shards")
        loader = litdata.StreamingDataLoader(
            dataset.training(), batch_size=self.batch_size, **settings
        )
        return cast(DataLoader[Any], StreamLoader(loader))

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """The shapes of :class:`ImageFolder`'s toy as shards."""
        with TemporaryDirectory() as folder:
            toy.write_folder(Path(folder))
            data = ImageFolder(root=folder, image_size=48, cache="jpeg", num_workers=0)
            write_shards(data, root, lambda values, what, total: values)

    @cached_property
    def _record(self) -> dict[str, Any]:
        with self._fetched(RECORD) as path:
            return cast(dict[str, Any], json.loads(path.read_text("utf-8")))

    @contextmanager
    def _fetched(self, name: str) -> Iterator[Path]:
        """A file of the shards; of those that lie elsewhere, a copy."""
        url = f"{self.root}/{name}"
        missing = DataError(f"{url}: cannot be read, so there are no whole shards in {self.root}")
        if not is_remote(self.root):
            if not Path(url).is_file():
                raise DataError(f"{missing}: write them with `lit-imgproc data prepare`.")
            yield Path(url)
            return
        downloader = require("litdata.streaming.downloader", "shards")
        with TemporaryDirectory() as folder:
            try:
                downloader.get_downloader(self.root, folder, []).download_file(
                    url, os.path.join(folder, name)
                )
            except Exception as error:  # whatever the library of the object store raises
                raise DataError(f"{missing} ({type(error).__name__}: {error}).") from error
            yield Path(folder, name)
