"""Several ranks, as gloo processes on the CPU: every image counted once, one run, one record."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from mlflow.tracking import MlflowClient

from lit_imgproc import load_recipe, load_run
from lit_imgproc.errors import UserError
from lit_imgproc.recipes import ranks

TEST_IMAGES = 1001  # odd, so that two ranks cannot share them evenly


@pytest.fixture
def odd_test_set(tmp_path):
    """An idx set in MNIST's format whose classes are places of a bright bar."""
    folder = tmp_path / "odd"
    folder.mkdir()
    random = np.random.default_rng(0)
    for stem, count in (("train", 240), ("t10k", TEST_IMAGES)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = random.integers(0, 120, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label + 3 : 2 * label + 5] += 60
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([0x801, count], ">i4").tobytes()
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return folder


@pytest.fixture
def options(odd_test_set, store):
    return (
        "data.name=mnist", f"data.root={odd_test_set}", "data.num_workers=0", "data.batch_size=16",
        "data.image_size=null", "trainer.max_epochs=1", "trainer.accelerator=cpu",
        f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}",
    )  # fmt: skip


def test_two_ranks_measure_what_one_measures(options, store):
    trained = load_recipe("quickstart", *options).train()
    again = (*options, f"model.weights=run:{trained.id}", "trainer.max_epochs=0")
    one = load_recipe("quickstart", *again).train()
    assert one.metrics["test/accuracy"] == trained.metrics["test/accuracy"]
    for strategy in ("ddp", "model_parallel"):
        asked = (*again, "trainer.devices=2", f"trainer.strategy={strategy}")
        two = load_recipe("quickstart", *asked).train()
        tested = {name for name in one.metrics if name.startswith("test/")}
        assert len(tested) > 10
        for name in tested:
            assert two.metrics[name] == pytest.approx(one.metrics[name], abs=1e-6), name
    # One rank logs: four trainings, four runs.
    experiment = MlflowClient(store.uri).get_experiment_by_name("quickstart")
    assert len(MlflowClient(store.uri).search_runs([experiment.experiment_id])) == 4


def test_sharded_training_equals_ddp_and_its_checkpoint_loads(options):
    losses = {}
    for strategy in ("ddp", "model_parallel"):
        asked = (*options, "trainer.devices=2", f"trainer.strategy={strategy}")
        run = load_recipe("quickstart", *asked).train()
        assert run.predict(np.zeros((28, 28), np.uint8))[0]["label"] in list("0123456789")
        losses[strategy] = run.metrics["test/loss"]
    assert losses["ddp"] == pytest.approx(losses["model_parallel"], rel=1e-3)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def test_torchrun_starts_the_same_worker(options, store, tmp_path):
    experiment = load_recipe("quickstart", *options, "trainer.devices=2")
    frozen, result = tmp_path / "frozen.yaml", tmp_path / "result.json"
    frozen.write_text(yaml.safe_dump(experiment.frozen))
    worker = ["-m", "lit_imgproc.worker", str(frozen), "--result", str(result)]
    subprocess.run([*TORCHRUN, *worker], check=True, cwd=tmp_path)
    run = load_run(json.loads(result.read_text())["run_id"], uri=store.uri)
    assert run.status == "FINISHED"
    assert run.recipe["trainer"]["devices"] == 2


def test_a_script_under_torchrun_is_a_rank(options, store, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom lit_imgproc import load_recipe\nfrom lit_imgproc.worker import leave\n"
        "print('ended', load_recipe('quickstart', *sys.argv[1:]).train().id, flush=True)\n"
        "leave(0)\n"
    )
    command = [*TORCHRUN, str(script), *options, "trainer.devices=2"]
    done = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    ended = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ended")]
    assert len(ended) == 2
    assert len(set(ended)) == 1  # both ranks give the one run
    experiment = MlflowClient(store.uri).get_experiment_by_name("quickstart")
    assert len(MlflowClient(store.uri).search_runs([experiment.experiment_id])) == 1


def test_two_jobs_on_a_new_experiment_both_log(options, store, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import sys\nfrom lit_imgproc import load_recipe\n"
        "load_recipe('quickstart', *sys.argv[1:]).train()\n"
    )
    command = [sys.executable, str(script), *options, "tracking.experiment=brand-new"]
    jobs = [subprocess.Popen(command, cwd=tmp_path) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name("brand-new")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert all("test/accuracy" in run.data.metrics for run in runs)


def test_a_failing_rank_is_told_and_the_run_is_failed(options, store):
    # The network expects three channels, the images have one: the first batch raises.
    asked = (*options, "trainer.devices=2", "model.network.in_channels=3")
    experiment = load_recipe("quickstart", *asked)
    with pytest.raises(ranks.RankFailed, match=r"exit code 1; run \w+ holds the traceback"):
        experiment.train()
    assert experiment.result().status in ("FAILED", "KILLED")


@pytest.mark.parametrize(
    ("options", "count"),
    [({"devices": 4}, 4), ({"devices": "3"}, 3), ({"devices": [0, 5]}, 2), ({"devices": "0,1"}, 2),
     ({"devices": "auto", "accelerator": "cpu"}, 1), ({"devices": -1, "accelerator": "cpu"}, 1)],
)  # fmt: skip
def test_devices_are_counted_as_lightning_does(options, count):
    assert ranks.asked(options) == count


def test_several_nodes_are_started_by_the_person(options):
    experiment = load_recipe("quickstart", *options, "trainer.num_nodes=2")
    with pytest.raises(UserError, match="on every node"):
        experiment.train()
