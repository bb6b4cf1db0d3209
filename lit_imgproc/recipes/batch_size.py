"""``data.batch_size=auto``: the largest batch whose training steps fit into memory."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from lit_imgproc.errors import UserError
from lit_imgproc.recipes.memory import GIB, main_memory, what_to_lower
from lit_imgproc.recipes.text import dump

LARGEST = 1024
"""Images of one process. Much larger batches learn differently, and hardly faster."""
SHARE = 0.8
"""Of free main memory; the rest is for the processes that load images, and for the system."""
TRIED_ON_CPU = 64
"""Images. On a CPU memory grows by a line with their number, and steps with more take minutes."""
SURE = 128 * 2**20
"""Bytes. Two sizes that differ by so much give that line, whatever the allocator keeps back."""


def find_batch_size(recipe: dict[str, Any]) -> int:
    """The largest batch with which a recipe can be trained on one of its devices.

    Whole training steps are run for it in another process, on real images, in the recipe's
    precision, with its optimizer and its average of the weights. The answer is a multiple of 8 or
    a smaller power of two, at most :data:`LARGEST` and the training images of a process. Prints a
    line that says what was found.

    Args:
        recipe: a checked recipe; the batch size in it is not looked at.

    Raises:
        UserError: not even the smallest batch fits, or the recipe fails for another reason, or
            this process is one of several ranks, which could find different sizes.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise UserError(
            "data.batch_size=auto is found before ranks are started: write the recipe with "
            "`lit-imgproc check RECIPE --frozen frozen.yaml` and start the ranks with that file"
        )
    with tempfile.TemporaryDirectory(prefix="lit_imgproc-") as folder:
        file = Path(folder, "recipe.yaml")
        file.write_text(dump(recipe))
        with closing(_Trials(file)) as trials:
            trials.start()
            size = largest_that(trials.fits, trials.smallest, trials.largest)
    if size is None:
        raise UserError(
            f"data.batch_size=auto: not even {trials.smallest} images train in "
            f"{trials.memory}; what needs less: {'; '.join(what_to_lower(recipe))}"
        )
    most = f" (the most that is tried with {trials.images} training images)"
    print(
        f"data.batch_size=auto: {size}{most if size + 8 > trials.largest else ''} fits into "
        f"{trials.memory}; the learning rate is as it was, though the best one depends on the "
        "batch size",
        flush=True,
    )
    return size


def largest_that(fits: Callable[[int], bool], smallest: int, largest: int) -> int | None:
    """Double ``smallest``, a power of two, while it fits; then halve the gap in multiples of 8."""
    good, size = None, smallest
    while size <= largest and fits(size):
        good, size = size, 2 * size
    if good is None or good < 8:
        return good
    low, high = good // 8, min(size // 8, largest // 8 + 1)  # eights; `high` does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(8 * middle) else (low, middle)
    return 8 * low


def line_through(measured: dict[int, int], size: int) -> float:
    """The bytes that batches of ``size`` should take, by the last two sizes that were measured.

    Never less for more images. From one measurement alone it errs upwards: weights count as images.
    """
    (a, bytes_a), (b, bytes_b) = sorted(measured.items())[-2:]
    return bytes_b + max(0, bytes_b - bytes_a) / (b - a) * (size - b)


class _Trials:
    """Batch sizes tried in a process of their own, which ends with each that does not fit.

    So memory that a GPU does not get back stays there, and so does a kill by the system.

    Args:
        recipe: the file that the process reads.
    """

    def __init__(self, recipe: Path) -> None:
        self.recipe = recipe
        self.errors = recipe.with_suffix(".stderr")
        self.measured: dict[int, int] = {}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Learn on which device the recipe trains, and from how many images to how many."""
        free = main_memory().free  # before the process takes of it
        said = self._launch()
        if "device" not in said:
            raise UserError("data.batch_size=auto: memory ran out before the first training step")
        self.on_cpu = "limit" not in said
        self.limit = int(SHARE * free / said["ranks"]) if self.on_cpu else said["limit"]
        self.memory = f"{self.limit / GIB:.1f} GiB of {said['device']}"
        self.images = said["images"]
        self.smallest = said["smallest"]
        self.largest = max(self.smallest, min(LARGEST, said["largest"]))
        self.measured = {0: said["idle"]}

    def fits(self, size: int) -> bool:
        """Whether training steps with batches of ``size`` images stay within the limit."""
        if self.on_cpu and len(self.measured) > 1:
            # Believed rather than tried: a machine that swaps is of no use to anybody.
            fits = line_through(self.measured, size) <= self.limit
            before, last = sorted(self.measured.items())[-2:]
            sure = before[0] > 0 and last[1] - before[1] >= SURE
            if not fits or sure or size > TRIED_ON_CPU:
                return fits
        if self._process is None:
            self._launch()
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it was killed: the answer says so
            self._process.stdin.write(f"{size}\n")
            self._process.stdin.flush()
        used = self._answer().get("bytes")
        if used is None or used > self.limit:
            self.close()
            return False
        self.measured[size] = used
        return True

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            with self._process:  # waits for it, and closes its pipes
                self._process = None

    def _launch(self) -> dict[str, Any]:
        """Start the process; what it says of the recipe."""
        command = [sys.executable, "-m", "lit_imgproc.recipes.trial", str(self.recipe)]
        pipe = subprocess.PIPE
        with self.errors.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=errors, text=True
            )
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """What the process says next; nothing where memory ran out.

        Raises:
            UserError: it failed for another reason, with the smallest batch or before.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        said: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        if not said and self._process.wait() != -signal.SIGKILL:
            said = {"error": (self.errors.read_text().splitlines() or ["it ended"])[-1]}
        # What trains with fewer images does not fail for the recipe: there are limits to a kernel.
        if "error" in said and len(self.measured) < 2:
            raise UserError(said["error"])
        return said
