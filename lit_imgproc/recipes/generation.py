"""What a generator makes of seeds, written as pictures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import torch
from torch import Tensor
from torchvision.utils import make_grid

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.module import GAN
from lit_imgproc.models.gan.stylegan2_module import StyleGAN2
from lit_imgproc.recipes.explanations import class_number

if TYPE_CHECKING:
    from lit_imgproc.recipes.run import Run

AT_ONCE = 64
"""Images that a generator makes at once."""
GRID, INTERPOLATION, MIXING, PROJECTION = (
    f"{name}.png" for name in ("grid", "interpolation", "mixing", "projection")
)


def generate(
    run: "Run",
    folder: Path,
    *,
    seeds: Sequence[int],
    label: str | int | None,
    truncation: float,
    grid: bool,
    interpolate: int | None,
    mix: Sequence[int] | None,
    project: Path | None,
    steps: int,
    overwrite: bool,
) -> list[Path]:
    """See :meth:`lit_imgproc.recipes.run.Run.generate`."""
    module = run.module
    if not isinstance(module, GAN):
        raise UserError(
            f"run {run.id} generates no images of seeds: it is no GAN but a {type(module).__name__}"
        )
    if (mix is not None or project is not None) and not isinstance(module, StyleGAN2):
        raise UserError(
            f"run {run.id} has no styles to mix or to project an image onto: those are of "
            f"StyleGAN2, and it is a {type(module).__name__}"
        )
    if not seeds:
        raise UserError("there are no seeds to make images of")
    if len(seeds) < 2 and (interpolate is not None or mix is not None):
        raise UserError("there is nothing between one seed and itself: give at least two")
    if project is not None and not project.is_file():
        raise UserError(f"there is no file {project}")
    if label is not None and module.num_classes is None:
        raise UserError(f"run {run.id} makes images of no class on demand: it learned without them")
    number = None if label is None else class_number(module.class_names, label)
    module = module.to("cuda" if torch.cuda.is_available() else "cpu")
    maker = _Maker(module, list(seeds), number, truncation)

    sheets: dict[str, Callable[[], Tensor]] = {}
    if interpolate is not None:
        sheets[INTERPOLATION] = lambda: maker.interpolation(interpolate)
    if mix is not None:
        sheets[MIXING] = lambda: maker.mixing(mix)
    if project is not None:
        sheets[PROJECTION] = lambda: maker.projection(_opened(run, project), steps)
    plain = not sheets
    singles = [] if grid or not plain else [f"seed{seed:04d}.png" for seed in seeds]
    files = [folder / name for name in (*singles, *([GRID] if plain else sheets))]
    for file in files:
        if file.exists() and not overwrite:
            raise UserError(f"{file} is there already: give another folder, or --overwrite")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and images are to be written into a folder")

    folder.mkdir(parents=True, exist_ok=True)
    if plain:
        images = maker.images()
        for name, image in zip(singles, images, strict=False):
            _write(image, folder / name)
        _write(maker.sheet(images), folder / GRID)
    for name, made in sheets.items():
        _write(made(), folder / name)
    return files


def numbers(text: str) -> list[int]:
    """Whole numbers written as ``0-7,12``, in this order.

    Raises:
        UserError: it is written otherwise.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"{text!r}: numbers are written as 0-7, as 3,5,8 or as 0-7,12")
        found += range(int(first), int(last or first) + 1)
    return found


class _Maker:
    """Makes sheets ``[C, H, W]`` in [0, 1] of what a generator makes of seeds.

    Args:
        module: in eval mode, on the device that is to compute.
        seeds: of the images.
        label: of all of them, of a conditional generator; None goes through the classes in turn.
        truncation: see :meth:`~lit_imgproc.models.gan.module.GAN.generate`.
    """

    def __init__(self, module: GAN, seeds: list[int], label: int | None, truncation: float) -> None:
        self.module, self.seeds, self.label = module, seeds, label
        self.truncation = truncation

    def labels(self, seeds: Sequence[int]) -> list[int] | None:
        return None if self.label is None else [self.label] * len(seeds)

    def images(self) -> Tensor:
        """One image a seed."""
        parts = [self.seeds[i : i + AT_ONCE] for i in range(0, len(self.seeds), AT_ONCE)]
        made = [
            self.module.generate(part, labels=self.labels(part), truncation=self.truncation)
            for part in parts
        ]
        return torch.cat(made)

    def sheet(self, images: Tensor) -> Tensor:
        """Images in about as many rows as columns, or in a column for each class."""
        classes = self.module.num_classes if self.label is None else None
        return _grid(images, classes or math.ceil(math.sqrt(len(images))))

    def interpolation(self, steps: int) -> Tensor:
        """A row for each two seeds that follow each other, from the one to the other."""
        rows = []
        for pair in zip(self.seeds, self.seeds[1:], strict=False):
            rows.append(
                self.module.interpolate(
                    pair, steps, labels=self.labels(pair), truncation=self.truncation
                )
            )
        return _grid(torch.cat(rows), steps + 1)

    def mixing(self, layers: Sequence[int]) -> Tensor:
        """A row for each seed of the first half, a column for each of the second."""
        assert isinstance(self.module, StyleGAN2)
        half = len(self.seeds) // 2
        rows, columns = self.seeds[:half], self.seeds[half:]
        cells = self.module.mix(
            rows, columns, layers, labels=self.labels(self.seeds), truncation=self.truncation
        )
        heads = self.images()
        corner = torch.ones_like(heads[:1])
        lines = [torch.cat([corner, heads[half:]])]
        lines += [torch.cat([head[None], line]) for head, line in zip(heads, cells, strict=False)]
        return _grid(torch.cat(lines), len(columns) + 1)

    def projection(self, image: Tensor, steps: int) -> Tensor:
        """The image, and beside it what comes nearest to it."""
        assert isinstance(self.module, StyleGAN2)
        found = self.module.project(image, steps=steps, label=self.label)
        return _grid(torch.stack([image.to(found.image.device), found.image]), 2)


def _opened(run: "Run", path: Path) -> Tensor:
    """An image file, prepared as for evaluation: ``[C, H, W]`` in [0, 1]."""
    pixels = torch.tensor(run.input_spec(run.reader.open(path))).permute(2, 0, 1)
    image: Tensor = run.module.on_after_batch_transfer({"image": pixels[None]}, 0)["image"][0]
    return image


def _grid(images: Tensor, columns: int) -> Tensor:
    """Lay images ``[N, C, H, W]`` out row by row, on white."""
    sheet: Tensor = make_grid(images.float(), nrow=columns, padding=2, pad_value=1.0)
    return sheet


def _write(image: Tensor, path: Path) -> None:
    """Write ``[C, H, W]`` in [0, 1] as a PNG file."""
    pixels = image.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    cv2.imwrite(str(path), pixels[:, :, ::-1])  # OpenCV's order of colours
