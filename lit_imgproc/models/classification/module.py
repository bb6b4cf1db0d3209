"""The classifier: how any network learns to name what an image shows."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval, Le
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_imgproc import optim, pictures
from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import head_parameters, layer_groups
from lit_imgproc.models.base import Batch, ImageModule, choose_normalization
from lit_imgproc.models.class_weights import class_weights as balance
from lit_imgproc.models.classification.metrics import (
    collection,
    confusion_matrix,
    full_metrics,
    per_class_accuracy,
    quick_metrics,
)
from lit_imgproc.models.classification.mixing import Mixing
from lit_imgproc.models.figures import confusion_figure
from lit_imgproc.models.targets import Box, Target, Targets
from lit_imgproc.models.views import views
from lit_imgproc.models.weights import load_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Share = Annotated[float, Interval(ge=0, le=1)]
MAX_CLASSES_LOGGED = 100
"""With more classes than this, per-class accuracies are left to the confusion matrix's table."""


class ClassificationBatch(TypedDict):
    """A batch: images float32 ``[B, C, H, W]`` in [0, 1] on the device, uint8 from the worker."""

    image: Tensor
    label: NotRequired[Tensor]
    """int64 ``[B]``, or float32 ``[B, K]`` of zeros and ones for multi-label."""
    id: list[str]


class Classifier(ImageModule):
    """A network that names what an image shows, with the training of the classic recipes.

    Example:
        >>> from lit_imgproc.models.classification.networks import resnet20
        >>> from lit_imgproc.optim import SGD
        >>> Classifier(network=resnet20(num_classes=10), num_classes=10,
        ...            mean=[0.5] * 3, std=[0.25] * 3, optimizer=SGD(lr=0.1))  # doctest: +SKIP

    Args:
        network: from images ``[B, C, H, W]``, normalized, to logits ``[B, K]``; in training it may
            give a tuple of the logits and those of its auxiliary heads.
        num_classes: K.
        optimizer: what moves the weights; norms and biases get no weight decay.
        schedule: how the learning rate goes, a step at a time; None keeps it constant.
        mean: of each channel of [0, 1] images; None takes what ``weights`` were trained with.
        std: likewise.
        weights: where the network starts: ``pretrained`` (the library's, on ImageNet), a file, or
            ``run:ID`` in a recipe. A head of another size starts fresh.
        class_names: for pictures and predictions; None numbers them.
        class_counts: training images of each class, for ``class_weights=balanced``.
        multilabel: any number of classes an image; the loss is then binary cross-entropy.
        class_weights: weights of the loss, one a class, or ``balanced``: inverse to the counts,
            with mean 1 over the training images.
        label_smoothing: the share of a label spread over all classes (arXiv 1512.00567).
        mixup: alpha of mixup (arXiv 1710.09412); 0 is off.
        cutmix: alpha of CutMix (arXiv 1905.04899); 0 is off. With both on, each batch draws one.
        auxiliary_weight: of the loss of auxiliary heads: 0.3 for GoogLeNet, 0.4 for Inception-v3.
        frozen: ``trunk`` trains the head alone; norms of the trunk keep their statistics.
        layer_decay: the learning rate of each layer over that of the next one towards the head.
        test_time_augmentation: ``hflip`` averages probabilities over an image and its mirror
            image, ``d4`` over the eight symmetries of the square (square images only).
        channels_last: lay the weights out channels last: faster for most CNNs, on CPUs too.
        compile: compile the network with ``torch.compile``.

    Raises:
        UserError: weights that do not fit, or no normalization to be had.
    """

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
        class_names: list[str] | None = None,
        class_counts: list[int] | None = None,
        multilabel: bool = False,
        class_weights: Literal["balanced"] | list[Annotated[float, Ge(0)]] | None = None,
        label_smoothing: Share = 0.0,
        mixup: Annotated[float, Ge(0)] = 0.0,
        cutmix: Annotated[float, Ge(0)] = 0.0,
        auxiliary_weight: Annotated[float, Ge(0)] = 0.3,
        frozen: Literal["nothing", "trunk"] = "nothing",
        layer_decay: Annotated[float, Gt(0), Le(1)] | None = None,
        test_time_augmentation: Literal["none", "hflip", "d4"] = "none",
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002  (torch's own word)
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.class_names = class_names or [str(k) for k in range(num_classes)]
        self.multilabel = multilabel
        self.label_smoothing = label_smoothing
        self.auxiliary_weight = auxiliary_weight
        self.layer_decay = layer_decay
        self._views = [view.there for view in views(test_time_augmentation, 2)[1:]]
        if len(self.class_names) != num_classes:
            raise UserError(f"{num_classes} classes, but {len(self.class_names)} class names")

        known = load_weights(network, weights).normalization if weights is not None else None
        self.normalization = choose_normalization(mean, std, known, weights)

        if frozen == "trunk":
            head = set(head_parameters(network))
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name in head)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()

        self.register_buffer(
            "class_weights", balance(class_weights, class_counts, num_classes), False
        )
        self.mixing = (
            Mixing(mixup_alpha=float(mixup), cutmix_alpha=float(cutmix), num_classes=num_classes)
            if mixup or cutmix
            else None
        )
        self.val_metrics = collection(quick_metrics(num_classes, multilabel=multilabel), "val/")
        self.test_metrics = collection(full_metrics(num_classes, multilabel=multilabel), "test/")
        self.confusion = confusion_matrix(num_classes, multilabel=multilabel)
        self.mean_loss = MeanMetric()
        self._counts: Tensor | None = None

    # Training ------------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, K]`` of images ``[B, C, H, W]`` in [0, 1]."""
        output = self.network(self.normalization(images))
        logits: Tensor = output[0] if isinstance(output, tuple) else output
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of labels ``[B]`` or soft labels ``[B, K]``; binary for multi-label."""
        weights = self.class_weights
        assert weights is None or isinstance(weights, Tensor)
        if self.multilabel:
            smooth = labels * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
            return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights)
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=self.label_smoothing)

    @override
    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        images, labels = batch["image"], batch["label"]
        if self.mixing is not None:
            images, labels = self.mixing(images, labels)
        output = self.network(self.normalization(images))
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = self.loss(logits, labels)
        for head in auxiliary:
            loss = loss + self.auxiliary_weight * self.loss(head, labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @override
    def parameter_groups(self) -> list[dict[str, Any]]:
        return optim.parameter_groups(
            self.network,
            lr=self.optimizer.lr,
            weight_decay=self.optimizer.weight_decay,
            layer_groups=layer_groups(self.network) if self.layer_decay else None,
            layer_decay=self.layer_decay,
        )

    # Evaluation ----------------------------------------------------------------------------------

    @override
    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> dict[str, Tensor]:
        logits, labels = self(batch["image"]), batch["label"]
        self.mean_loss.update(self.loss(logits, labels), len(logits))
        self.val_metrics.update(self._to_probabilities(logits), labels.long())
        return {"wrong": self._wrong(logits.detach().float(), labels)}

    def _wrong(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of each image ``[B]``, without weights and smoothing."""
        if self.multilabel:
            labels = labels.to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
        return F.cross_entropy(logits, labels, reduction="none")

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val", self.val_metrics.compute())
        self.val_metrics.reset()

    @override
    def test_step(self, batch: ClassificationBatch, batch_idx: int) -> None:
        logits = self(batch["image"])
        probabilities = self.probabilities(batch["image"], logits)
        labels = batch["label"].long()
        self.mean_loss.update(self.loss(logits, batch["label"]), len(logits))
        self.test_metrics.update(probabilities, labels)
        self.confusion.update(probabilities, labels)

    @override
    def on_test_epoch_end(self) -> None:
        self._counts = self.confusion.compute().cpu()
        per_class = per_class_accuracy(self._counts)
        metrics = self.test_metrics.compute()
        if len(self.class_names) <= MAX_CLASSES_LOGGED:
            for name, accuracy in zip(self.class_names, per_class, strict=True):
                if not accuracy.isnan():
                    metrics[f"test/accuracy/{name}"] = accuracy
        self._log_epoch("test", metrics)
        self.test_metrics.reset()
        self.confusion.reset()

    def _log_epoch(self, split: str, metrics: Mapping[str, Tensor]) -> None:
        # The metrics have been gathered over the ranks already: no further sync is wanted.
        self.log_dict({f"{split}/loss": self.mean_loss.compute(), **metrics}, prog_bar=False)
        self.mean_loss.reset()

    def probabilities(self, images: Tensor, logits: Tensor | None = None) -> Tensor:
        """Probabilities ``[B, K]``, averaged over the views of ``test_time_augmentation``."""
        first: Tensor = self._to_probabilities(self(images) if logits is None else logits)
        others = [self._to_probabilities(self(view(images))) for view in self._views]
        return torch.stack([first, *others]).mean(0) if others else first

    def predict_step(self, batch: ClassificationBatch, batch_idx: int) -> list[dict[str, Any]]:
        """One plain dict an image: id, label(s), score(s), and a probability for each class."""
        answers = []
        probabilities = self.probabilities(batch["image"]).detach().float().cpu()
        for name, row in zip(batch["id"], probabilities, strict=True):
            answer: dict[str, Any] = {"id": name}
            if self.multilabel:
                found = [k for k in range(len(row)) if row[k] >= 0.5]
                answer["label"] = [self.class_names[k] for k in found]
                answer["score"] = [float(row[k]) for k in found]
            else:
                best = int(row.argmax())
                answer |= {"label": self.class_names[best], "score": float(row[best])}
            answer["probabilities"] = dict(zip(self.class_names, row.tolist(), strict=True))
            answers.append(answer)
        return answers

    def _to_probabilities(self, logits: Tensor) -> Tensor:
        # In float32 at least: half-precision softmax ties what a metric ranks.
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        return logits.sigmoid() if self.multilabel else logits.softmax(1)

    # Pictures, explanations, export --------------------------------------------------------------

    @override
    def attribution_fn(self, target: Targets = None) -> Callable[[Tensor], Tensor]:
        """The logit of a class, or of the class that the network itself answers."""
        return lambda images: _chosen(self(images), target)

    @override
    def confidence_fn(self, target: Targets = None) -> Callable[[Tensor], Tensor]:
        """The probability of a class, or of the class that the network itself answers."""
        return lambda images: _chosen(self._to_probabilities(self(images)), target)

    @override
    def attribution_targets(
        self, batch: Batch, label: int | None = None, box: Box | None = None
    ) -> list[Target | None]:
        """The class asked for, or the one that each image most probably shows."""
        if box is not None:
            raise UserError("a classifier answers of images as a whole: no box can be explained")
        if label is not None:
            return [Target(label)] * len(batch["image"])
        with torch.inference_mode():
            return [Target(k) for k in self(batch["image"]).argmax(1).tolist()]

    def draw(self, batch: Batch, output: list[dict[str, Any]]) -> pictures.Picture:
        """Each image with its true label and the prediction, green where they agree."""
        tiles = []
        for i, (image, answer) in enumerate(zip(batch["image"], output, strict=True)):
            said = answer["label"]
            lines, ink = (
                [f"{said} {answer['score']:.0%}" if said and not self.multilabel else ""],
                "plain",
            )
            if self.multilabel:
                lines = [", ".join(said) or "-"]
            if "label" in batch:
                true = self._true_label(batch["label"][i])
                lines, ink = [f"is {true}", *lines], "right" if said == true else "wrong"
                if self.multilabel:
                    lines[0] = "is " + (", ".join(true) or "-")
            tiles.append(pictures.caption(pictures.tile(image.float().cpu().numpy()), lines, ink))
        return pictures.grid(tiles)

    def _true_label(self, label: Tensor) -> str | list[str]:
        if self.multilabel:
            return [self.class_names[k] for k in label.nonzero().flatten().tolist()]
        return self.class_names[int(label)]

    def figures(self) -> Mapping[str, "Figure"]:
        """The confusion matrix of the test that has just ended."""
        if self._counts is None or self.multilabel or len(self.class_names) > MAX_CLASSES_LOGGED:
            return {}
        return {"confusion_matrix": confusion_figure(self._counts, self.class_names)}

    def export_network(self) -> nn.Module:
        """From images ``[B, C, H, W]`` in [0, 1] to probabilities ``[B, K]``."""
        last: nn.Module = nn.Sigmoid() if self.multilabel else nn.Softmax(1)
        return nn.Sequential(self.normalization, self.network, last).eval()


def _chosen(values: Tensor, target: Targets) -> Tensor:
    """Of values ``[B, K]`` those of the target's class ``[B]``, or the greatest."""
    if target is None:
        return values.amax(1)
    if isinstance(target, Target):
        return values[:, target.label]
    labels = torch.tensor([one.label for one in target], device=values.device)
    return values.gather(1, labels[:, None])[:, 0]
