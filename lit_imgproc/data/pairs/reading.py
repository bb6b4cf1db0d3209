"""From the files of a pair to its two pictures, whatever of them is in which file."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lit_imgproc.data.decode import read_image
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.pairs.derived import Derived, edges, erase, hole, transparent
from lit_imgproc.data.pairs.files import Pair, digest_file
from lit_imgproc.data.pairs.framing import Pixels, converted
from lit_imgproc.data.pairs.palette import Paint

Origin = Literal["file", "left", "right"] | Derived
"""Where sources come from: files of their own, a half of the target's file, or the target."""


@dataclass(frozen=True)
class Side:
    """One picture of a pair: how its files are read.

    Args:
        channels: 3 for RGB, 1 for grey.
        paint: The colours of class numbers, where files hold such.
    """

    channels: int
    paint: Paint | None

    def read(self, path: str | Path) -> Pixels:
        """A picture ``[H,W,channels]``, or class numbers ``[H,W]``.

        Raises:
            DataError: The file cannot be read.
        """
        if self.paint is None:
            return read_image(path, self.channels)
        return self.paint.read(str(path))

    def shown(self, layer: Pixels) -> Pixels:
        """What :meth:`read` gave as a picture: class numbers are painted."""
        if self.paint is not None and layer.ndim == 2:
            layer = self.paint(layer)
        return converted(layer, self.channels)


@dataclass(frozen=True)
class Reading:
    """How pairs are read.

    In between, pictures are *layers* of one height and width, which are scaled, cut and augmented
    alike: pictures ``[H,W,C]`` and class numbers or masks ``[H,W]``.

    Args:
        root: The folder of the data set.
        origin: Where sources come from.
        source: How they are read.
        target: How targets are read.
    """

    root: Path
    origin: Origin
    source: Side
    target: Side

    def layers(self, pair: Pair) -> list[Pixels]:
        """The source and the target, or the target alone where the source is made of it.

        Raises:
            DataError: A file cannot be read.
        """
        path = os.path.join(self.root, pair.target)
        if self.origin == "file":
            source = self.source.read(os.path.join(self.root, pair.source))
            return [source, self.target.read(path)]
        if self.origin not in ("left", "right"):
            return [self.target.read(path)]
        both = read_image(path, max(self.source.channels, self.target.channels))
        if (middle := both.shape[1] // 2) == 0:
            raise DataError(f"{path}: has no two halves: it is one pixel wide.")
        halves = [both[:, :middle], both[:, middle : 2 * middle]]
        return halves if self.origin == "left" else halves[::-1]

    def pair(self, layers: list[Pixels], seed: int) -> tuple[Pixels, Pixels]:
        """The source ``[H,W,C]`` and the target ``[H,W,C]`` of layers, at their final size.

        Args:
            layers: As of :meth:`layers`.
            seed: Where the hole of an erased source is.
        """
        return self._source(layers, seed), self.target.shown(layers[-1])

    def alone(self, path: Path) -> list[Pixels]:
        """The layers of a source without a target, of which no half is cut off.

        Of an erased one what is transparent in the file is missing, if anything is.

        Raises:
            DataError: The file cannot be read.
        """
        layer = self.source.read(path)
        if self.origin == "erased" and (missing := transparent(path)) is not None:
            return [layer, missing.astype(np.uint8)]
        return [layer]

    def source_alone(self, layers: list[Pixels], seed: int) -> Pixels:
        """The source of the layers of :meth:`alone`, at their final size."""
        if len(layers) == 2:
            return erase(self.source.shown(layers[0]), layers[1] == 1)
        return self._source(layers, seed)

    def update_digest(self, digest: "hashlib._Hash", pair: Pair) -> None:
        """Feed the names and bytes of a pair, and its colours, to a digest."""
        for paint in (self.source.paint, self.target.paint):
            digest.update(b"" if paint is None else paint.colours.tobytes())
        for name in dict.fromkeys(pair):
            digest_file(digest, self.root, name)

    def _source(self, layers: list[Pixels], seed: int) -> Pixels:
        shown = self.source.shown(layers[0])
        if self.origin == "edges":
            return converted(edges(layers[0]), self.source.channels)
        if self.origin == "grey":
            return converted(converted(layers[0], 1), self.source.channels)
        if self.origin == "erased":
            return erase(shown, hole(shown.shape[0], shown.shape[1], seed))
        return shown
