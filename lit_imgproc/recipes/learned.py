"""What the network of a run has learned, as sections of a page."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lit_imgproc import pictures
from lit_imgproc.errors import UserError
from lit_imgproc.explain.embeddings import (
    embed,
    embedding_figure,
    neighbours,
    project,
    variance_share,
)
from lit_imgproc.explain.features import (
    LayerActivity,
    dead_filters,
    feature_maps,
    feature_picture,
    filter_grid,
    filters,
)
from lit_imgproc.explain.maximisation import channel, maximise
from lit_imgproc.models.base import Batch, ImageModule
from lit_imgproc.models.targets import Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lit_imgproc.recipes.run import Run

Section = tuple[str, str, pictures.Picture | bytes]
"""A heading, a sentence or two, and a picture or the bytes of a PNG file."""

LOOKED_AT = 500
"""So many validation images tell which filters are dead and how images lie to each other."""
MAXIMISED = 16
"""So many classes, or channels of the layer that is explained, are maximised."""


def learned(run: "Run", *, seed: int = 0) -> tuple[list[Section], dict[str, float]]:
    """Look at what a run's network has learned, by its weights and by validation images.

    Returns:
        Sections of a page, and numbers: ``dead_filters``, the share of filters that no image
        activates; ``neighbours``, the share of an image's five nearest that are of its class.

    Raises:
        UserError: the network looks at volumes.
    """
    module: ImageModule = run.predictor().module
    if module.volumetric:
        raise UserError("what networks for volumes have learned is not drawn: leave out --features")
    images, labels = _validation_images(run, module)
    activity = dead_filters(module, images)
    maps = feature_maps(module, images[0][:1])
    sections: list[Section] = [
        (
            "Filters",
            "The weights of the first layer, each scaled on its own; grey is 0.",
            filter_grid(filters(module.network)),
        ),
        (
            "Feature maps",
            "What layers put out for the first validation image: the channels that vary most, each "
            "scaled on its own.",
            feature_picture({name: one[0] for name, one in maps.items()}),
        ),
        *_maximised(module, images[0].shape, seed),
    ]
    numbers = {}
    if activity:
        dead = sum(len(layer.dead) for layer in activity)
        numbers["dead_filters"] = dead / sum(layer.filters for layer in activity)
        sections.append(("Dead filters", _said_of(activity), _png(_activity_figure(activity))))
    embedded, said = _embedded(module, images, labels, seed)
    return sections + embedded, numbers | said


def _validation_images(run: "Run", module: ImageModule) -> tuple[list[Tensor], list[int] | None]:
    """Validation images, spread over the split, in batches of one size; and their labels."""
    data = run.datamodule
    size = len(data.dataset("val"))
    count = min(LOOKED_AT, size)
    chosen = [i * size // count for i in range(count)]
    batches, labels = [], []
    for first in range(0, count, run.reader.batch_size):
        batch: Batch = data.batch("val", chosen[first : first + run.reader.batch_size])
        batch = module.transfer_batch_to_device(batch, module.device, 0)
        images = module.on_after_batch_transfer(batch, 0)["image"]
        batches += [images] if isinstance(images, Tensor) else [image[None] for image in images]
        label = batch.get("label")
        if label is not None and label.ndim == 1:
            labels += label.tolist()
    return batches, labels if len(labels) == count else None


def _maximised(module: ImageModule, shape: Sequence[int], seed: int) -> list[Section]:
    """Pictures of what the network wants to see of classes, or of channels of a layer."""
    size, channels = (shape[2], shape[3]), shape[1]
    if module.localized:
        layer = module.attribution_layer()
        name = next(name for name, one in module.network.named_modules() if one is layer)
        names = [str(k) for k in range(MAXIMISED)]
        unit = channel(module, name, list(range(MAXIMISED)))
        what = f"the first channels of {name}"
    else:
        names = module.class_names[:MAXIMISED]
        unit = module.attribution_fn([Target(k) for k in range(len(names))])
        what = "its classes"
    found = maximise(module, unit, size=size, channels=channels, count=len(names), seed=seed)
    tiles = [
        pictures.caption(pictures.tile(image.numpy()), [name])
        for image, name in zip(found.cpu(), names, strict=True)
    ]
    return [
        (
            "Activation maximisation",
            f"Images found by gradient ascent that excite {what} most. They exaggerate.",
            pictures.grid(tiles),
        )
    ]


def _said_of(activity: Sequence[LayerActivity]) -> str:
    dead = {layer.layer: len(layer.dead) for layer in activity if layer.dead}
    listed = ", ".join(f"{name} {count}" for name, count in dead.items()) or "none"
    return f"Filters that no validation image activates: {listed}."


def _activity_figure(activity: Sequence[LayerActivity]) -> "Figure":
    """Draw for each layer how often its filters are active, and the share that never is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.22 * len(activity)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(activity))
    axes.barh(rows, [layer.active for layer in activity], color="tab:blue", label="active")
    dead = [len(layer.dead) / layer.filters for layer in activity]
    axes.barh(rows, dead, left=[1 - share for share in dead], color="tab:red", label="dead")
    axes.set_yticks(rows, [layer.layer for layer in activity], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of places at which filters are active; share of filters that never are")
    axes.legend(loc="lower right")
    return figure


def _embedded(
    module: ImageModule, images: Sequence[Tensor], labels: list[int] | None, seed: int
) -> tuple[list[Section], dict[str, float]]:
    """Pictures of how the network tells validation images apart, and how well."""
    features = embed(module, images)
    if len(features) < 3:
        return [], {}
    numbers: dict[str, float] = {}
    told = "Not coloured: the images have no single label."
    if labels is not None:
        numbers["neighbours"] = neighbours(features, labels)
        told = (
            f"Of an image's five nearest neighbours, by the cosine of their features, "
            f"{numbers['neighbours']:.1%} are of its class."
        )
    flat = project(features, "pca")
    kept = f"PCA keeps {variance_share(features, flat):.0%} of the variance."
    caution = "t-SNE keeps who is near whom; sizes and distances of its clusters mean nothing."
    names = module.class_names
    drawn = embedding_figure(flat, labels, names, f"PCA of {len(features)} validation images")
    spread = embedding_figure(project(features, "tsne", seed=seed), labels, names, "t-SNE")
    return [
        ("Embeddings", f"{told} {kept}", _png(drawn)),
        ("Embeddings, by t-SNE", caution, _png(spread)),
    ], numbers


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
