"""A segmenter that is always right: the class of a pixel is the nearest of some brightnesses."""

from types import SimpleNamespace

import torch
from torch import nn

from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.optim import SGD


class Levels(nn.Module):
    """Logits ``[B,K,*S]``: how near the first channel is to each level."""

    divisor, remainder, margin = 1, 0, 0

    def __init__(self, levels, dimensions=2):
        super().__init__()
        self.levels = torch.tensor(levels)
        self.shapes = []  # of the batches it was given
        if dimensions == 3:
            self.unused = nn.Conv3d(1, 1, 1)  # by which a module knows

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        levels = self.levels.reshape(-1, *[1] * (images.ndim - 2))
        return -1000 * (images[:, :1] - levels).square()


def segmenter(names, levels, dimensions=2, channels=3, kind=Segmenter, **options):
    """The module, of a class, in eval mode."""
    network = Levels(levels, dimensions)
    return kind(
        network=network, num_classes=len(names), class_names=list(names), optimizer=SGD(lr=0.1),
        mean=[0.0] * channels, std=[1.0] * channels, **options,
    ).eval()  # fmt: skip


def run_of(data, spec, module):
    """A run that has trained a module on the data of a recipe's block."""
    from lit_imgproc.recipes.run import Run

    run = Run(SimpleNamespace(info=SimpleNamespace(run_id="5e69")), "sqlite:///none.db")
    recipe = {"data": {"root": "", **data}}
    run.__dict__ |= {"module": module, "recipe": recipe, "input_spec": spec}
    return run
