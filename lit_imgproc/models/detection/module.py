"""The detector: how any network learns to find objects, with their masks if it can."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from typing_extensions import override

from lit_imgproc import optim, pictures
from lit_imgproc.errors import UserError
from lit_imgproc.geometry import boxes_to_original, boxes_to_sample
from lit_imgproc.models.base import Batch, ImageModule, choose_normalization
from lit_imgproc.models.coco_metrics import CocoMetrics
from lit_imgproc.models.detection.attribution import matched_score, object_target
from lit_imgproc.models.detection.batch import DetectionBatch
from lit_imgproc.models.detection.exchange import answers, targets, truths
from lit_imgproc.models.detection.views import with_views
from lit_imgproc.models.detection.weights import load_detector, load_trunk
from lit_imgproc.models.figures import confusion_figure, precision_recall_figure
from lit_imgproc.models.objects import Detections
from lit_imgproc.models.rle import decoded, numbered, rles
from lit_imgproc.models.targets import Box, Target, Targets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 0.5
"""The least score of what is drawn."""
HEADLINES = ("map", "map_50", "mask_map", "mask_map_50")
"""What is logged even where there is nothing to measure: callbacks wait for it."""
MAX_CLASSES_LOGGED = 100
"""With more classes than this, the metrics of each are not logged."""


class Detector(ImageModule):
    """A network that finds objects in images, trained and measured as on COCO.

    Example:
        >>> from lit_imgproc.models.detection.networks import faster_rcnn
        >>> from lit_imgproc.optim import SGD
        >>> Detector(network=faster_rcnn("resnet18", num_classes=3), num_classes=3,
        ...          mean=[0.5] * 3, std=[0.25] * 3, optimizer=SGD(lr=0.02))  # doctest: +SKIP

    Args:
        network: a detector of torchvision, or one that is called like them, with class 0 for the
            background: see :mod:`lit_imgproc.models.detection.networks`.
        num_classes: K, without the background.
        optimizer: what moves the weights; norms and biases get no weight decay.
        schedule: how the learning rate goes, a step at a time; None keeps it constant.
        mean: of each channel of [0, 1] images; None takes what the weights were trained with.
        std: likewise.
        weights: where the whole network starts: ``pretrained`` (torchvision's, on COCO), a file,
            or ``run:ID`` in a recipe. Heads for other classes start fresh.
        trunk_weights: where its trunk starts: ``pretrained`` (on ImageNet), a file, or ``run:ID``
            of a classifier on the same trunk.
        class_names: for predictions and metrics; None numbers them.
        test_time_augmentation: ``hflip`` looks at an image and its mirror image, ``d4`` at the
            eight symmetries of the square; see :mod:`lit_imgproc.models.detection.views`.
        tile_size: larger images are evaluated and predicted in tiles of this side, in pixels.
        tile_overlap: of neighbouring tiles, in pixels: objects of that size are whole in one. None
            is a quarter of a tile.
        channels_last: lay the weights out channels last.

    Raises:
        UserError: weights that do not fit, or no normalization to be had.
    """

    localized = True

    def __init__(
        self,
        *,
        network: nn.Module,
        num_classes: Annotated[int, Ge(1)],
        optimizer: optim.Optimizer,
        schedule: optim.Schedule | None = None,
        mean: list[float] | None = None,
        std: list[Annotated[float, Gt(0)]] | None = None,
        weights: str | None = None,
        trunk_weights: str | None = None,
        class_names: list[str] | None = None,
        test_time_augmentation: Literal["none", "hflip", "d4"] = "none",
        tile_size: Annotated[int, Gt(0)] | None = None,
        tile_overlap: Annotated[int, Ge(0)] | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.class_names = class_names or [str(k) for k in range(num_classes)]
        if len(self.class_names) != num_classes:
            raise UserError(f"{num_classes} classes, but {len(self.class_names)} class names")
        overlap = (tile_size or 0) // 4 if tile_overlap is None else tile_overlap
        if tile_size is not None and overlap >= tile_size:
            raise UserError(f"tile_overlap {overlap} is not less than tile_size {tile_size}")

        known = None
        if trunk_weights is not None:
            known = load_trunk(network, trunk_weights)
        if weights is not None:
            known = load_detector(network, weights, self.class_names)
        self.normalization = choose_normalization(mean, std, known, weights or trunk_weights)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)

        heads: Any = getattr(network, "roi_heads", network)
        most: int = heads.detections_per_img
        self._detect = with_views(
            self._look,
            test_time_augmentation=test_time_augmentation,
            tile_size=tile_size,
            tile_overlap=overlap,
            max_detections=most,
        )
        masks = getattr(getattr(network, "roi_heads", None), "mask_head", None) is not None
        self.val_metrics = CocoMetrics(self.class_names, masks=masks, max_detections=most)
        self.test_metrics = CocoMetrics(self.class_names, masks=masks, max_detections=most)
        self._curves: tuple[Tensor, Tensor] | None = None

    # Training ------------------------------------------------------------------------------------

    @override
    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        return loss

    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """The parts of the loss, by name."""
        losses: dict[str, Tensor] = self.network(self.normalized(batch["image"]), targets(batch))
        return losses

    def normalized(self, images: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Images ``[C, h, w]`` as the network takes them."""
        if isinstance(images, Tensor):
            return list(self.normalization(images))
        return [self.normalization(image[None])[0] for image in images]

    # Evaluation ----------------------------------------------------------------------------------

    def detect(self, batch: DetectionBatch) -> list[Detections]:
        """What is found in each image, in pixels of the batch's images."""
        return self._detect(list(batch["image"]))

    def _look(self, images: list[Tensor]) -> list[Detections]:
        """What the network finds in each image at one look."""
        return answers(self.network(self.normalized(images)))

    @override
    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        self._measure(self.val_metrics, batch)

    @override
    def test_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        self._measure(self.test_metrics, batch)

    def _measure(self, metrics: CocoMetrics, batch: DetectionBatch) -> None:
        """Compare in pixels of the files, by which objects count as small or large."""
        found, truth = self.detect(batch), truths(batch)
        for one, true, geometry in zip(found, truth, batch.get("geometry", ()), strict=False):
            scale = torch.tensor(geometry.get("scale", (1.0, 1.0)), device=one["boxes"].device)
            edges = scale.flip(0).repeat(2)
            one["boxes"] = one["boxes"] / edges
            true["boxes"] = true["boxes"] / edges
            true["area"] = true["area"] / scale.prod()
        metrics.update(found, truth)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val", self.val_metrics)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.test_metrics)

    def _log_epoch(self, split: str, metrics: CocoMetrics) -> None:
        # Gathered over the ranks already. What no object could be asked for is left out.
        values = metrics.compute()
        shown = {
            f"{split}/{name}": value
            for name, value in values.items()
            if value >= 0 or name in HEADLINES
        }
        if len(self.class_names) > MAX_CLASSES_LOGGED:
            shown = {name: value for name, value in shown.items() if name.count("/") == 1}
        self.log_dict(shown)
        if metrics.curves is not None and metrics.confusion is not None:
            self._curves = metrics.curves, metrics.confusion
        metrics.reset()

    def predict_step(self, batch: DetectionBatch, batch_idx: int) -> list[dict[str, Any]]:
        """One plain dict an image, best first, in pixels of its file.

        ``id``; ``boxes``, xyxy; ``labels``, names; ``scores``; and of networks that find them
        ``masks``, as COCO's RLE.
        """
        said = []
        for i, found in enumerate(self.detect(batch)):
            boxes = found["boxes"].cpu().numpy()
            geometry = batch["geometry"][i] if "geometry" in batch else None
            if geometry is not None:
                boxes = boxes_to_original(boxes, geometry)
            answer: dict[str, Any] = {
                "id": batch["id"][i],
                "boxes": boxes.tolist(),
                "labels": [self.class_names[k] for k in found["labels"].tolist()],
                "scores": found["scores"].tolist(),
            }
            if "masks" in found:
                answer["masks"] = rles(found["masks"], geometry)
            said.append(answer)
        return said

    # Pictures, explanations ----------------------------------------------------------------------

    def draw(self, batch: Batch, output: list[dict[str, Any]]) -> pictures.Picture:
        """Each image twice: with the objects that are there, and with those that were found."""
        tiles = []
        for i, (image, answer) in enumerate(zip(batch["image"], output, strict=True)):
            plain = pictures.tile(image.float().cpu().numpy())
            scale = plain.shape[1] / image.shape[-1]
            sure = [k for k, score in enumerate(answer["scores"]) if score >= SHOWN]
            boxes = np.array([answer["boxes"][k] for k in sure], np.float32).reshape(-1, 4)
            if "geometry" in batch:
                boxes = boxes_to_sample(boxes, batch["geometry"][i])
            classes = [self.class_names.index(answer["labels"][k]) for k in sure]
            if "boxes" in batch:
                truth = plain
                if "masks" in batch and len(batch["masks"][i]):
                    truth = pictures.paint(plain, numbered(batch["masks"][i].cpu().numpy()))
                true = batch["boxes"][i].cpu().numpy() * scale
                truth = pictures.outline(truth, true, batch["labels"][i].tolist())
                tiles.append(pictures.caption(truth, ["is"]))
            if sure and "masks" in answer:
                codes = [answer["masks"][k] for k in sure]
                plain = pictures.paint(plain, numbered(decoded(codes)))
            found = pictures.outline(plain, boxes * scale, classes)
            tiles.append(pictures.caption(found, ["found"]))
        return pictures.grid(tiles)

    @override
    def attribution_fn(self, target: Targets = None) -> Callable[[Tensor], Tensor]:
        """The score of the object ``target`` in each image, or of what the network is surest of.

        See :func:`~lit_imgproc.models.detection.attribution.matched_score`.
        """
        return matched_score(self.network, self._look, cast(Any, target))

    @override
    def confidence_fn(self, target: Targets = None) -> Callable[[Tensor], Tensor]:
        """The same score: a probability times an IoU."""
        return self.attribution_fn(target)

    @override
    def attribution_targets(
        self, batch: Batch, label: int | None = None, box: Box | None = None
    ) -> list[Target | None]:
        """The object in each image that the network is surest of, of the class asked for.

        Of a box it is that box, of the class asked for or of what is found there.
        """
        with torch.inference_mode():
            found = self.detect(cast(DetectionBatch, batch))
        return [object_target(one, label, box) for one in found]

    def figures(self) -> Mapping[str, "Figure"]:
        """Precision-recall curves and the confusion matrix of the test that has just ended."""
        if self._curves is None or len(self.class_names) > MAX_CLASSES_LOGGED:
            return {}
        curves, confusion = self._curves
        return {
            "precision_recall": precision_recall_figure(curves, self.class_names),
            "confusion_matrix": confusion_figure(confusion, [*self.class_names, "background"]),
        }
