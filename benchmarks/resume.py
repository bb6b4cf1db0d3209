"""Kill a training with SIGKILL, go on each time, and compare it with one that was left alone.

The small CNN trains on Fashion-MNIST with mixup, EMA, accumulated gradients and validations within
the epoch. It is killed amid steps, amid validations, while it writes a checkpoint, and at moments
drawn from a clock. After each kill the run is gone on with. In the end weights, optimizer, EMA and
every point of every metric have to be those of the training that was left alone, bit for bit, and
there has to be one MLflow run.

    python benchmarks/resume.py                       # 20 kills with 0, 2 and 4 workers each
    python benchmarks/resume.py --ranks 2 --workers 0 # two gloo ranks, one of which is killed
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve()
sys.path.append(str(HERE.parents[1] / "tests" / "recipes"))
DATA = os.environ.get("LIT_IMGPROC_DATA", str(HERE.parents[2] / "shared" / "data"))

RECIPE = (
    "classification/convnet_fashion_mnist", f"data.root={DATA}/fashion_mnist",
    "trainer.max_epochs=4", "trainer.limit_train_batches=200", "trainer.limit_val_batches=10",
    "trainer.limit_test_batches=10", "trainer.val_check_interval=20",
    "trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=3", "model.mixup=0.2",
    "callbacks.ema.decay=0.95", "callbacks.checkpoint.every_n_steps=7", "data.batch_size=32",
    "trainer.accelerator=cpu", "trainer.enable_model_summary=false",
)  # fmt: skip
STEPS = 400  # optimizer steps of the whole training
AMID_A_STEP = ("on_train_batch_start", "on_after_backward", "on_before_optimizer_step",
               "on_before_zero_grad", "on_train_batch_end", "on_step_end")  # fmt: skip
AMID_A_VALIDATION = ("on_validation_start", "on_validation_batch_end", "on_validation_epoch_end",
                     "on_validation_end")  # fmt: skip


def child(task):
    """Train, and be killed at the moment that the task names."""
    from lit_imgproc import checkpoints, load_recipe
    from lit_imgproc.callbacks.loop import StepCallback
    from lit_imgproc.recipes.experiment import Experiment

    left = task["count"]

    def kill(*args, **kwargs):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if task["kind"] == "write":
        pass_on = checkpoints._Digested._pass_on
        checkpoints._Digested._pass_on = lambda self, block: (kill(), pass_on(self, block))
    elif task["kind"] == "hook":
        killer = type("Killer", (StepCallback,), {task["hook"]: lambda self, *a, **k: kill()})
        callbacks = Experiment._callbacks
        Experiment._callbacks = lambda self, told: [*callbacks(self, told), killer()]
    load_recipe(*task["recipe"]).train(resume=task["resume"])


def start(folder, recipe, resume, moment):
    task = json.dumps({"recipe": recipe, "resume": resume, **moment})
    with (folder / "output").open("a") as output:
        command = [sys.executable, str(HERE), "--child", task]
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)


def drawn(random_, steps_left, kills_left, ranks):
    """The kind, the hook and the how-manieth call of it that the next kill is at."""
    steps = random_.randint(1, max(1, 2 * steps_left // (kills_left + 1)))
    kind = random_.choice(["step", "validation", "write", "clock"]) if ranks == 1 else "clock"
    if kind == "step":
        return kind, {"kind": "hook", "hook": random_.choice(AMID_A_STEP), "count": steps}
    if kind == "validation":
        hook = random_.choice(AMID_A_VALIDATION)
        count = random_.randint(1, 10) if hook.endswith("batch_end") else 1
        return kind, {"kind": "hook", "hook": hook, "count": count}
    if kind == "write":
        return kind, {"kind": "write", "count": random_.randint(1, 400)}
    return kind, {"kind": "clock", "count": steps, "wait": random_.random()}


def kill_by_the_clock(process, moment, folder, ranks, random_):
    """Kill the process, or one of its ranks, some time after it has saved a state."""
    import psutil

    begun = time.time()
    while process.poll() is None and not saved_since(begun, folder):
        time.sleep(0.05)
    time.sleep(moment["wait"] / 2)
    if process.poll() is not None:
        return
    if ranks == 1:
        process.kill()
        return
    children = psutil.Process(process.pid).children(recursive=True)
    random_.choice([c for c in children if c.environ().get("LOCAL_RANK")][:ranks]).kill()


def saved_since(begun, folder):
    found = folder.glob("mlruns/artifacts/*/artifacts/checkpoints/last.ckpt")
    return any(path.stat().st_mtime > begun for path in found)


def measure(folder, workers, ranks, kills, seed):
    from resuming import differences, points, state

    from lit_imgproc import checkpoints, load_run
    from lit_imgproc.tracking.records import list_runs

    alone_at, killed_at = (
        SimpleNamespace(uri=f"sqlite:///{folder}/{name}/mlruns/mlflow.db")
        for name in ("alone", "killed")
    )
    random_ = random.Random(seed)
    recipe = [*RECIPE, f"data.num_workers={workers}", f"trainer.devices={ranks}"]
    (folder / "alone").mkdir(parents=True)
    (folder / "killed").mkdir()
    alone = [*recipe, f"tracking.uri={alone_at.uri}"]
    killed = [*recipe, f"tracking.uri={killed_at.uri}"]
    if start(folder / "alone", alone, None, {"kind": "none", "count": 0}).wait() != 0:
        sys.exit((folder / "alone" / "output").read_text())

    run_id, step, done = None, 0, Counter()
    while True:
        left = kills - done.total()
        kind, moment = drawn(random_, STEPS - step, left, ranks)
        if left == 0:
            kind, moment = "none", {"kind": "none", "count": 0}
        process = start(folder / "killed", killed, run_id, moment)
        if kind == "clock":
            kill_by_the_clock(process, moment, folder / "killed", ranks, random_)
        code = process.wait()
        if code == 0:
            break
        if code != -signal.SIGKILL and ranks == 1:
            sys.exit((folder / "killed" / "output").read_text())
        done[kind] += 1
        rows = list_runs(killed_at.uri)
        run_id = rows[0]["run_id"] if rows else None
        path = load_run(run_id, uri=killed_at.uri).last_checkpoint() if run_id else None
        step = checkpoints.read(path)["global_step"] if path else 0
        print(f"  killed at {kind}, goes on from step {step}", flush=True)

    [row] = list_runs(alone_at.uri)
    expected = load_run(row["run_id"], uri=alone_at.uri)
    rows = list_runs(killed_at.uri)
    found = load_run(rows[0]["run_id"], uri=killed_at.uri)
    wrong = differences(state(expected), state(found))
    metrics = points(alone_at, expected.id), points(killed_at, found.id)
    wrong += [k for k in {*metrics[0], *metrics[1]} if metrics[0].get(k) != metrics[1].get(k)]
    count = sum(map(len, metrics[1].values()))
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(done.items()))
    print(f"{workers} workers, {ranks} ranks: {done.total()} kills ({kinds}); {len(rows)} run, "
          f"{found.status}; {count} points; " + ("equal" if not wrong else f"DIFFERENT: {wrong}"),
          flush=True)  # fmt: skip
    return not wrong and len(rows) == 1 and found.status == "FINISHED" and done.total() >= kills


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for workers in arguments.workers:
            place = Path(folder, f"{workers}-{arguments.ranks}")
            seed = arguments.seed + workers
            good &= measure(place, workers, arguments.ranks, arguments.kills, seed)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
