"""The same few images through a whole training, for predictions and explanations to follow."""

from typing import Any

import torch
from torch.utils.data import default_collate

from lit_imgproc.data.base import ImageDataModule
from lit_imgproc.models.base import ImageModule


def fixed_samples(datamodule: ImageDataModule, count: int) -> dict[str, Any]:
    """A batch of ``count`` validation images, taken from the classes in turn, first ones first.

    Where images carry no single label, they are spread evenly over the split.
    """
    dataset: Any = datamodule.dataset("val")
    labels = torch.as_tensor(dataset.labels)
    count = min(count, len(dataset))
    if labels.ndim == 1:
        order = torch.argsort(labels, stable=True)
        ranks = torch.empty_like(order)  # the how-manieth of its class an image is
        _, sizes = torch.unique_consecutive(labels[order], return_counts=True)
        ranks[order] = torch.cat([torch.arange(int(size)) for size in sizes])
        chosen = sorted(range(len(labels)), key=lambda i: (int(ranks[i]), int(labels[i])))[:count]
    else:
        chosen = [i * len(dataset) // count for i in range(count)]
    batch: dict[str, Any] = default_collate([dataset[i] for i in chosen])
    return batch


def on_device(batch: dict[str, Any], module: ImageModule) -> dict[str, Any]:
    """Bring a batch to the module as the trainer would."""
    moved = module.transfer_batch_to_device(batch, module.device, 0)
    return module.on_after_batch_transfer(moved, 0)
