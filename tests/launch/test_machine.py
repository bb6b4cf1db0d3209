import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from lit_imgproc.launch import machine
from lit_imgproc.launch.checks import hardware
from lit_imgproc.launch.machine import Gpu, cores, gpus, nvidia_cards
from lit_imgproc.recipes import memory
from lit_imgproc.recipes.memory import GIB


class NVMLError(Exception):
    pass


class Driver(ModuleType):
    """pynvml with an A100 that MIG divides and a T4 that somebody uses."""

    NVMLError = NVMLError

    def __init__(self):
        super().__init__("pynvml")
        self.open = 0
        self.broken = None

    def nvmlInit(self):
        if self.broken:
            raise NVMLError(self.broken)
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return ("NVIDIA A100-SXM4-40GB", "Tesla T4")[handle]

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=(40, 16)[handle] * GIB, free=(39, 6)[handle] * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return ((8, 0), (7, 5))[handle]

    def nvmlDeviceGetMigMode(self, handle):
        if handle == 1:
            raise NVMLError("Not Supported")
        return (1, 1)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if handle == 0:
            raise NVMLError("Insufficient Permissions")
        mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=9 * GIB)
        return [mine, SimpleNamespace(pid=2**22 + 1, usedGpuMemory=None)]


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(hardware, "pynvml", driver)
    return driver


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """A machine with an NVIDIA card, its sound device, and a card of another maker."""
    monkeypatch.setattr(machine, "PCI", tmp_path / "pci")
    for name, vendor, kind in (
        ("0000:01:00.0", "0x10de", "0x030200"),
        ("0000:01:00.1", "0x10de", "0x040300"),
        ("0000:02:00.0", "0x1a03", "0x030000"),
    ):
        (tmp_path / "pci" / name).mkdir(parents=True)
        (tmp_path / "pci" / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / "pci" / name / "class").write_text(f"{kind}\n")


def test_gpus_are_what_the_driver_says(driver):
    a100, t4 = gpus()
    assert a100 == Gpu(0, "NVIDIA A100-SXM4-40GB", 40 * GIB, 39 * GIB, (8, 0), True, {})
    assert a100.bf16
    assert t4.processes == {os.getpid(): 9 * GIB, 2**22 + 1: None}
    assert (t4.mig, t4.bf16) == (False, False)
    assert driver.open == 0


def test_each_gpu_is_a_check(driver):
    a100, t4 = hardware.gpus()
    assert (a100.name, a100.status, a100.advice) == ("gpu 0", "ok", None)
    assert a100.found == (
        "NVIDIA A100-SXM4-40GB, 39.0 of 40.0 GiB free, compute capability 8.0, bf16, divided by MIG"
    )
    assert (t4.name, t4.status) == ("gpu 1", "warning")
    assert t4.found.startswith("Tesla T4, 6.0 of 16.0 GiB free, compute capability 7.5, no bf16; ")
    assert f"process {os.getpid()} (" in t4.found
    assert t4.found.endswith(f") with 9.0 GiB, process {2**22 + 1}")
    assert "trainer.devices" in t4.advice


def test_no_driver_is_a_problem_where_there_is_a_card(driver, cards):
    driver.broken = "Driver/library version mismatch"
    (check,) = hardware.gpus()
    assert check.status == "problem"
    assert check.found == "the driver does not answer: Driver/library version mismatch"
    assert "reboot" in check.advice


def test_no_driver_is_no_problem_without_one(driver, tmp_path, monkeypatch):
    driver.broken = "NVML Shared Library Not Found"
    monkeypatch.setattr(machine, "PCI", tmp_path)
    assert list(hardware.gpus()) == []
    monkeypatch.setattr(machine, "PCI", tmp_path / "none")
    assert list(hardware.gpus()) == []


def test_cards_are_counted_without_a_driver(cards):
    assert nvidia_cards() == 1


@pytest.fixture
def torch(monkeypatch):
    """What torch says of CUDA: ``torch(built_for, its_error)``."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def torch(built, error=None):
        def init():
            raise RuntimeError(error)

        monkeypatch.setattr("torch.version.cuda", built)
        monkeypatch.setattr("torch.cuda.is_available", lambda: error is None and built is not None)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
        monkeypatch.setattr("torch.cuda.init", init)
        (check,) = hardware.cuda()
        return check

    return torch


NO_DRIVER = "Found no NVIDIA driver on your system. Please check that\nyou have an NVIDIA GPU"
OLD = "The NVIDIA driver on your system is too old (found version 11040)."


def test_a_gpu_without_a_driver_is_a_problem(torch, cards):
    check = torch("13.0", NO_DRIVER)
    assert check.status == "problem"
    assert check.found.endswith(f"and 1 NVIDIA cards, but: {' '.join(NO_DRIVER.split())}")
    assert "--gpus all" in check.advice


def test_a_driver_that_is_too_old_is_a_problem(torch, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PCI", tmp_path)  # not every machine shows its cards
    check = torch("13.0", OLD)
    assert (check.status, check.found.endswith(OLD)) == ("problem", True)
    assert check.advice.startswith("update NVIDIA's driver")


def test_a_torch_for_cpus_beside_a_gpu_is_a_problem(torch, cards):
    assert torch(None).status == "problem"


def test_no_gpu_is_no_problem(torch, tmp_path, monkeypatch, cards):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert torch("13.0", "No CUDA GPUs are available").status == "ok"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(machine, "PCI", tmp_path / "none")
    assert torch("13.0", NO_DRIVER).found.endswith("no NVIDIA GPU, so trainings run on the CPU")
    assert torch(None).status == "ok"


def test_torch_that_sees_gpus(torch):
    assert torch("13.0").found.endswith("for CUDA 13.0 sees 2 GPUs")


PERIOD = {"cpu/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("line", "files", "granted"),
    [
        ("0::/job", {"job/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/job", {"job/cpu.max": "max 100000\n"}, 8),
        ("2:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "50000", **PERIOD}, 0.5),
        ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", **PERIOD}, 8),
    ],
)
def test_cores_are_those_that_a_container_grants(line, files, granted, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "own").write_text(f"{line}\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores() == (8, granted)


def test_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cores", lambda: (8, 2.5))
    (check,) = hardware.cpu()
    assert (check.status, check.advice.split(":")[0]) == ("warning", "set OMP_NUM_THREADS=2")
    monkeypatch.setattr(machine, "cores", lambda: (8, 8))
    for load, status, advised in ((1.0, "ok", False), (7.5, "ok", True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0, 0))
        (check,) = hardware.cpu()
        assert (check.status, check.advice is not None) == (status, advised)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert next(iter(hardware.cpu())).advice is None


def test_little_memory(monkeypatch):
    monkeypatch.setattr(hardware, "main_memory", lambda: memory.Memory(8 * GIB, GIB))
    (check,) = hardware.memory()
    assert (check.status, check.found) == ("warning", "1.0 of 8.0 GiB free")


def test_shared_memory_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "SHARED", tmp_path)
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda p: SimpleNamespace(total=64 * 2**20))
    (check,) = hardware.shared_memory()
    assert (check.status, check.found) == ("warning", f"0.06 GiB in {tmp_path}")
    assert "--shm-size" in check.advice
    monkeypatch.setattr(hardware, "SHARED", tmp_path / "none")
    assert list(hardware.shared_memory()) == []


def test_the_job(monkeypatch):
    for names in hardware.JOBS.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    assert next(hardware.job()).found == "neither of SLURM nor of torchrun"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert next(hardware.job()).found == "SLURM SLURM_JOB_ID=12, SLURM_NTASKS=4"
