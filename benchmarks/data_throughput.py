"""Images a second of the ways to load them for training on ImageNet-style data.

Every way reads the same JPEGs, cuts the same kind of crop out (8 to 100 % of the area, 3:4 to 4:3),
scales it to 224x224, mirrors half of them and makes batches of 32 in main memory:

- ``torchvision v1``, ``v2``: ``ImageFolder``, PIL, ``RandomResizedCrop`` and ``DataLoader``
- ``timm``: its loader with ``fast_collate``, without the part of it that runs on the device
- ``litdata``: JPEGs in its chunks, decoded by torchvision, v2 transforms of uint8 tensors
- ``jpeg folder``, ``jpeg cache``, ``raw cache``: the ImageFolder here, and its ``cache``
- ``bare decoder``: the files read and decoded by simplejpeg, and nothing done with the pixels

The photographs are real: the 24 of Kodak (four crops of each, if the data sets lie beside the
project or where ``LIT_IMGPROC_DATA`` says) and scikit-learn's two (eight crops of each), as they
are and mirrored, 500x375, quality 96 with 4:2:0 chroma. That gives files of 90 KB; those of
ImageNet have 110 KB on average. They are in the page cache: disks are not measured.

With one core a way runs without workers on one CPU, and what counts is the time of that CPU, which
other work of the machine does not lengthen; with two it has two workers on two CPUs, and what
counts is the time of the clock. Each is a process of its own, and they take turns. Ratios are taken
within a round, medians over rounds: the machine's own speed drifts.

    python benchmarks/data_throughput.py            # two tables
    python benchmarks/data_throughput.py --json     # and a last line of JSON, of one core
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}

import numpy as np
from PIL import Image

SIDE, BATCH = 224, 32
HEIGHT, WIDTH, QUALITY = 375, 500, 96
BASE = "torchvision v1"
DATA = os.environ.get("LIT_IMGPROC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")


def photographs():
    """Crops of 375x500 of real photographs, uint8."""
    from sklearn.datasets import load_sample_images

    sources = [(image, 70, 26) for image in load_sample_images().images]  # 427x640
    for path in sorted(Path(DATA, "kodak24").glob("*.png")):  # 500x500
        sources.append((np.asarray(Image.open(path).convert("RGB")), WIDTH, 41))
    for image, step_x, step_y in sources:
        for top in range(0, image.shape[0] - HEIGHT + 1, step_y):
            for left in range(0, image.shape[1] - WIDTH + 1, step_x):
                crop = image[top : top + HEIGHT, left : left + WIDTH]
                yield from (crop, crop[:, ::-1])


def write_photographs(root):
    """A folder with two classes; returns the number and mean size of the training files."""
    sizes = []
    for number, pixels in enumerate(photographs()):
        folder = root / "train" / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:04}.jpg"
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=QUALITY)
        sizes.append(path.stat().st_size)
        if number < 2:
            (root / "val" / folder.name).mkdir(parents=True)
            (root / "val" / folder.name / path.name).write_bytes(path.read_bytes())
    return len(sizes), statistics.mean(sizes)


def torchvision_loader(root, workers, transforms):
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    return DataLoader(ImageFolder(root / "train", transforms), BATCH, shuffle=True,
                      num_workers=workers, persistent_workers=workers > 0)  # fmt: skip


def v1(root, workers):
    from torchvision import transforms as T

    steps = [T.RandomResizedCrop(SIDE), T.RandomHorizontalFlip(), T.ToTensor()]
    return torchvision_loader(root, workers, T.Compose(steps))


def v2(root, workers):
    import torch
    from torchvision.transforms import v2 as T

    steps = [T.ToImage(), T.RandomResizedCrop(SIDE), T.RandomHorizontalFlip(),
             T.ToDtype(torch.float32, scale=True)]  # fmt: skip
    return torchvision_loader(root, workers, T.Compose(steps))


def timm(root, workers):
    import torch
    from timm.data import create_dataset, create_loader

    dataset = create_dataset("", root=str(root / "train"))
    loader = create_loader(dataset, SIDE, BATCH, is_training=True, color_jitter=0.0,
                           num_workers=workers, persistent_workers=workers > 0,
                           device=torch.device("cpu"))  # fmt: skip
    return loader.loader


def chunk(path):
    """What litdata stores of a file: its own JPEG serializer keeps the bytes."""
    return {"image": Image.open(path), "label": int(path.parent.name[-1])}


def write_chunks(root):
    import litdata

    litdata.optimize(chunk, sorted((root / "train").rglob("*.jpg")), str(root / "chunks"),
                     num_workers=1, chunk_bytes="64MB", verbose=False)  # fmt: skip


def litdata_loader(root, workers):
    import litdata
    from torchvision.transforms import v2 as T

    crop = T.Compose([T.RandomResizedCrop(SIDE), T.RandomHorizontalFlip()])

    class Chunks(litdata.StreamingDataset):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return crop(item["image"]), item["label"]

    return litdata.StreamingDataLoader(Chunks(str(root / "chunks"), shuffle=True),
                                       batch_size=BATCH, num_workers=workers,
                                       persistent_workers=workers > 0)  # fmt: skip


def ours(root, cache):
    from lit_imgproc.data.imagenet.datamodule import ImageFolder

    return lambda workers: ImageFolder(
        root=str(root), image_size=SIDE, augment={"train": "random_resized_crop"}, cache=cache,
        cache_dir=str(root / "cache"), batch_size=BATCH, num_workers=workers,
    )  # fmt: skip


class Decoder:
    """The files, decoded: of a data set what it takes at least."""

    def __init__(self, root):
        self.paths = sorted((root / "train").rglob("*.jpg"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        import simplejpeg

        with open(self.paths[index], "rb") as file:
            simplejpeg.decode_jpeg(file.read())
        return index


def bare(root, workers):
    from torch.utils.data import DataLoader

    return DataLoader(Decoder(root), BATCH, num_workers=workers, collate_fn=len,
                      persistent_workers=workers > 0)  # fmt: skip


LOADERS = {
    BASE: v1,
    "torchvision v2": v2,
    "timm": timm,
    "litdata": litdata_loader,
    "bare decoder": bare,
    "jpeg folder": lambda root, workers: ours(root, None)(workers).train_dataloader(),
    "jpeg cache": lambda root, workers: ours(root, "jpeg")(workers).train_dataloader(),
    "raw cache": lambda root, workers: ours(root, "raw")(workers).train_dataloader(),
}


def serve(name, root, workers, cpus, pipe):
    """Pass over a loader's images whenever it is asked for, and send the seconds it took."""
    import torch

    os.sched_setaffinity(0, cpus)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of its workers, as is usual on Linux
    clock = time.perf_counter if workers else time.process_time
    loader = LOADERS[name](root, workers)
    for _ in range(2):  # the first pass starts workers
        for _ in loader:
            pass
    pipe.send("ready")
    while (passes := pipe.recv()) is not None:  # raises where the parent is gone
        begun = clock()
        for _ in range(passes):
            for _ in loader:
                pass
        pipe.send((clock() - begun) / passes)


def measure(root, workers, cpus, rounds):
    """The seconds of a pass, a list of rounds for each name."""
    context = multiprocessing.get_context("spawn")
    found = {name: [] for name in LOADERS}
    pipes = {}
    for name in LOADERS:
        pipes[name], end = context.Pipe()
        context.Process(target=serve, args=(name, root, workers, cpus, end)).start()
        end.close()  # so that its death is an end of file here
        assert pipes[name].recv() == "ready"
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(10 if name == "raw cache" else 2 if name == "jpeg cache" else 1)
            found[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(None)
    for process in multiprocessing.active_children():
        process.join()
    return found


def show(title, seconds, images):
    """Print a table; the ratio of each to torchvision v1."""
    ratios = {
        name: statistics.median(b / s for b, s in zip(seconds[BASE], row, strict=True))
        for name, row in seconds.items()
    }
    decoder = {
        name: statistics.median(b / s for b, s in zip(seconds["bare decoder"], row, strict=True))
        for name, row in seconds.items()
    }
    print(f"{title:16} images/s  of {BASE}  of bare decoder")
    for name, row in seconds.items():
        speed = images / statistics.median(row)
        print(f"{name:16} {speed:8.0f} {ratios[name]:18.2f} {decoder[name]:16.2f}")
    print(flush=True)
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images, size = write_photographs(root)
        print(f"{images} JPEGs of {WIDTH}x{HEIGHT}, {size / 1000:.0f} KB on average\n", flush=True)
        write_chunks(root)
        for cache in ("jpeg", "raw"):
            ours(root, cache)(0).prepare_cache(lambda items, title, count: items)
        one = show("one core", measure(root, 0, set(cpus[:1]), arguments.rounds), images)
        if len(cpus) > 1:
            show("two cores", measure(root, 2, set(cpus[:2]), arguments.rounds), images)
    if arguments.json:
        names = ("jpeg folder", "jpeg cache", "raw cache", "timm", "litdata", "bare decoder")
        print(json.dumps({name: round(one[name], 3) for name in names}))


if __name__ == "__main__":
    main()
