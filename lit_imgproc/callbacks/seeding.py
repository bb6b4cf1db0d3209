"""Random numbers that depend on where a training is, not on how it came there."""

import hashlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class StepSeed(Callback):
    """Seed torch before each training step from (seed, rank, batch).

    Dropout, mixup and the like then are a function of the step: nothing has to be stored to resume
    exactly, and what happens between steps, such as drawing a picture, cannot change a training.

    Args:
        seed: the experiment's.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        where = f"{self.seed} {trainer.global_rank} {trainer.current_epoch} {batch_idx}"
        digest = hashlib.blake2b(where.encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "little") >> 1
        # Not `torch.manual_seed`: it also asks the devices that are not there, for a millisecond.
        torch.default_generator.manual_seed(number)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(number)
