"""What a network makes of images as a whole: points, near each other where it sees likes."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.explain.undisturbed import undisturbed
from lit_imgproc.models.backbones import head_modules
from lit_imgproc.models.base import ImageModule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Features = NDArray[np.float32]
TSNE_DIMENSIONS = 50
"""As many principal components does t-SNE see: the rest is mostly noise, and costs time."""
MOST_NAMED = 20
"""With more classes than this a colour bar stands for their names."""


def embed(module: ImageModule, batches: Iterable[Tensor]) -> Features:
    """Return what a network knows of images before it answers, ``[N, D]``, in eval mode.

    Of a classifier that is the input of its head; of what finds objects or regions, the mean over
    all places of the layer that is explained.

    Args:
        module: is left as it was.
        batches: of images ``[B, C, *S]`` in [0, 1].

    Raises:
        UserError: there is no image, the network does not say what its head is, or it looks at
            parts of images only.
    """
    network = module.network
    seen: list[Tensor] = []
    found: list[Tensor] = []

    def before(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if not seen:  # the first head of several
            seen.append(_pooled(args[0]))

    def after(layer: nn.Module, args: object, output: Tensor) -> None:
        seen.append(_pooled(output if output.ndim == 5 else module.feature_map(output)))

    if module.localized:
        handles = [module.attribution_layer().register_forward_hook(after)]
    else:
        # A name may be of a head that this network was built without.
        heads = [m for name, m in network.named_modules() if name in head_modules(network)]
        handles = [head.register_forward_pre_hook(before) for head in heads]
    try:
        for images in batches:
            seen.clear()
            with undisturbed(module):
                module.attribution_fn()(images.to(module.device))
            if [len(one) for one in seen] != [len(images)]:
                raise UserError(
                    f"{type(network).__name__} looks at parts of images and not at each as a "
                    "whole: there is no one embedding of an image"
                )
            found.append(seen[0].float().cpu())
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError("there are no images to embed")
    return torch.cat(found).numpy()


def project(
    features: NDArray[np.floating], method: Literal["pca", "tsne"], *, seed: int = 0
) -> NDArray[np.float64]:
    """Lay embeddings out in the plane.

    Args:
        features: ``[N, D]``, 3 images and 2 features at least.
        method: ``pca`` keeps distances as far as two dimensions can, see :func:`variance_share`.
            ``tsne`` (van der Maaten & Hinton, JMLR 9, 2008) keeps who is whose neighbour; sizes of
            clusters and distances between them mean nothing.
        seed: of what is drawn at random.

    Returns:
        ``[N, 2]``; all zero where the images do not differ.

    Raises:
        UserError: too few images or features.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = np.asarray(features, np.float64)
    count, dimensions = values.shape
    if count < 3 or dimensions < 2:
        raise UserError(
            f"{count} images with {dimensions} features cannot be laid out in the plane: at least "
            "3 images and 2 features are needed"
        )
    if not np.ptp(values, axis=0).any():
        return np.zeros((count, 2))
    points: NDArray[np.float64]
    if method == "pca":
        points = PCA(2, random_state=seed).fit_transform(values)
        return points
    if min(count, dimensions) > TSNE_DIMENSIONS:
        values = PCA(TSNE_DIMENSIONS, random_state=seed).fit_transform(values)
    perplexity = min(30.0, (count - 1) / 3)
    layout = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    points = layout.fit_transform(values)
    return points.astype(np.float64)


def variance_share(features: NDArray[np.floating], points: NDArray[np.floating]) -> float:
    """Return the share of the variance of embeddings that their PCA in the plane keeps.

    Args:
        features: ``[N, D]``.
        points: ``[N, 2]``, of :func:`project` by ``pca``.
    """
    whole = np.asarray(features, np.float64).var(0).sum()
    return float(points.var(0).sum() / whole) if whole else 0.0


def neighbours(features: NDArray[np.floating], labels: Sequence[int], k: int = 5) -> float:
    """Return the share of the k nearest neighbours of an image that are of its class.

    It is measured where the embeddings are, by their cosine, and is what a picture of them in the
    plane only suggests. Guessing reaches the sum of the squared shares of the classes.

    Args:
        features: ``[N, D]``.
        labels: ``[N]``.
        k: neighbours, as many as there are at most; an image is not its own.

    Raises:
        UserError: there is no other image.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(features) < 2:
        raise UserError("neighbours are other images: at least 2 are needed")
    search = NearestNeighbors(n_neighbors=min(k, len(features) - 1), metric="cosine")
    # Asked for no points, scikit-learn leaves each out of its own neighbours.
    nearest = search.fit(features).kneighbors(return_distance=False)
    classes = np.asarray(labels)
    return float((classes[nearest] == classes[:, None]).mean())


def embedding_figure(
    points: NDArray[np.floating],
    labels: Sequence[int] | None,
    class_names: Sequence[str],
    title: str,
) -> "Figure":
    """Draw points ``[N, 2]``, coloured by class.

    Args:
        points: of :func:`project`.
        labels: ``[N]``; None draws all of them in one colour.
        class_names: are in a legend, of those that are there, up to :data:`MOST_NAMED`.
        title: says how the points were laid out.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.4), layout="constrained")
    axes = figure.subplots()
    look: dict[str, Any] = {"s": float(np.clip(8000 / len(points), 4, 40)), "linewidths": 0}
    present = sorted(set(labels or ()))
    if labels is None:
        axes.scatter(*points.T, color="0.4", **look)
    elif len(present) <= MOST_NAMED:
        palette = matplotlib.colormaps["tab10" if len(class_names) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
        for place, label in enumerate(present):
            # A class keeps its colour as long as there are enough of them.
            number = label if len(class_names) <= len(palette) else place
            chosen = points[np.asarray(labels) == label]
            axes.scatter(*chosen.T, color=palette[number], label=class_names[label], **look)
        legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, frameon=False)
        for handle in legend.legend_handles:
            handle.set_sizes([40])  # type: ignore[union-attr]
    else:
        drawn = axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="turbo", **look)
        figure.colorbar(drawn, label="class")
    axes.set(title=title, xticks=[], yticks=[], aspect="equal")
    return figure


def _pooled(values: Tensor) -> Tensor:
    """The mean over places of maps ``[B, C, *s]`` or over tokens ``[B, N, C]``: ``[B, C]``."""
    if values.ndim == 3:
        return values.mean(1)
    return values.flatten(2).mean(2) if values.ndim > 3 else values
