"""What a copy of an image holds, on disk or in memory: pixels or a JPEG, as evaluation needs it."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from lit_imgproc.data.base import available_cpus
from lit_imgproc.data.decode import Encoded, read_encoded
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.pack import Pack, Packed, Part
from lit_imgproc.inputs import InputSpec

T = TypeVar("T")
R = TypeVar("R")

QUALITY, CHROMA = 90, "420"
"""Of JPEGs. At 95 they differ by 1.6 grey levels, not 2.2, and take 17 % longer to decode."""
PART_IMAGES = 1024
"""So many images are put together at once."""
THREADS = 32


@dataclass(frozen=True)
class Form:
    """What is kept of an image.

    Args:
        kind: Its pixels, or a JPEG of them.
        spec: What evaluation does to an image.
    """

    kind: Literal["jpeg", "raw"]
    spec: InputSpec

    @property
    def name(self) -> str:
        """All that it depends on, in a word that can name a folder."""
        spec = self.spec
        size = spec.size
        if spec.resize == "crop":
            size = (int(size[0] / spec.crop_fraction), int(size[1] / spec.crop_fraction))
        scaled = f"{size[0]}x{size[1]}-{spec.interpolation}-" if spec.resize != "none" else ""
        coded = f"jpeg{QUALITY}-{CHROMA}" if self.kind == "jpeg" else "raw"
        return f"{coded}-{spec.resize}-{scaled}{spec.channels}"

    def pack(self, root: Path, name: str) -> Packed:
        """Read, scale and encode one file; what is wrong with it is part of the answer."""
        path = os.path.join(root, name)
        try:
            encoded = read_encoded(path, self.spec.channels)
            image = self.spec.uncut(encoded.decode())
        except DataError as error:
            return Packed(b"", problem=str(error).removeprefix(path))
        digest = hashlib.sha256(encoded.data).digest()
        stored, original = image.shape[:2], encoded.shape[:2]
        return Packed(self._encode(image), stored, original, digest)

    def _encode(self, image: NDArray[np.uint8]) -> bytes | memoryview:
        image = np.ascontiguousarray(image)
        if self.kind == "raw":
            return image.reshape(-1).data
        colours, chroma = ("RGB", CHROMA) if image.shape[2] == 3 else ("GRAY", "Gray")
        jpeg: bytes = simplejpeg.encode_jpeg(image, QUALITY, colours, chroma)
        return jpeg

    def unpack(self, pack: Pack, index: int, path: str) -> NDArray[np.uint8] | Encoded:
        """An image of a pack: its pixels ``[H,W,C]``, which cannot be written to, or its JPEG.

        Args:
            pack: Where it is, without a problem.
            index: Its number there.
            path: The file that it is a copy of.

        Raises:
            DataError: It is no JPEG.
        """
        if self.kind == "raw":
            return pack.pixels(index, self.spec.channels)
        return Encoded(pack.data(index), path, self.spec.channels)


def load(root: Path, names: Sequence[str], form: Form) -> Pack:
    """Decode files into memory; workers that are forked from this process share it.

    Returns:
        A pack in the order of ``names``, with a problem for each file that cannot be used.
    """
    images = ahead(lambda name: form.pack(root, name), names)
    # Part by part, so that never more than one part of it all is there twice.
    parts = []
    while some := list(islice(images, PART_IMAGES)):
        parts.append(Part.of(some))
    numbers = np.arange(len(names))
    return Pack(parts, numbers // PART_IMAGES, numbers % PART_IMAGES)


def ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map`` in threads, which are no further ahead than they need to be."""
    threads = available_cpus(limit=THREADS)
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
