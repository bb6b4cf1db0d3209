"""Files whose images are taken from prepared copies of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lit_imgproc.data.decode import Encoded
from lit_imgproc.data.form import Form
from lit_imgproc.data.imagenet.datasets import FileDataset, Labels, Pixels
from lit_imgproc.data.pack import Pack
from lit_imgproc.data.transforms import Augment
from lit_imgproc.inputs import InputSpec


class CachedDataset(FileDataset):
    """The images of a split as a cache or memory holds them; see :mod:`lit_imgproc.data.cache`.

    Names, labels and digest are those of the files, which are not opened.

    Args:
        root: See :class:`FileDataset`, as for the others.
        pack: What holds the images, in the order of ``names``.
        form: What it holds of each.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: Labels,
        class_names: Sequence[str],
        spec: InputSpec,
        augment: Augment | None,
        pack: Pack,
        form: Form,
    ) -> None:
        super().__init__(root, names, labels, class_names, spec, augment)
        self.pack, self.form = pack, form

    def size(self, index: int) -> tuple[int, ...]:
        """Height and width of the upright image in the file."""
        return tuple(self.pack.entry(index)["original"].tolist())

    def image(self, index: int) -> Pixels:
        """The image as it is kept, decoded; not to be written to."""
        found = self.stored(index)
        return found.decode() if isinstance(found, Encoded) else found

    def stored(self, index: int) -> Pixels | Encoded:
        """The image as it is kept."""
        return self.form.unpack(self.pack, index, self._path(index))

    def _digest(self, index: int) -> bytes:
        return np.asarray(self.pack.entry(index)["file"]).tobytes()


class Copies:
    """The prepared copies of some files, by the files' names.

    Args:
        root: The folder that ``names`` are relative to.
        names: The files, in the order of ``pack``.
        pack: The copies.
        form: What is kept of each.
    """

    def __init__(self, root: Path, names: Sequence[str], pack: Pack, form: Form) -> None:
        self.form = form
        self._root, self._pack = root, pack
        self._numbers = {name: number for number, name in enumerate(names)}

    def problems(self) -> list[str]:
        """A sentence for each file that could not be read when it was to be copied."""
        if not any(part.problems for part in self._pack.parts):
            return []
        found = ((name, self._pack.problem(number)) for name, number in self._numbers.items())
        return [f"{self._root / name}{problem}" for name, problem in found if problem is not None]

    def of(self, names: Sequence[str]) -> Pack:
        """The copies of some files, in that order."""
        return self._pack.take(np.array([self._numbers[name] for name in names], np.intp))
