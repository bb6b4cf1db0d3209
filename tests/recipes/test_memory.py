import json
import os
from pathlib import Path

import psutil
import pytest
import torch

from lit_imgproc import load_recipe
from lit_imgproc.errors import TrainingFailed
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.recipes import memory
from lit_imgproc.recipes.memory import GIB, control_groups, main_memory, out_of_memory

CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 23.65 GiB of "
    "which 1.12 GiB is free. Process {} has 10.25 GiB memory in use. Including non-PyTorch memory, "
    "this process has 12.20 GiB memory in use. Of the allocated memory 11.80 GiB is allocated by "
    "PyTorch, and 90.00 MiB is reserved by PyTorch but unallocated."
)


@pytest.fixture
def recipe():
    """A frozen recipe, as far as memory depends on it."""
    return {
        "model": {"name": "classifier", "network": {"name": "resnet50"}},
        "data": {"name": "image_folder", "root": "x", "batch_size": 64, "image_size": 224},
        "trainer": {"accumulate_grad_batches": 2},
    }


def test_a_gpu_that_ran_out_of_memory(recipe):
    # The process that runs the tests stands for the other one: there is no such number as 0.
    said = out_of_memory(torch.OutOfMemoryError(CUDA.format(os.getpid())), recipe)
    assert said == (
        "GPU 1 ran out of memory with data.batch_size=64: 2.50 GiB were asked for, 1.12 GiB of "
        "23.65 GiB were free. What helps, the most first: data.batch_size=32 with "
        "trainer.accumulate_grad_batches=4, which leaves the images of an optimizer step as they "
        "are (data.batch_size=auto finds what fits); trainer.precision=bf16-mixed; a smaller "
        "data.image_size than 224; a smaller model.network than resnet50. "
        f"Process {os.getpid()} ({psutil.Process().name()}) holds 10.25 GiB of the same GPU: "
        "another may be free."
    )


def test_a_process_of_another_container_is_not_named(recipe):
    said = out_of_memory(torch.OutOfMemoryError(CUDA.format(2**22 + 1)), recipe)
    assert "Process" not in said


def test_what_is_done_already_is_not_advised(recipe):
    recipe["trainer"] = {"precision": "bf16-mixed"}
    recipe["data"] = {"name": "image_folder", "root": "x", "batch_size": 1}
    said = out_of_memory(torch.OutOfMemoryError(CUDA.format(2**22 + 1)), recipe)
    assert said.endswith(
        "What helps, the most first: a smaller data.image_size; a smaller model.network than "
        "resnet50."
    )


def test_the_cpu_that_ran_out_of_memory(recipe):
    del recipe["data"]["batch_size"], recipe["trainer"]
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8)
    said = out_of_memory(raised.value, recipe)
    # The size is that of the datamodule where a recipe has none.
    assert said.startswith(
        f"the CPU ran out of memory with data.batch_size=32: {2**50 / GIB:.2f} GiB were asked for."
    )
    assert "data.batch_size=16 with trainer.accumulate_grad_batches=2" in said


@pytest.mark.parametrize(
    ("error", "begins"),
    [
        (RuntimeError("CUDA error: out of memory"), "the GPU ran out of memory"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "the GPU ran out"),
        (MemoryError("Unable to allocate 9.00 TiB"), "the CPU ran out of memory"),
    ],
)
def test_other_words_for_it(recipe, error, begins):
    assert out_of_memory(error, recipe).startswith(begins)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory")])
def test_other_errors_are_left_alone(recipe, error):
    assert out_of_memory(error, recipe) is None


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups of its own: lines of /proc/self/cgroup, and files by name."""

    def groups(lines, files):
        monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
        monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
        (tmp_path / "own").write_text("".join(f"{line}\n" for line in lines))
        for name, text in files.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path / "groups"

    return groups


def test_the_memory_of_a_container(groups):
    groups(
        ["0::/job/step"],
        {
            "job/memory.max": "1000000\n",
            "job/memory.current": "900000\n",
            "job/memory.stat": "anon 5\ninactive_file 50000\n",
            "job/step/memory.max": "max\n",
            "job/step/memory.current": "800000\n",
        },
    )
    assert main_memory() == memory.Memory(1_000_000, 150_000)


def test_the_memory_of_a_container_of_version_1(groups):
    # The path is that of the host, and the container's own folder is the root.
    root = groups(
        ["4:memory:/docker/ab12", "1:cpu,cpuacct:/", "0::/"],
        {
            "memory/memory.limit_in_bytes": "2000000\n",
            "memory/memory.usage_in_bytes": "500000\n",
            "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100000\n",
        },
    )
    assert main_memory() == memory.Memory(2_000_000, 1_600_000)
    (root / "cpu").mkdir()
    assert list(control_groups("cpu")) == [root / "cpu", root]


def test_without_control_groups_it_is_that_of_the_machine(groups):
    groups([], {})
    assert main_memory().total == psutil.virtual_memory().total


def test_a_training_that_runs_out_is_failed_and_says_what_to_lower(store, monkeypatch):
    def ran_out(self, batch, batch_idx):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    monkeypatch.setattr(Classifier, "training_step", ran_out)
    experiment = load_recipe(
        "quickstart", f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}",
        "data.num_workers=0", "data.batch_size=64", "trainer.num_sanity_val_steps=0",
    )  # fmt: skip
    with pytest.raises(TrainingFailed, match=r"GPU 0 ran out of memory .* data\.batch_size=32"):
        experiment.train()
    run = experiment.result()
    assert run.status == "FAILED"
    folder = Path(run.record.info.artifact_uri, "provenance")
    assert "OutOfMemoryError" in (folder / "traceback.txt").read_text()
    assert len(json.loads((folder / "failed_batch.json").read_text())["ids"]) == 64
