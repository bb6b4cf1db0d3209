import json
import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_imgproc.callbacks.ema import EMA
from lit_imgproc.data.imagenet.datamodule import Digits
from lit_imgproc.errors import UserError
from lit_imgproc.recipes import batch_size
from lit_imgproc.recipes.batch_size import _Trials, find_batch_size, largest_that, line_through
from lit_imgproc.recipes.compose import compose
from lit_imgproc.recipes.experiment import load_recipe
from lit_imgproc.recipes.memory import GIB, Memory
from lit_imgproc.recipes.schema import validate
from lit_imgproc.recipes.text import RecipeError, dump
from lit_imgproc.recipes.trial import Trial, _first, _OneEpoch

MIB = 2**20


@pytest.fixture
def free(monkeypatch):
    """Pretend that so many bytes of memory are free."""

    def free(amount):
        monkeypatch.setattr(batch_size, "main_memory", lambda: Memory(2**50, int(amount)))

    return free


@pytest.fixture
def recipe():
    """A toy recipe of a network that takes some 1.7 MiB an image, with an average of its weights.

    The recipe's own schedule, which a training of three steps would be too short for, is kept.
    """
    return load_recipe(
        "quickstart",
        *("data.batch_size=auto", "data.image_size=64", "callbacks.ema={}"),
        *("model.schedule={name: one_cycle}", "trainer.limit_train_batches=1.0"),
        toy=True,
    ).recipe


# The recipe's value ------------------------------------------------------------------------------


def test_auto_is_a_batch_size():
    validate(compose("quickstart", ["data.batch_size=auto"]))
    validate(compose("quickstart", ["data.batch_size=8"]))


@pytest.mark.parametrize(
    ("value", "shown", "hint"),
    [("automatic", '"automatic"', "; did you mean auto?"), ("0", "0", ""), ("-3", "-3", "")],
)
def test_other_words_and_numbers_are_refused(value, shown, hint):
    with pytest.raises(RecipeError) as refused:
        validate(compose("quickstart", [f"data.batch_size={value}"]))
    assert refused.value.lines == [
        f'override: data.batch_size: got {shown}; an integer greater than 0 or "auto" is needed'
        f"{hint}"
    ]


def test_a_datamodule_itself_wants_a_number():
    with pytest.raises(UserError, match="give one here"):
        Digits(batch_size="auto")


# The search --------------------------------------------------------------------------------------


@pytest.mark.parametrize("smallest", [1, 2])
@pytest.mark.parametrize("largest", [2, 7, 8, 20, 211, 1024])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 8, 9, 15, 16, 100, 127, 128, 129, 1024, 5000])
def test_the_largest_multiple_of_8_or_smaller_power_of_2(smallest, largest, limit):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= limit

    allowed = [n for n in (1, 2, 4, *range(8, 1025, 8)) if smallest <= n <= min(largest, limit)]
    assert largest_that(fits, smallest, largest) == (max(allowed) if allowed else None)
    assert len(tried) == len(set(tried))
    assert all(smallest <= size <= largest for size in tried)
    # Nothing is tried that is more than twice as large as what fits.
    assert max(tried) <= max(smallest, 2 * limit)


def test_the_model_of_memory_is_monotone():
    # Also where the allocator kept more back after the smaller size.
    for measured in ({0: 500, 2: 700}, {0: 900, 2: 700, 4: 900}, {0: 5, 8: 900, 16: 800}):
        predicted = [line_through(measured, size) for size in range(max(measured), 200)]
        assert predicted == sorted(predicted)
    assert line_through({0: 100, 4: 300, 8: 500}, 16) == 900


# Real recipes ------------------------------------------------------------------------------------


PEAKS = """
import json, sys, yaml
from lit_imgproc.recipes.trial import Trial
trial = Trial(yaml.safe_load(open(sys.argv[1])))
print(json.dumps([trial.peak(size) for size in (8, 64, 128)]))
"""


def test_trial_steps_take_more_memory_for_more_images(recipe, tmp_path):
    # In a process of its own: one that has freed much memory before takes it from there.
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(recipe))
    command = [sys.executable, "-W", "ignore", "-c", PEAKS, str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    few, some, many = json.loads(done.stdout.splitlines()[-1])
    assert few < some < many
    # Twice the images, about twice the growth: allocators ask for memory in steps.
    assert 0.25 < (many - some) / (some - few) < 4


def test_a_trial_says_what_it_trains_on(recipe):
    facts = Trial(recipe).facts()
    assert (facts["device"], facts["ranks"], facts["smallest"]) == ("main memory", 1, 2)
    assert facts["largest"] == facts["images"] == 211


def test_what_a_training_holds_beside_is_held(recipe):
    recipe["trainer"] |= {"devices": 2, "num_nodes": 3, "accumulate_grad_batches": 8}
    trial = Trial(recipe)
    assert [block["name"] for block in trial.averages] == ["ema"]
    facts = trial.facts()
    assert (facts["ranks"], facts["largest"]) == (2, 211 // 6)
    ends = []

    class Spy(_OneEpoch):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            (ema,) = (c for c in trainer.callbacks if isinstance(c, EMA))
            (optimizer,) = trainer.optimizers
            ends.append((trainer.global_step, len(optimizer.state), ema._average_model, self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_imgproc.recipes.trial._OneEpoch", Spy)
        trial.peak(4)
    # Five batches, of which two make a step; the last one ends an epoch, and so makes one too.
    ((steps, states, average, beside),) = ends
    weights = [p for p in average.module.parameters() if p.requires_grad]
    assert (steps, states) == (3, len(weights))
    assert [b.shape for b in beside.buckets] == [p.shape for p in weights]


def test_a_gpu_is_asked_for_its_own_memory(recipe, monkeypatch):
    asked = []
    trial = Trial(recipe)
    trial.device = torch.device("cuda", 3)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (20 * GIB, 40 * GIB))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(
        "torch.cuda.set_per_process_memory_fraction", lambda *of: asked.append(("cap", *of))
    )
    facts = trial.facts()
    assert (facts["device"], facts["limit"], facts["idle"]) == ("NVIDIA A100", 18 * GIB, 0)
    assert asked == [("cap", 0.45, trial.device)]

    monkeypatch.setattr("torch.cuda.empty_cache", lambda: asked.append("emptied"))
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda of: asked.append(of))
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda of: 7 * GIB)
    assert trial.peak(2) == 7 * GIB
    assert asked[1:3] == ["emptied", trial.device]

    trial.device = torch.device("mps")
    with pytest.raises(UserError, match="not at mps: set a number"):
        trial.facts()


@pytest.mark.parametrize(
    ("devices", "first"), [(None, 1), ("auto", 1), (4, 1), ([2, 3], [2]), ("2,3", [2]), ("2,", [2])]
)
def test_one_of_the_devices_is_enough(devices, first):
    assert _first(devices) == first


def _numpy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002  (the global one, which is meant)


def test_it_finds_what_fits_and_leaves_no_trace(recipe, free, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = recipe | {"data": dict(recipe["data"])}
    torch.manual_seed(1)
    states = random.getstate(), _numpy_state(), torch.get_rng_state()

    free(100 * GIB)
    assert find_batch_size(recipe) == 208  # of 211 training images
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "data.batch_size=auto: 208 (the most that is tried with 211 training images) fits into "
        "80.0 GiB of main memory; the learning rate is as it was, though the best one depends on "
        "the batch size"
    )

    assert recipe == before
    assert random.getstate() == states[0]
    assert _numpy_state() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert not list(Path.cwd().iterdir())
    assert not list((tmp_path / "temporary").iterdir())


def test_less_memory_smaller_batches(recipe, free, capsys, tmp_path):
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    with closing(_Trials(tmp_path / "recipe.yaml")) as trials:
        trials.start()
        assert all(trials.fits(size) for size in (8, 64))
    free(line_through(trials.measured, 100) / batch_size.SHARE)
    found = find_batch_size(recipe)
    assert 8 <= found < 208
    assert found % 8 == 0
    assert f"{found} fits" in capsys.readouterr().out


def test_not_even_the_smallest_fits(recipe, free):
    free(100 * MIB)
    with pytest.raises(UserError) as refused:
        find_batch_size(recipe)
    assert str(refused.value) == (
        "data.batch_size=auto: not even 2 images train in 0.1 GiB of main memory; what needs less: "
        "trainer.precision=bf16-mixed; a smaller data.image_size than 64; "
        "a smaller model.network than convnet"
    )


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.root=nowhere", "nowhere"),
        ("model.network.in_channels=3", "another reason than memory.*: RuntimeError: .*channels"),
    ],
)
def test_what_fails_for_another_reason_is_said(override, sentence, free):
    free(100 * GIB)
    recipe = load_recipe("quickstart", "data.batch_size=auto", override, toy=True).recipe
    with pytest.raises(UserError, match=sentence):
        find_batch_size(recipe)


@pytest.mark.parametrize("variables", [{"TORCHELASTIC_RUN_ID": "x"}, {"SLURM_STEP_NUM_TASKS": "2"}])
def test_ranks_do_not_search_each_for_itself(recipe, variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="before ranks are started"):
        find_batch_size(recipe)


# The process that tries, faked -------------------------------------------------------------------

FAKE = """\
import json, os, signal, sys
facts = {"device": "Fake GPU", "limit": %(limit)d, "ranks": 1, "images": 5000, "smallest": 1,
         "largest": 5000, "idle": 0}
print(json.dumps(facts), flush=True)
for line in sys.stdin:
    size = int(line)
    with open(%(log)r, "a") as log:
        print(size, file=log)
    if size > 300:
        %(end)s
        sys.exit()
    print(json.dumps({"bytes": size}), flush=True)
"""


@pytest.mark.parametrize(
    "end",
    [
        'print("{}")',  # torch said that memory ran out
        "os.kill(os.getpid(), signal.SIGKILL)",  # the system did
        'print(json.dumps({"error": "too many elements for a kernel"}))',
        'sys.exit("Segmentation fault")',
    ],
)
def test_a_gpu_is_tried_in_a_new_process_after_each_failure(end, recipe, tmp_path, monkeypatch):
    fake, log = tmp_path / "fake.py", tmp_path / "log"
    fake.write_text(FAKE % {"limit": 1000, "log": str(log), "end": end})
    popen = batch_size.subprocess.Popen

    def started(command, **options):
        return popen([command[0], str(fake)], **options)

    monkeypatch.setattr(batch_size.subprocess, "Popen", started)
    assert find_batch_size(recipe) == 296
    tried = [int(line) for line in log.read_text().split()]
    assert tried == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 384, 320, 288, 304, 296]


def test_more_than_the_limit_of_a_gpu_does_not_fit(recipe, tmp_path, monkeypatch):
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE % {"limit": 100, "log": os.devnull, "end": "pass"})
    popen = batch_size.subprocess.Popen
    monkeypatch.setattr(
        batch_size.subprocess, "Popen", lambda command, **o: popen([command[0], str(fake)], **o)
    )
    assert find_batch_size(recipe) == 96


def test_a_run_records_the_number_and_goes_on_with_it(store, monkeypatch):
    found = []

    def find(recipe):
        found.append(recipe["data"]["batch_size"])
        return 24

    monkeypatch.setattr("lit_imgproc.recipes.experiment.find_batch_size", find)
    options = (
        f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}", "data.num_workers=0",
        "trainer.max_epochs=1", "trainer.limit_train_batches=2", "data.batch_size=auto",
    )  # fmt: skip
    run = load_recipe("quickstart", *options).train()
    assert run.recipe["data"]["batch_size"] == 24
    assert run.record.data.params["data.batch_size"] == "24"
    longer = load_recipe("quickstart", *options, "trainer.max_epochs=2").train(resume=run.id)
    assert (longer.id, longer.recipe["data"]["batch_size"]) == (run.id, 24)
    assert found == ["auto"]  # the run's number is not looked for again
