"""Photographs in the style of a picture: by optimisation, or by the network of a run."""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from lit_imgproc.data.decode import IMAGE_SUFFIXES, read_image
from lit_imgproc.errors import UserError
from lit_imgproc.models.style_transfer import colour
from lit_imgproc.models.style_transfer.base import as_bytes, from_bytes
from lit_imgproc.models.style_transfer.gatys import gatys
from lit_imgproc.models.style_transfer.module import ENCODED, AdaIN, StyleTransfer
from lit_imgproc.models.style_transfer.networks import adaptive_instance_norm
from lit_imgproc.models.style_transfer.whole import redraw, redraw_as
from lit_imgproc.models.vgg import Filters
from lit_imgproc.recipes.predictions import outputs
from lit_imgproc.recipes.run import Run

Colours = Literal["luminance", "histogram"]
"""How the colours of the content are kept: the style is transferred in luminance only, or its
colours are given the mean and covariance of the content's (arXiv 1606.05897)."""
GATYS_SIDE = 512
"""The longer side in pixels of what is optimised, unless another is asked for."""
MEASURED_SIDE = 512
"""The longer side at which the losses of what a network made are measured."""

Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How photographs are redrawn.

    Attributes:
        steps: of the optimisation, at each of its resolutions.
        size: the longer side of the result in pixels; None takes that of the photograph for the
            network of a run, and :data:`GATYS_SIDE` or less for the optimisation.
        keep_colours: see :data:`Colours`; None takes those of the style.
        alpha: how strong the style is, from 0 to 1, of a network for any style.
        filters: of VGG, for the optimisation; a run has its own.
    """

    steps: int = 100
    size: int | None = None
    keep_colours: Colours | None = None
    alpha: float = 1.0
    filters: Filters = "vgg16_hed"


def stylize(
    content: Tensor,
    styles: Sequence[Tensor],
    run: Run | None,
    settings: Settings,
    progress: Tick = lambda done, total: None,
) -> tuple[Tensor, dict[str, Any]]:
    """Redraw a photograph.

    Args:
        content: ``[3, H, W]`` in [0, 1].
        styles: pictures ``[3, h, w]`` in [0, 1]; none for the network of one style, one for the
            optimisation, and for a network of any style several, between which the result lies.
        run: of ``style_transfer`` or ``adain``; None optimises the pixels.
        settings: how.
        progress: is told how much is done, and of how much.

    Returns:
        ``[3, H, W]`` in [0, 1], and how it went: ``losses`` of the result, ``seconds``, and of the
        optimisation ``history``, the losses of each look at the picture.

    Raises:
        UserError: what is given does not fit the run.
    """
    check(run, len(styles), settings)
    side = settings.size or (max(content.shape[1:]) if run else GATYS_SIDE)
    content = scaled(content, side if settings.size else min(side, max(content.shape[1:])))
    shown = content
    if settings.keep_colours == "luminance":
        shown = colour.luminance(content)
        styles = [colour.match_luminance(one, content) for one in styles]
    elif settings.keep_colours == "histogram":
        styles = [colour.match_colours(one, content).clamp(0, 1) for one in styles]
    start = time.perf_counter()
    said: dict[str, Any] = {}
    if run is None:
        style = scaled(styles[0], max(shown.shape[1:]))
        result = gatys(
            shown, style, filters=settings.filters, steps=settings.steps, progress=progress
        )
        made, said["history"] = result.image, result.losses
        losses: dict[str, float] = {k: v for k, v in result.losses[-1].items() if k != "height"}
    else:
        with torch.inference_mode():
            made, losses = _by_network(run, shown, styles, settings, progress)
    if settings.keep_colours == "luminance":
        made = colour.with_colours_of(made, content)
    seconds = time.perf_counter() - start
    return made, {"losses": losses, "seconds": round(seconds, 3), **said}


def _by_network(
    run: Run, content: Tensor, styles: Sequence[Tensor], settings: Settings, progress: Tick
) -> tuple[Tensor, dict[str, float]]:
    module = run.module.to("cuda" if torch.cuda.is_available() else "cpu")
    side = min(MEASURED_SIDE, max(content.shape[1:]))

    def small(image: Tensor) -> Tensor:
        return scaled(image, side)[None].to(module.device)

    if isinstance(module, StyleTransfer):
        made = redraw(module, content, progress=progress)
        parts = module.compare(small(made), small(content))
    else:
        assert isinstance(module, AdaIN)
        pictures = [one[None].to(module.device) for one in styles]
        style = module.style_of(pictures, [1 / len(styles)] * len(styles))
        made = redraw_as(module, content, style, alpha=settings.alpha, progress=progress)
        target = adaptive_instance_norm(module.encode(small(content)), style[ENCODED[-1]])
        parts = module.compare(small(made), target, style)
    return made, {name: float(value) for name, value in parts.items()}


def check(run: Run | None, styles: int, settings: Settings) -> None:
    """Refuse what does not fit together.

    Args:
        run: as of :func:`stylize`.
        styles: how many pictures of styles there are.
        settings: as of :func:`stylize`.

    Raises:
        UserError: it does not.
    """
    if run is None:
        if styles != 1:
            raise UserError("without --run there is one --style: the picture whose style is wanted")
        return
    if isinstance(run.module, StyleTransfer):
        if styles:
            raise UserError(
                f"run {run.id[:8]} knows one style, which it was trained for: leave --style out"
            )
        if settings.keep_colours == "histogram":
            raise UserError(
                "--keep-colours histogram changes the style, which this run has learned already: "
                "take --keep-colours luminance"
            )
    elif not isinstance(run.module, AdaIN):
        raise UserError(
            f"run {run.id[:8]} is no style transfer ({type(run.module).__name__}): name a run of "
            "the module style_transfer or adain"
        )
    elif not styles:
        raise UserError(f"run {run.id[:8]} redraws in any style: give --style a picture")


def stylize_files(
    contents: Sequence[Path],
    folder: Path,
    *,
    styles: Sequence[Path] = (),
    run: Run | None = None,
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Iterable[dict[str, Any]]:
    """Redraw files, one after another, each to ``NAME.png`` with how it went in ``NAME.json``.

    Args:
        contents: photographs, and folders to search.
        folder: where to write.
        styles: pictures of styles; see :func:`stylize`.
        run: see :func:`stylize`.
        settings: how; None takes what :class:`Settings` has.
        overwrite: whether files may be there already, other than the photographs.
        progress: is told of which file how much is done, and of how much.

    Yields:
        What is in the JSON file, once both are written.

    Raises:
        UserError: there is a file already, a file cannot be read, or something does not fit.
    """
    settings = settings or Settings()
    files = _files(contents)
    check(run, len(styles), settings)
    paths = outputs(files, folder, ".png", overwrite)
    outputs(files, folder, ".json", overwrite)
    pictures = [_read(path) for path in styles]
    for file, path in zip(files, paths, strict=True):
        tell = partial(progress, file.name)
        made, said = stylize(_read(file), pictures, run, settings, tell)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.cvtColor(as_bytes(made[None])[0], cv2.COLOR_RGB2BGR))
        answer = {
            "content": str(file),
            "styles": [str(one) for one in styles],
            "run_id": run.id if run else None,
            "image": str(path),
            "size": list(made.shape[1:]),
            "settings": asdict(settings),
            **said,
        }
        path.with_suffix(".json").write_text(json.dumps(answer, indent=2) + "\n")
        yield answer


def scaled(image: Tensor, side: int) -> Tensor:
    """An image ``[3, H, W]`` whose longer side has so many pixels."""
    height, width = image.shape[1:]
    factor = side / max(height, width)
    if factor == 1:
        return image
    size = (max(1, math.floor(width * factor + 0.5)), max(1, math.floor(height * factor + 0.5)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    pixels = cv2.resize(image.permute(1, 2, 0).contiguous().numpy(), size, interpolation=how)
    return torch.from_numpy(np.asarray(pixels)).permute(2, 0, 1).clamp(0, 1)


def _files(contents: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in contents:
        if not path.exists():
            raise UserError(f"there is no file or folder {path}")
        inside = [path]
        if path.is_dir():
            inside = sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UserError(f"the folder {path} holds no images")
        found += inside
    return found


def _read(path: Path) -> Tensor:
    return from_bytes(read_image(path, 3))
