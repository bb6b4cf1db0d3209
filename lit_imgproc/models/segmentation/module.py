"""The segmenter: how any network learns to say of every pixel, or voxel, what it shows."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_imgproc import optim, pictures
from lit_imgproc.errors import UserError
from lit_imgproc.models.base import Batch, ImageModule, choose_normalization
from lit_imgproc.models.class_weights import class_weights as balance
from lit_imgproc.models.figures import confusion_figure
from lit_imgproc.models.segmentation.attribution import region_score, region_targets
from lit_imgproc.models.segmentation.batch import IGNORE, SegmentationBatch
from lit_imgproc.models.segmentation.exported import ProbabilityMap
from lit_imgproc.models.segmentation.losses import LossName, SegmentationLoss
from lit_imgproc.models.segmentation.metrics import BACKGROUND, SegmentationMetrics
from lit_imgproc.models.segmentation.padding import Pad, inner, lowest, mirror
from lit_imgproc.models.segmentation.volume_metrics import VolumeMetrics
from lit_imgproc.models.segmentation.weights import load_segmenter, load_trunk
from lit_imgproc.models.segmentation.windows import slide
from lit_imgproc.models.targets import Box, Target, Targets
from lit_imgproc.models.views import Symmetries, views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Side = Annotated[int, Gt(0)]
MAX_CLASSES_LOGGED = 100
"""With more classes than this, the metrics of each are not logged."""
LEAST = 1e-7
"""The least probability of which a logarithm is taken."""


class Segmenter(ImageModule):
    """A network that names the class of every pixel of an image or voxel of a volume.

    Example:
        >>> from lit_imgproc.models.segmentation.networks import unet
        >>> from lit_imgproc.optim import AdamW
        >>> Segmenter(network=unet("resnet18", num_classes=5), num_classes=5, mean=[0.5] * 3,
        ...           std=[0.25] * 3, optimizer=AdamW(lr=1e-3))  # doctest: +SKIP

    Args:
        network: from normalized images ``[B, C, *S]`` to logits ``[B, K, *S]``; in training it may
            give a tuple of these and those of its auxiliary heads. See
            :mod:`lit_imgproc.models.segmentation.networks`.
        num_classes: K.
        optimizer: what moves the weights; norms and biases get no weight decay.
        schedule: how the learning rate goes, a step at a time; None keeps it constant.
        mean: of each channel of [0, 1] images; None takes what the weights were trained with.
        std: likewise.
        weights: where the whole network starts: ``pretrained`` (what its library publishes), a
            file, or ``run:ID`` in a recipe. Heads for other classes start fresh.
        trunk_weights: where its trunk starts: ``pretrained`` (on ImageNet), a file, or ``run:ID``
            of a classifier on the same trunk.
        class_names: for predictions and metrics; None numbers them. A first class called
            ``background`` is left out of the mean Dice.
        class_counts: training pixels of each class, for ``class_weights=balanced``.
        loss: parts of the loss and how much each counts in their sum; None is cross-entropy. See
            :mod:`lit_imgproc.models.segmentation.losses`.
        class_weights: weights of cross-entropy and focal loss, one a class, or ``balanced``:
            inverse to the counts, with mean 1 over the training pixels.
        focal_gamma: how little the focal loss asks of what is right already.
        tversky_alpha: what a false positive counts in the Tversky loss.
        tversky_beta: what a false negative counts.
        auxiliary_weight: of the loss of auxiliary heads.
        window: side, or sides, of the windows in which images are evaluated and predicted; None
            looks at whole images.
        window_overlap: of neighbouring windows, as a share of their side.
        test_time_augmentation: averages probabilities over views; see
            :data:`~lit_imgproc.models.views.Symmetries`.
        boundary_tolerance: in pixels, of the boundary F1; None leaves it out.
        surface_tolerance: in millimetres, of the surface Dice of volumes.
        channels_last: lay the weights of a two-dimensional network out channels last.
        compile: compile the network with ``torch.compile``.

    Raises:
        UserError: weights that do not fit, no normalization to be had, or a loss without parts.
    """

    localized = True

    def __init__(
        self,
        *,
        network: nn.Module,
        num_classes: Annotated[int, Gt(1)],
        optimizer: optim.Optimizer,
        schedule: optim.Schedule | None = None,
        mean: list[float] | None = None,
        std: list[Annotated[float, Gt(0)]] | None = None,
        weights: str | None = None,
        trunk_weights: str | None = None,
        class_names: list[str] | None = None,
        class_counts: list[int] | None = None,
        loss: dict[LossName, Annotated[float, Gt(0)]] | None = None,
        class_weights: Literal["balanced"] | list[Annotated[float, Ge(0)]] | None = None,
        focal_gamma: Annotated[float, Ge(0)] = 2.0,
        tversky_alpha: Annotated[float, Gt(0)] = 0.3,
        tversky_beta: Annotated[float, Gt(0)] = 0.7,
        auxiliary_weight: Annotated[float, Ge(0)] = 0.5,
        window: Side | list[Side] | None = None,
        window_overlap: Annotated[float, Ge(0), Lt(1)] = 0.5,
        test_time_augmentation: Symmetries = "none",
        boundary_tolerance: Side | None = None,
        surface_tolerance: Annotated[float, Gt(0)] = 1.0,
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002  (torch's own word)
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.class_names = class_names or [str(k) for k in range(num_classes)]
        if len(self.class_names) != num_classes:
            raise UserError(f"{num_classes} classes, but {len(self.class_names)} class names")
        self.has_background = self.class_names[0] == BACKGROUND
        self.volumetric = any(isinstance(layer, nn.Conv3d) for layer in network.modules())
        self.pad: Pad = lowest if self.volumetric else mirror
        self.auxiliary_weight = auxiliary_weight
        self.window = _sides(window, 3 if self.volumetric else 2)
        self.window_overlap = window_overlap

        known = None
        if trunk_weights is not None:
            known = load_trunk(network, trunk_weights)
        if weights is not None:
            known = load_segmenter(network, weights, self.class_names)
        self.normalization = choose_normalization(mean, std, known, weights or trunk_weights)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()

        self.loss = SegmentationLoss(
            loss or {"cross_entropy": 1.0},
            class_weights=balance(class_weights, class_counts, num_classes),
            focal_gamma=focal_gamma,
            tversky_alpha=tversky_alpha,
            tversky_beta=tversky_beta,
        )
        self._views = views(test_time_augmentation, 3 if self.volumetric else 2)
        tolerance = None if self.volumetric else boundary_tolerance
        self.val_metrics = SegmentationMetrics(self.class_names, boundary_tolerance=tolerance)
        self.test_metrics = SegmentationMetrics(self.class_names, boundary_tolerance=tolerance)
        self.volume_metrics = (
            VolumeMetrics(self.class_names, tolerance_mm=surface_tolerance)
            if self.volumetric
            else None
        )
        self.mean_loss = MeanMetric()
        self._counts: Tensor | None = None

    # Training ------------------------------------------------------------------------------------

    @property
    def margin(self) -> int:
        """Pixels at each edge of an image of which the network says nothing: its context."""
        return cast(int, getattr(self.network, "margin", 0))

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Logits of all heads, for images in [0, 1] less :attr:`margin` at each edge."""
        step, rest = getattr(self.network, "divisor", 1), getattr(self.network, "remainder", 0)
        size = images.shape[2:]
        missing = [(rest - side) % step for side in size]
        output = self.network(self.pad(self.normalization(images), [0] * len(size), missing))
        heads = output if isinstance(output, tuple) else (output,)
        cut = [slice(side - 2 * self.margin) for side in size]
        return [logits[(..., *cut)] for logits in heads]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, K, *S]`` of images ``[B, C, *S]`` in [0, 1], of any size.

        Where the network has a margin, the image is mirrored at its edges.
        """
        margin = [self.margin] * (images.ndim - 2)
        return self.outputs(self.pad(images, margin, margin))[0]

    def losses(self, batch: SegmentationBatch) -> dict[str, Tensor]:
        """The parts of the loss by name; those of the auxiliary heads are one.

        Raises:
            UserError: the images differ in size.
        """
        images = batch["image"]
        if not isinstance(images, Tensor):
            sizes = sorted({"x".join(map(str, image.shape[1:])) for image in images})
            raise UserError(
                f"the images of a training batch are of {', '.join(sizes)} pixels, and have to be "
                "of one size: end data.augment.train with a crop, or set data.resize to squash, or "
                "data.batch_size to 1"
            )
        logits, *auxiliary = self.outputs(images)
        mask, weight = cast(Tensor, batch["mask"]), batch.get("weight")
        mask = inner(mask, logits.shape[2:])
        weight = None if weight is None else inner(weight, logits.shape[2:])
        parts: dict[str, Tensor] = self.loss.parts(logits, mask, weight)
        if auxiliary:
            terms = [term for head in auxiliary for term in self.loss.parts(head, mask).values()]
            parts["auxiliary"] = self.auxiliary_weight * torch.stack(terms).sum()
        return parts

    @override
    def training_step(self, batch: SegmentationBatch, batch_idx: int) -> Tensor:
        parts = self.losses(batch)
        loss = torch.stack(list(parts.values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        if len(parts) > 1:
            self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        return loss

    # Evaluation ----------------------------------------------------------------------------------

    def scores(self, images: Tensor) -> Tensor:
        """Probabilities float32 ``[B, K, *S]`` of images ``[B, C, *S]`` in [0, 1].

        Averaged over windows, weighed by a Gaussian, and over the views of
        ``test_time_augmentation``.
        """
        looks = (back(self._windowed(there(images))) for there, back in self._views)
        total = next(looks)
        for look in looks:
            total = total + look
        return total if len(self._views) == 1 else total / len(self._views)

    def _windowed(self, images: Tensor) -> Tensor:
        if (window := self.window) is None:
            logits: Tensor = self(images)
            return logits.float().softmax(1)

        def look(parts: Tensor) -> Tensor:
            return self.outputs(parts)[0].float().softmax(1)

        def whole(image: Tensor) -> Tensor:
            overlap, margin = self.window_overlap, self.margin
            return slide(look, image, window, overlap=overlap, margin=margin, pad=self.pad)

        if len(images) == 1:  # which is not copied
            return whole(images[0])[None]
        return torch.stack([whole(image) for image in images])

    def each(self, batch: SegmentationBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Probabilities and masks, of all images at once, or one by one where sizes differ."""
        images, masks = batch["image"], batch["mask"]
        if isinstance(images, Tensor) and isinstance(masks, Tensor):
            yield self.scores(images), masks
            return
        for image, mask in zip(images, masks, strict=True):
            yield self.scores(image[None]), mask[None]

    @override
    def validation_step(self, batch: SegmentationBatch, batch_idx: int) -> dict[str, Tensor]:
        return {"wrong": self.measure(self.val_metrics, batch)}

    @override
    def test_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        self.measure(self.test_metrics, batch)

    def measure(self, metrics: SegmentationMetrics, batch: SegmentationBatch) -> Tensor:
        """Compare a batch, at the size that the network sees, with what is there.

        Returns:
            The share of the pixels of each image that are wrong, float32 ``[B]``.
        """
        first, shares = 0, []
        for scores, mask in self.each(batch):
            loss = self.loss(scores.clamp_min(LEAST).log(), mask)
            self.mean_loss.update(loss, len(mask))
            self.compare(metrics, scores, mask, batch, first)
            first += len(mask)
            counted = mask != IGNORE
            wrong = (scores.argmax(1) != mask) & counted
            shares.append(wrong.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1))
        return torch.cat(shares)

    def compare(
        self,
        metrics: SegmentationMetrics,
        scores: Tensor,
        mask: Tensor,
        batch: SegmentationBatch,
        first: int,
    ) -> None:
        """Count some images of a batch, from the number ``first`` on.

        Args:
            metrics: of the split.
            scores: float32 ``[N, K, *S]``.
            mask: int64 ``[N, *S]``.
            batch: what they are of.
            first: the number in the batch of the first of them.
        """
        found = scores.argmax(1)
        metrics.update(found, mask)
        if self.volume_metrics is not None:
            for i, (one, true) in enumerate(zip(found, mask, strict=True), start=first):
                millimetres = batch["geometry"][i]["voxel"]
                self.volume_metrics.update(one, true, millimetres)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val", self.val_metrics)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.test_metrics)

    def _log_epoch(self, split: str, metrics: SegmentationMetrics) -> None:
        # Gathered over the ranks already: no further sync is wanted.
        values = {"loss": self.mean_loss.compute(), **self.summary(metrics)}
        if len(self.class_names) > MAX_CLASSES_LOGGED:
            values = {name: value for name, value in values.items() if "/" not in name}
        self.log_dict({f"{split}/{name}": value for name, value in values.items()})
        self.mean_loss.reset()

    def summary(self, metrics: SegmentationMetrics) -> dict[str, Any]:
        """What was counted, by name; counting starts anew."""
        values: dict[str, Any] = dict(metrics.compute())
        self._counts = metrics.confusion.cpu()
        metrics.reset()
        if self.volume_metrics is not None:
            values |= self.volume_metrics.compute()
            self.volume_metrics.reset()
        return values

    def predict_step(self, batch: SegmentationBatch, batch_idx: int) -> list[dict[str, Any]]:
        """One plain dict an image.

        ``id``; ``mask``, uint8 ``[H, W]`` of class numbers in pixels of the file, or of a volume
        ``[D, H, W]`` in its own voxels; ``classes``, the share of each class that is there.
        """
        images, names = batch["image"], batch["id"]
        found = self.scores(images) if isinstance(images, Tensor) else None
        answers = []
        for i, name in enumerate(names):
            scores = self.scores(images[i][None])[0] if found is None else found[i]
            geometry = batch["geometry"][i] if "geometry" in batch else {}
            answers.append({"id": name, **self.answer(scores, geometry)})
        return answers

    def answer(self, scores: Tensor, geometry: Mapping[str, Any]) -> dict[str, Any]:
        """What is said of one image.

        Args:
            scores: float32 ``[K, *S]``.
            geometry: of the image; with a ``scale``, the answer is brought to the file's size.
        """
        mask = self.in_file(scores, geometry).argmax(0).to(torch.uint8).cpu().numpy()
        counts = np.bincount(mask.ravel(), minlength=len(self.class_names)) / mask.size
        shares = zip(self.class_names, counts.tolist(), strict=True)
        return {"mask": mask, "classes": {name: share for name, share in shares if share}}

    def in_file(self, scores: Tensor, geometry: Mapping[str, Any]) -> Tensor:
        """Scores of an image ``[K, h, w]`` at the size of its file, where it was scaled."""
        if "scale" not in geometry or tuple(geometry["size"]) == scores.shape[1:]:
            return scores
        size = tuple(geometry["size"])
        return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]

    # Pictures, explanations, export --------------------------------------------------------------

    def draw(self, batch: Batch, output: list[dict[str, Any]]) -> pictures.Picture:
        """Each image twice: with the classes that are there, and with those that were found.

        Of a volume the slice along the depth that has most of what is not class 0.
        """
        tiles = []
        for i, (image, answer) in enumerate(zip(batch["image"], output, strict=True)):
            found = answer["mask"]
            truth = batch["mask"][i].cpu().numpy() if "mask" in batch else None
            pixels = image.float().cpu().numpy()
            if pixels.ndim == 4:
                shown = int(((found if truth is None else truth) > 0).sum((1, 2)).argmax())
                pixels, found = pixels[:, shown], found[shown]
                truth = None if truth is None else truth[shown]
            plain = pictures.tile(pixels)
            sides = {"found": found} if truth is None else {"is": truth, "found": found}
            for said, mask in sides.items():
                painted = pictures.paint(plain, mask, clear=0 if self.has_background else None)
                tiles.append(pictures.caption(painted, [said]))
        return pictures.grid(tiles)

    def figures(self) -> Mapping[str, "Figure"]:
        """The confusion matrix, in pixels, of the test that has just ended."""
        if self._counts is None or len(self.class_names) > MAX_CLASSES_LOGGED:
            return {}
        return {"confusion_matrix": confusion_figure(self._counts, self.class_names)}

    @override
    def attribution_fn(self, target: Targets = None) -> Callable[[Tensor], Tensor]:
        """The logit of a class over a region, or over all that the network says is of it."""
        asked = cast(Any, target)
        return region_score(self.forward, asked, background=self.has_background)

    @override
    def confidence_fn(self, target: Targets = None) -> Callable[[Tensor], Tensor]:
        """The probability of a class over a region."""
        asked, background = cast(Any, target), self.has_background
        return region_score(self.forward, asked, background=background, probabilities=True)

    @override
    def attribution_targets(
        self, batch: Batch, label: int | None = None, box: Box | None = None
    ) -> list[Target | None]:
        """A class over all that the network says is of it, or over a box.

        It is the one asked for, or the one that covers most but for the background.
        """
        images = batch["image"]
        if box is not None and self.volumetric:
            raise UserError("a box of an image cannot be explained of a volume")
        # A region is differentiated with later, which a tensor of inference mode cannot be.
        with torch.inference_mode(False), torch.no_grad():
            # One by one where their sizes differ.
            stacks = [images] if isinstance(images, Tensor) else [one[None] for one in images]
            return [
                target
                for stack in stacks
                for target in region_targets(
                    self(stack), label, box=box, background=self.has_background
                )
            ]

    def export_network(self) -> nn.Module:
        """From images ``[B, C, H, W]`` in [0, 1] to probabilities ``[B, K, H, W]``."""
        if self.volumetric or self.margin:
            raise UserError(f"{type(self).__name__} on this network is not exported yet")
        return ProbabilityMap(self.normalization, self.network).eval()


def _sides(window: int | list[int] | None, dimensions: int) -> tuple[int, ...] | None:
    """The sides of a window."""
    if window is None:
        return None
    sides = (window,) * dimensions if isinstance(window, int) else tuple(window)
    if len(sides) != dimensions:
        raise UserError(f"window {list(sides)}: the network is of {dimensions} dimensions")
    return sides
