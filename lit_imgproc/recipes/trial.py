"""Trial training steps of a recipe: ``python -m lit_imgproc.recipes.trial recipe.yaml``.

Says in a line of JSON what the recipe trains on; then, for each batch size that it reads, how much
memory whole training steps with it took, or ``{}`` if there was too little. See ``batch_size``.
"""

import gc
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from typing_extensions import override

from lit_imgproc.data.base import ImageDataModule
from lit_imgproc.errors import UserError
from lit_imgproc.recipes import ranks
from lit_imgproc.recipes.build import build, fill, untrained
from lit_imgproc.recipes.memory import ran_out
from lit_imgproc.recipes.quiet import quiet
from lit_imgproc.recipes.references import from_environment
from lit_imgproc.recipes.registry import resolve
from lit_imgproc.recipes.text import read

SHARE = 0.9
"""Of a GPU's free memory; the rest is for validation, explanations and other ranks' messages."""
OPTIONS = frozenset(
    {"accelerator", "precision", "benchmark", "deterministic", "max_epochs", "max_steps"}
    | {"gradient_clip_val", "gradient_clip_algorithm"}
)
"""Options of the trainer that memory depends on, or the schedule of the learning rate."""

PROCESS = Path("/proc/self")


class Trial:
    """A recipe on one device, for training steps with batches of any size."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        self.options = from_environment(recipe.get("trainer") or {})
        self.ranks = ranks.asked(self.options)
        seed = {"seed": recipe.get("seed") or 0}
        self.data: ImageDataModule = build(
            fill(recipe["data"] | {"batch_size": 1}, "datamodule", seed), "datamodule"
        )
        self.data.prepare()
        self.data.num_workers = 0  # one batch a size is read: workers would take longer to start
        # What memory holds does not depend on what the weights are.
        self.model = fill(untrained(recipe["model"]), "module", self.data.facts() | seed)
        self.averages = [
            block
            for block in (recipe.get("callbacks") or {}).values()
            if isinstance(cls := resolve("callback", block["name"]), type)
            and issubclass(cls, WeightAveraging)
        ]
        self.device = self._trainer([]).strategy.root_device

    def facts(self) -> dict[str, Any]:
        """What there is to know before the first step; memory in bytes."""
        layers = build(self.model, "module").modules()
        images, nodes = len(self.data.dataset("train")), int(self.options.get("num_nodes") or 1)
        facts: dict[str, Any] = {
            "device": "main memory",
            "ranks": self.ranks,
            "images": images,
            "smallest": 2 if any(isinstance(layer, _BatchNorm) for layer in layers) else 1,
            "largest": images // (self.ranks * nodes),
            "idle": _peak(),
        }
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            # What is above is refused as if the GPU had no more, so that the steps adapt to it.
            torch.cuda.set_per_process_memory_fraction(SHARE * free / total, self.device)
            name = torch.cuda.get_device_name(self.device)
            facts |= {"device": name, "limit": int(SHARE * free), "idle": 0}
        elif self.device.type != "cpu":
            raise UserError(
                f"data.batch_size=auto looks at CPUs and at CUDA's GPUs, not at {self.device.type}:"
                " set a number"
            )
        return facts

    def peak(self, size: int) -> int:
        """The most bytes in use during training steps with batches of ``size`` images.

        On the CPU of a system that cannot forget a peak, that is since the process began.
        """
        gc.collect()
        _forget_peak()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        # With gradients that accumulate, those of one batch are there while the next one is seen.
        accumulate = min(2, self.options.get("accumulate_grad_batches") or 1)
        averages = [build(block, "callback") for block in self.averages]
        trainer = self._trainer([_OneEpoch(self.ranks), *averages], accumulate)
        # The first step makes the optimizer's state, the second one runs with it.
        data = _Again(self.data, size, times=2 * accumulate + 1)
        trainer.fit(build(self.model, "module"), datamodule=data)
        on_gpu = self.device.type == "cuda"
        return torch.cuda.max_memory_reserved(self.device) if on_gpu else _peak()

    def _trainer(self, callbacks: list[pl.Callback], accumulate: int = 1) -> pl.Trainer:
        quiet()
        return pl.Trainer(
            **{key: value for key, value in self.options.items() if key in OPTIONS},
            devices=_first(self.options.get("devices")),
            accumulate_grad_batches=accumulate,
            callbacks=callbacks,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[LightningEnvironment()],  # alone, whatever job this is a part of
        )


class _Again(pl.LightningDataModule):
    """The first batch a few times; the length of an epoch stays that of the recipe's data."""

    def __init__(self, data: ImageDataModule, size: int, times: int) -> None:
        super().__init__()
        data.batch_size = size
        self.data, self.batches = data, [next(iter(data.train_dataloader()))] * times

    def steps_per_epoch(self, world_size: int = 1) -> int:
        """For schedules of the learning rate."""
        return self.data.steps_per_epoch(world_size)

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


class _OneEpoch(pl.Callback):
    """Stop after an epoch; and hold what a rank among several holds beside: DDP's buckets."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.buckets: list[Tensor] = []

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.ranks > 1:
            learnt = (p for p in pl_module.parameters() if p.requires_grad)
            self.buckets = [torch.ones_like(p) for p in learnt]

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def _first(devices: Any) -> Any:
    """The first of the GPUs that a recipe names, or any one."""
    named = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    return [int(named[0])] if isinstance(named, list) else 1


def _forget_peak() -> None:
    """Let :func:`_peak` begin anew, where the system can."""
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")


def _peak() -> int:
    """The most bytes of memory that this process has had at once."""
    status = PROCESS / "status"
    if status.exists():
        # On Linux, getrusage would give what the process that started this one had, if more.
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _said_of(error: Exception) -> str:
    return (
        "data.batch_size=auto: the training fails for another reason than memory, as it will with "
        f"data.batch_size=2: {type(error).__name__}: {error}"
    )


def answers(recipe: Path) -> Iterator[dict[str, Any]]:
    """What to say of a recipe, then of each size that stands in a line of the standard input."""
    trial = Trial(read(recipe.read_bytes(), recipe.name)[0])
    yield trial.facts()
    for line in sys.stdin:
        yield {"bytes": trial.peak(int(line))}


if __name__ == "__main__":
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    # Compiling anew for each size would take minutes; without it steps need rather more memory.
    torch.compiler.set_stance("force_eager")
    try:
        for answer in answers(Path(sys.argv[1])):
            print(json.dumps(answer), file=said)
    except UserError as error:
        print(json.dumps({"error": str(error)}), file=said)
    except Exception as error:
        print(json.dumps({} if ran_out(error) else {"error": _said_of(error)}), file=said)
