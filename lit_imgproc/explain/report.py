"""Images explained, and the explanations measured."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_imgproc.explain import faithfulness, sanity
from lit_imgproc.explain.explanation import Explanation, Report
from lit_imgproc.explain.methods import Method, attribution_maps, looks_at_once, takes_many_looks
from lit_imgproc.explain.undisturbed import undisturbed
from lit_imgproc.geometry import boxes_to_sample
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.models.targets import Box, Target

Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
"""Passes an iterable on while it shows how far it is: of what, and of how many if known."""
RANDOM = "random"
"""What a map of noise is called, which measures are compared with."""
CHECKED = 8
"""So many images are looked at with random weights: half a dozen tell what hundreds would."""


def explain(
    module: ImageModule,
    batches: Iterable[Batch],
    methods: Sequence[Method],
    *,
    label: int | None = None,
    box: Box | None = None,
    background: Tensor | None = None,
    measure: bool = True,
    seed: int = 0,
    progress: Progress = lambda values, what, total: values,
) -> Report:
    """Explain what a module answers of images, and measure how faithful the maps are.

    Args:
        module: in eval mode, on the device that is to compute. It is left as it was.
        batches: of one image each, prepared as for evaluation and on that device. What they have
            of ``label``, ``mask``, or ``boxes`` and ``labels``, is compared with.
        methods: whose maps are made.
        label: the class to explain; None takes the network's answer to each image.
        box: where to explain it, xyxy in pixels of the files; None takes where it is found.
        background: training images ``[N, C, *S]``, for the SHAP methods.
        measure: whether to measure: deletion and insertion cost some 60 looks at each image and
            method, the sanity check one to a dozen maps more of :data:`CHECKED` images.
        seed: of everything that is drawn at random.
        progress: passes images and methods on while it shows how far it is.

    Raises:
        UserError: the module or a method has nothing to explain here.
    """
    explanations, explained = [], []
    for batch in progress(batches, "explained", None):
        images = batch["image"]
        with torch.inference_mode():
            (prediction,) = module.predict_step(batch, 0)
        (target,) = module.attribution_targets(batch, label, _in_sample(batch, box))
        found = Explanation(
            id=batch["id"][0],
            image=images[0].float().cpu().numpy(),
            prediction=prediction,
            target=target,
            target_name=_class_name(module, target),
            truth=_truth(module, batch),
        )
        explanations.append(found)
        if target is None:
            continue
        explained.append((images, target))
        heat: dict[str, Tensor] = {
            method: attribution_maps(
                module, images, [target], method, background=background, seed=seed
            )[0]
            for method in methods
        }
        found.maps = {method: one.cpu().numpy() for method, one in heat.items()}
        if measure:
            generator = torch.Generator().manual_seed(seed)
            heat[RANDOM] = torch.rand(images.shape[2:], generator=generator).to(images.device)
            found.numbers = _measured(module, batch, target, heat)
    report = Report(explanations)
    if measure:
        report.means = _means(explanations)
        maps = [{name: torch.from_numpy(m) for name, m in one.maps.items()} for one in explanations]
        report.agreement = faithfulness.agreement(
            {method: [one[method] for one in maps if method in one] for method in methods}
        )
        for method in progress(methods, "checked", len(methods)):
            report.similarity[method] = _similarity(module, explained, method, background, seed)
        report.failed = [
            method for method, row in report.similarity.items() if row and row[-1] >= sanity.FAILED
        ]
    return report


def _measured(
    module: ImageModule, batch: Batch, target: Target, heat: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """By method, how faithful its map of one image is."""
    image, there = batch["image"][0], _truth_mask(batch, target)
    confidence = module.confidence_fn(target)
    numbers = {}
    with undisturbed(module):
        for method, one in heat.items():
            curves = faithfulness.deletion_and_insertion(
                confidence, image, one, batch_size=looks_at_once(image[None])
            )
            numbers[method] = {
                "deletion": curves.deletion_auc,
                "insertion": curves.insertion_auc,
            }
            if there is not None:
                numbers[method]["pointing"] = faithfulness.pointing_game(one, there)
    return numbers


def _means(explanations: Sequence[Explanation]) -> dict[str, dict[str, float]]:
    """By method, the means over all images, with the interval of the pointing game."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in explanations:
        for method, numbers in one.numbers.items():
            for name, value in numbers.items():
                values[method][name].append(value)
    means: dict[str, dict[str, float]] = {}
    for method, columns in values.items():
        means[method] = {name: float(np.mean(column)) for name, column in columns.items()}
        if "pointing" in columns:
            hits = columns["pointing"]
            low, high = faithfulness.interval(sum(hits), len(hits))
            means[method] |= {"pointing_low": low, "pointing_high": high}
    return means


def _similarity(
    module: ImageModule,
    explained: Sequence[tuple[Tensor, Target]],
    method: Method,
    background: Tensor | None,
    seed: int,
) -> list[float]:
    """How alike the maps of the trained network are to those of one with random weights.

    Methods that take many looks are checked with all layers random alone, on fewer images.
    """
    explained = explained[: CHECKED // 2 if takes_many_looks(method) else CHECKED]
    if not explained:
        return []

    def maps() -> list[Tensor]:
        return [
            attribution_maps(module, images, [target], method, background=background, seed=seed)[0]
            for images, target in explained
        ]

    with undisturbed(module):
        images = [one[0] for one, _ in explained]
        shares = (1.0,) if takes_many_looks(method) else (0.25, 0.5, 0.75, 1.0)
        return sanity.sanity_check(module, maps, images=images, shares=shares, seed=seed)


def _in_sample(batch: Batch, box: Box | None) -> Box | None:
    """A box in pixels of the file, in those of the image that the network sees."""
    if box is None or "geometry" not in batch:
        return box
    left, top, right, bottom = boxes_to_sample(np.array([box]), batch["geometry"][0])[0].tolist()
    return left, top, right, bottom


def _class_name(module: ImageModule, target: Target | None) -> str:
    return "" if target is None else module.class_names[target.label]


def _truth(module: ImageModule, batch: Batch) -> str:
    """The name of the true class, where an image has one."""
    label = batch.get("label")
    return module.class_names[int(label[0])] if label is not None and label.ndim == 1 else ""


def _truth_mask(batch: Batch, target: Target) -> Tensor | None:
    """Where the target's class truly is in the image, bool ``[*S]``; None if that is unknown.

    None as well where it is nowhere: no map could hit it.
    """
    image = batch["image"][0]
    if "mask" in batch:
        there = batch["mask"][0] == target.label
    elif "boxes" in batch:
        there = torch.zeros(image.shape[1:], dtype=torch.bool, device=image.device)
        right = batch["labels"][0] == target.label
        for left, top, right_edge, bottom in batch["boxes"][0][right].round().int().tolist():
            there[top:bottom, left:right_edge] = True
    else:
        return None
    return there if there.any() else None
