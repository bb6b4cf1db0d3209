"""The memory that ImageNet-style data takes, and what keeping a small set in memory is worth.

- ``index``: what 100,000 files cost a loader's worker over 1,000 files, after an epoch's order was
  begun: the private memory of two forked workers that was written to. The limit is 50 MB. And how
  long it takes to list and look at so many files.
- ``epochs``: memory that is private to the training process and its two workers, over 20 epochs of
  real decoding and augmentation, for each kind of cache. The median of the last five
  may be 5 MB above that of the fifth to the ninth: a single epoch is off by as much either way.
- ``device``: an epoch of batches of Fashion-MNIST with ``crop_flip``, made in whole batches where
  the images lie (``data.cache=device``) and one by one (``memory``, without workers). On a GPU, if
  there is one.

    python benchmarks/data_memory.py            # a table; fails above a limit
    python benchmarks/data_memory.py --json     # and a last line of JSON
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}

import cv2
import numpy as np
import psutil

MB = 1e6
FILES, FEW = 100_000, 1_000
EPOCHS, SETTLED, TAKEN = 20, 5, 5
INDEX_LIMIT, GROWTH_LIMIT = 50 * MB, 5 * MB
CACHES = (None, "jpeg", "raw", "memory")
DATA = os.environ.get("LIT_IMGPROC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")


def write_images(root, count, shape):
    """Two classes of blurred noise as JPEGs; of many files, links to one in a hundred."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = root / f"class_{number % 2}" / f"picture_{number:08}.jpg"
        if number < max(2, count // 100) or count < FEW:
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = random.integers(0, 256, (*(side // 8 for side in shape), 3), np.uint8)
            cv2.imwrite(str(path), cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC))
        else:
            first = number % max(2, count // 100)
            os.link(root / f"class_{first % 2}" / f"picture_{first:08}.jpg", path)


def folder(root, cache=None, **arguments):
    from lit_imgproc.data.imagenet.datamodule import ImageFolder

    settings = {"image_size": 224, "augment": {"train": "random_resized_crop"}, "num_workers": 2}
    return ImageFolder(root=str(root), cache=cache, batch_size=32, **(settings | arguments))


def private(process):
    """Bytes that a process has written to and shares with no other.

    Not all that is its own: pages of libraries are, or not, by what else runs on the machine.
    """
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    (line,) = (line for line in rollup.splitlines() if line.startswith("Private_Dirty:"))
    return int(line.split()[1]) * 1024


def index(root):
    """Seconds to read the index, and the private memory of the worker that has most."""
    data = folder(root, image_size=32)
    begun = time.perf_counter()
    data.prepare()
    seconds = time.perf_counter() - begun
    loader = data.train_dataloader()
    batches = iter(loader)
    for _ in itertools.islice(batches, 25):  # of the few files there are no more
        pass
    workers = [private(process) for process in psutil.Process().children()]
    return {"seconds": seconds, "worker": max(workers)}


def epochs(root, cache):
    """Private memory of this process and its workers after each epoch."""
    cache = None if cache == "None" else cache
    data = folder(root, cache)
    if cache in ("jpeg", "raw"):
        data.prepare_cache(lambda values, what, total: values)
    loader, this, found = data.train_dataloader(), psutil.Process(), []
    for epoch in range(EPOCHS):
        loader.batch_sampler.set_epoch(epoch)
        for _ in loader:
            pass
        found.append(sum(map(private, [this, *this.children()])))
    return found


def device(root, cache):
    """Seconds of an epoch of batches, the best of three."""
    import torch

    from lit_imgproc.data.imagenet.datamodule import FashionMNIST
    from lit_imgproc.data.on_device import OnDevice

    torch.set_num_threads(1)
    data = FashionMNIST(root=root, cache=cache, augment={"train": "crop_flip"}, batch_size=128,
                        num_workers=0)  # fmt: skip
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = data.train_dataloader()
    if cache == "device":
        loader.dataset.__dict__ |= OnDevice(data.dataset("train"), "crop_flip", where).__dict__
    times = []
    for _ in range(4):  # the first warms up
        begun = time.perf_counter()
        for batch in loader:
            batch["image"].to(where)
        if where.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return {"seconds": min(times[1:]), "device": str(where)}


def alone(*command):
    """What a part of this script finds in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--part", *map(str, command)],
                          check=True, stdout=subprocess.PIPE, text=True)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        name, *rest = arguments.part
        print(json.dumps({"index": index, "epochs": epochs, "device": device}[name](*rest)))
        return
    found, failed = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for count in (FEW, FILES):
            write_images(root / str(count), count, (32, 32))
        few, many = alone("index", root / str(FEW)), alone("index", root / str(FILES))
        cost = many["worker"] - few["worker"]
        found |= {"index MB a worker": cost / MB, "index seconds": many["seconds"]}
        print(f"{FILES} files: {many['seconds']:.1f} s to read, {cost / MB:.1f} MB a worker",
              flush=True)  # fmt: skip
        if cost > INDEX_LIMIT:
            failed.append(f"the index costs a worker {cost / MB:.0f} MB")
        write_images(root / "epochs", 320, (376, 504))
        for cache in CACHES:
            held = alone("epochs", root / "epochs", cache)
            early = statistics.median(held[SETTLED - 1 :][:TAKEN])
            late = statistics.median(held[-TAKEN:])
            growth = late - early
            found[f"growth MB, cache {cache}"] = growth / MB
            print(f"cache {cache!s:6}: {early / MB:.0f} MB from epoch {SETTLED} on, "
                  f"{late / MB:.0f} MB in the last {TAKEN}", flush=True)  # fmt: skip
            if growth > GROWTH_LIMIT:
                failed.append(f"with cache {cache} it grows by {growth / MB:.0f} MB")
    if Path(DATA, "fashion_mnist").is_dir():
        plain, there = (
            alone("device", Path(DATA, "fashion_mnist"), c) for c in ("memory", "device")
        )
        found["device over memory"] = plain["seconds"] / there["seconds"]
        print(f"an epoch of Fashion-MNIST: {plain['seconds']:.2f} s one by one, "
              f"{there['seconds']:.2f} s in batches on {there['device']} "
              f"({found['device over memory']:.1f} times faster)")  # fmt: skip
    if arguments.json:
        print(json.dumps({name: round(value, 2) for name, value in found.items()}))
    if failed:
        sys.exit("; ".join(failed))


if __name__ == "__main__":
    main()
