"""Why a run answers as it does: explained, written to files, and added to its record."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_imgproc import checkpoints
from lit_imgproc.callbacks.samples import fixed_samples
from lit_imgproc.errors import UserError
from lit_imgproc.explain.drawing import picture
from lit_imgproc.explain.explanation import Report
from lit_imgproc.explain.methods import METHODS, default_methods, known_method
from lit_imgproc.explain.page import page
from lit_imgproc.explain.report import Progress, explain
from lit_imgproc.geometry import boxes_to_sample
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.models.targets import Box
from lit_imgproc.recipes.learned import learned
from lit_imgproc.recipes.predictions import known_name, read_coco
from lit_imgproc.recipes.predictor import Images
from lit_imgproc.tracking.records import add_artifacts, add_metrics

if TYPE_CHECKING:
    from lit_imgproc.recipes.run import Run

PAGE = "index.html"
BACKGROUND = 16
"""So many training images stand for the data in SHAP's methods."""


def explain_run(
    run: "Run",
    images: Images | None,
    *,
    methods: Sequence[str] | None,
    target: str | int | None,
    box: Box | None,
    annotations: Path | None,
    count: int,
    measure: bool,
    seed: int,
    progress: Progress,
) -> Report:
    """See :meth:`lit_imgproc.recipes.run.Run.explain`."""
    predictor = run.predictor(batch_size=1)
    module = predictor.module
    chosen = [known_method(name) for name in methods or default_methods(module)]
    label = None if target is None else class_number(module.class_names, target)
    if images is None and annotations is not None:
        raise UserError("annotations are of image files: name the files, too")
    if images is None:
        looks = _one_by_one(module, fixed_samples(run.datamodule, count))
    else:
        looks = predictor.looks(images)
    if annotations is not None:
        looks = _annotated(looks, annotations, module.class_names)
    background = None
    if any(METHODS[method].file == "shapley" for method in chosen):
        background = _background(run, module)
    return explain(
        module,
        looks,
        chosen,
        label=label,
        box=box,
        background=background,
        measure=measure,
        seed=seed,
        progress=progress,
    )


def class_number(class_names: Sequence[str], target: str | int) -> int:
    """The number of a class that is given by its name or its number.

    Raises:
        UserError: There is no such class.
    """
    if target in class_names:
        return class_names.index(str(target))
    if str(target).isdecimal() and int(target) < len(class_names):
        return int(target)
    near = get_close_matches(str(target), class_names, n=3, cutoff=0.4) or class_names[:10]
    raise UserError(
        f"there is no class {target!r}: the run has {len(class_names)} classes, such as "
        f"{', '.join(near)}"
    )


def _one_by_one(module: ImageModule, batch: Batch) -> Iterator[Batch]:
    moved = module.transfer_batch_to_device(batch, module.device, 0)
    moved = module.on_after_batch_transfer(moved, 0)
    for i in range(len(moved["id"])):
        yield {key: values[i : i + 1] for key, values in moved.items() if key != "skipped"}


def _annotated(looks: Iterator[Batch], path: Path, class_names: Sequence[str]) -> Iterator[Batch]:
    """Looks at files with the boxes of a COCO file, whose classes have names of the run's."""
    given = read_coco(path)
    known = {str(image["file_name"]): image["id"] for image in given["images"]}
    names = {one["id"]: str(one["name"]) for one in given["categories"]}
    if not set(names.values()) & set(class_names):
        raise UserError(
            f"{path}: none of its categories ({', '.join(names.values())}) is a class of the run "
            f"({', '.join(class_names)})"
        )
    for look in looks:
        number = known[known_name(path, known, look["id"][0])]
        here = [one for one in given.get("annotations", []) if one["image_id"] == number]
        here = [one for one in here if names[one["category_id"]] in class_names]
        corners = np.array([one["bbox"] for one in here], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = [class_names.index(names[one["category_id"]]) for one in here]
        boxes = torch.from_numpy(boxes_to_sample(corners, look["geometry"][0]))
        yield look | {"boxes": [boxes], "labels": [torch.tensor(labels, dtype=torch.int64)]}


def _background(run: "Run", module: ImageModule) -> Tensor:
    """Training images without augmentation, spread over the split, of one size: ``[N, C, *S]``."""
    size = len(run.datamodule.dataset("train"))
    count = min(BACKGROUND, size)
    batch = run.datamodule.batch("train", [i * size // count for i in range(count)])
    batch = module.transfer_batch_to_device(batch, module.device, 0)
    images = module.on_after_batch_transfer(batch, 0)["image"]
    if isinstance(images, Tensor):
        return images
    mode = "trilinear" if module.volumetric else "bilinear"
    one_size = images[0].shape[1:]
    return torch.cat([F.interpolate(image[None], one_size, mode=mode) for image in images])


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Look, before a network works for minutes, whether a page may be written.

    Raises:
        UserError: There is one, and it is not to be replaced.
    """
    if (folder / PAGE).exists() and not overwrite:
        raise UserError(f"{folder / PAGE} is there already: give another folder, or --overwrite")


def write(run: "Run", report: Report, folder: Path, *, features: bool, overwrite: bool) -> Path:
    """See :meth:`lit_imgproc.recipes.run.Run.write_explanations`."""
    check_free(folder, overwrite=overwrite)
    sections, told = learned(run) if features else ([], {})
    made = datetime.now()
    facts = {
        "run": f"{run.record.info.run_name} ({run.id})",
        "recipe": str(run.record.data.tags.get("recipe", "")),
        "checkpoint": run.checkpoint.name,
        "made": f"{made:%Y-%m-%d %H:%M}",
    }
    title = f"Explanations of {(run.recipe.get('recipe') or {}).get('title') or facts['run']}"
    names = run.module.class_names
    html = page(report, title=title, facts=facts, class_names=names, sections=sections)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / PAGE, folder / "numbers.json"]
    files[0].write_text(html, encoding="utf-8")
    files[1].write_text(json.dumps(numbers(report) | told, indent=2) + "\n")
    for number, one in enumerate(report.explanations):
        files.append(folder / f"{number:03d}-{Path(one.id).stem}.png")
        cv2.imwrite(str(files[-1]), picture(one, report)[:, :, ::-1])
    # These alone: the folder may hold files of its owner's.
    add_artifacts(run.record, files, f"explanations/{made:%Y%m%d-%H%M%S}", uri=run.uri)
    metrics = {f"explain/{name}": value for name, value in (_metrics(report) | told).items()}
    step = checkpoints.read(run.checkpoint)["global_step"]
    add_metrics(run.record, metrics, step=step, uri=run.uri)
    return folder / PAGE


def numbers(report: Report) -> dict[str, Any]:
    """What was measured, as plain data."""
    images = [
        {"id": one.id, "target": one.target_name, "truth": one.truth, "numbers": one.numbers}
        for one in report.explanations
    ]
    similarity = {
        method: [value if np.isfinite(value) else None for value in row]
        for method, row in report.similarity.items()
    }
    return {
        "images": images,
        "means": report.means,
        "similarity": similarity,
        "failed": report.failed,
        "agreement": report.agreement,
    }


def _metrics(report: Report) -> dict[str, float]:
    """The numbers of a report by the names that MLflow knows them by.

    With dots: MLflow's page makes a section of whatever stands before the last slash.
    """
    metrics = {
        f"{method}.{name}": value
        for method, means in report.means.items()
        for name, value in means.items()
    }
    metrics |= {f"{method}.similarity": row[-1] for method, row in report.similarity.items() if row}
    for first, row in report.agreement.items():
        # Each pair once: the table of agreement is symmetric.
        metrics |= {f"{first}.agreement.{other}": v for other, v in row.items() if first < other}
    return {name: value for name, value in metrics.items() if np.isfinite(value)}
