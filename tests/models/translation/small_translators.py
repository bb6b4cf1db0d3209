"""Small networks, batches and trainings for tests of translators."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader


class Colour(nn.Module):
    """Makes every image one colour in [-1, 1]."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, images):
        return self.value.expand_as(images)


class Same(nn.Module):
    """Leaves images as they are, times a weight that begins with 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.weight * images


class Undecided(nn.Module):
    """Gives logits of 0, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.shown = []

    def forward(self, images):
        self.shown.append(images.detach())
        return self.weight * images.mean(1, keepdim=True)


def samples(count, side=16, channels=3):
    """Squares of random colours, and their negatives: uint8."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, 2, 2), generator=random)
    images = images.repeat_interleave(side // 2, 2).repeat_interleave(side // 2, 3)
    return [
        {"image": image, "target": 255 - image, "id": str(number)}
        for number, image in enumerate(images.to(torch.uint8))
    ]


class SeededSteps(pl.Callback):
    """As recipes do: the random numbers of a step depend on nothing but its number."""

    def on_train_batch_start(self, trainer, *args):
        torch.manual_seed(trainer.global_step)


def trainer(**options):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SeededSteps()],
        **options,
    )


def fit(module, data, steps=-1, epochs=-1, batch_size=2, checkpoint=None):
    """Train for some steps or epochs; the trainer knows what was logged."""
    trained = trainer(max_steps=steps, max_epochs=epochs)
    loader = DataLoader(data, batch_size=batch_size)
    trained.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return trained
