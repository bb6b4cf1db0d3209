"""Boxes of selective search for the images of a data set, searched once and kept on disk.

They are kept as :mod:`lit_imgproc.data.cache` keeps copies of images: in parts named by a digest of
what they are of, each there as a whole or not at all, in ``.lit_imgproc`` in the data set's folder
or, where that cannot be written to, in ``~/.cache/lit_imgproc``. An image has all of its boxes
there, in pixels of its file, whatever a recipe asks for.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lit_imgproc.data import workers
from lit_imgproc.data.base import Progress, available_cpus
from lit_imgproc.data.cache import Cache, Slot
from lit_imgproc.data.decode import read_encoded, read_image
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.form import Form
from lit_imgproc.data.pack import Pack, Packed, Writer
from lit_imgproc.selective_search import VERSION, selective_search

MOST = 2000
"""So many boxes of an image are kept, and no recipe can have more."""
PROCESSES = 64
"""So many search at once, at most."""


@dataclass(frozen=True)
class Searched:
    """What a :class:`~lit_imgproc.data.cache.Cache` needs to know of what it holds."""

    kind: Literal["proposals"] = "proposals"
    name: str = f"selective-search-{VERSION}-{MOST}"


class Proposals:
    """The boxes of some images.

    Args:
        pack: All boxes of each.
        most: So many of an image are wanted.
    """

    def __init__(self, pack: Pack, most: int) -> None:
        self._pack, self._most = pack, most

    def boxes(self, index: int, path: str) -> NDArray[np.float32]:
        """The boxes of an image, float32 ``[P,4]``, xyxy in pixels of its file.

        Args:
            index: Its number.
            path: Its file, which is searched now if it could not be read when others were.

        Raises:
            DataError: It still cannot be read.
        """
        if self._pack.problem(index) is not None:
            return selective_search(read_image(path, 3), most=self._most)
        boxes = np.frombuffer(self._pack.data(index), np.float32).reshape(-1, 4)
        return boxes[: self._most]


class ProposalCache(Cache):
    """The boxes of the images of a data set.

    Args:
        root: The folder that ``names`` are relative to.
        names: The images, each once.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folders = [root / ".lit_imgproc", own / "lit_imgproc" / "data"]
        super().__init__(root, sorted(set(names)), cast(Form, Searched()), folders)

    def opened(self, progress: Progress) -> Pack:
        """Map the cache, made first where it is not there, or of other files, or damaged."""
        try:
            return self.open()
        except DataError:
            self.prepare(progress)
            return self.open()

    def proposals(self, pack: Pack, names: Sequence[str], most: int) -> Proposals:
        """The boxes of some of the images.

        Args:
            pack: All of them.
            names: Which, in this order.
            most: So many of an image.
        """
        numbers = {name: number for number, name in enumerate(self.names)}
        return Proposals(pack.take(np.array([numbers[name] for name in names], np.intp)), most)

    def problems(self, pack: Pack) -> list[str]:
        """A sentence for each image that could not be read, and still cannot be."""
        found = []
        for number, name in enumerate(self.names):
            if pack.problem(number) is not None:
                try:
                    read_image(self.root / name, 3)
                except DataError as error:
                    found.append(str(error))
        return found

    def verify(self, progress: Progress) -> list[str]:
        """A sentence for each damaged part. What is not there yet is made when it is needed."""
        return [] if self._whole() is None else super().verify(progress)

    def _writable(self) -> Path:
        try:
            return super()._writable()
        except DataError:
            raise DataError(
                f"{' and '.join(map(str, self.folders))}: cannot be written to, and proposals are "
                "kept there; set the environment variable XDG_CACHE_HOME to a folder that can."
            ) from None

    def _make(self, folder: Path, slots: Sequence[Slot]) -> Iterator[None]:
        """Make parts, with a step for each image, in processes: Python's threads take turns."""
        names = [self.names[number] for slot in slots for number in slot.files]
        if not names:
            return iter(())
        loader: DataLoader[Packed] = DataLoader(
            _Searches(self.root, names),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=min(available_cpus(PROCESSES), len(names)),
            persistent_workers=True,
            worker_init_fn=workers.shield,
            generator=torch.Generator(),  # else one more number of torch's own would be drawn
        )
        # So that libraries are loaded once, and not by every process.
        selective_search(np.zeros((1, 1, 3), np.uint8), most=1)
        # Forked here and not at the first step: a progress bar has a thread by then.
        return self._written(folder, slots, loader, iter(loader))

    def _written(
        self,
        folder: Path,
        slots: Sequence[Slot],
        loader: DataLoader[Packed],
        found: Iterator[Packed],
    ) -> Iterator[None]:
        try:
            for slot in slots:
                with Writer(folder / slot.name, self._mode & 0o666 | 0o640) as part:
                    for _ in slot.files:
                        part.add(next(found))
                        yield
        finally:
            workers.end(loader)


class _Searches(Dataset[Packed]):
    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Packed:
        path = os.path.join(self.root, self.names[index])
        try:
            encoded = read_encoded(path, 3)
            image = encoded.decode()
        except DataError as error:
            return Packed(b"", problem=str(error).removeprefix(path))
        boxes = selective_search(image, most=MOST)
        digest = hashlib.sha256(encoded.data).digest()
        return Packed(boxes.tobytes(), (len(boxes), 4), encoded.shape[:2], digest)


def _as_it_is(value: Any) -> Any:
    return value


def shown(values: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """A progress bar at the start of a training; see :data:`~lit_imgproc.data.base.Progress`."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    disable = not console.is_terminal
    return track(values, what, total, console=console, transient=True, disable=disable)
