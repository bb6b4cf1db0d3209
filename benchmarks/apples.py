"""Whether golden apples that CycleGAN turned into red ones are taken for red ones, and back.

    python benchmarks/apples.py CYCLEGAN_RUN [--picture grid.png]

A small classifier learns golden (A) from red (B) by the real training apples of the run
(`translation/cyclegan_apples`) and never sees one that was translated. It is told how often it is
right about real apples that were held out, which are of other varieties, and how often it calls
these, translated, what they were to become: with Wilson's intervals of 95 %. Beside it stand how
far the apples are from themselves after both ways and after one: a translation that can be undone
has the first well below the second. Differences are means of absolute values, of pixels in [0, 1].
"""

import argparse
from itertools import chain
from pathlib import Path
from statistics import NormalDist

import cv2
import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_imgproc import load_run
from lit_imgproc.data.base import Split
from lit_imgproc.data.decode import read_image
from lit_imgproc.data.pairs.unpaired import UnpairedDataset, UnpairedImages
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.models.classification.small import ConvNet
from lit_imgproc.models.translation.cyclegan import CycleGAN
from lit_imgproc.optim import AdamW, OneCycle
from lit_imgproc.recipes.quiet import quiet

KINDS = ("golden", "red")
EPOCHS = 10


def apples(data: UnpairedImages, *splits: Split) -> list[Tensor]:
    """All images of A and all of B, float32 ``[N,3,H,W]`` in [0, 1], as evaluation sees them."""
    datasets = [data.dataset(split) for split in splits]
    kinds: list[list[str]] = [[], []]
    for dataset in datasets:
        assert isinstance(dataset, UnpairedDataset)
        for names, more in zip(kinds, (dataset.names, dataset.targets), strict=True):
            names += more
    spec = data.input_spec()
    read = [[spec(read_image(Path(data.root, name), 3)) for name in names] for names in kinds]
    return [torch.from_numpy(np.stack(one)).permute(0, 3, 1, 2) / 255 for one in read]


def classifier(kinds: list[Tensor], seed: int) -> Classifier:
    """Trained on real apples, mirrored at random."""
    pl.seed_everything(seed, verbose=False)
    module = Classifier(
        network=ConvNet(num_classes=2, in_channels=3),
        num_classes=2,
        class_names=list(KINDS),
        mean=[0.5] * 3,
        std=[0.5] * 3,
        optimizer=AdamW(lr=3e-3),
        schedule=OneCycle(),
    )
    images = [(image, label) for label, some in enumerate(kinds) for image in some]
    both = ((image, label) for image, label in chain(images, ((i.flip(2), k) for i, k in images)))
    samples = [{"image": i, "label": k, "id": str(n)} for n, (i, k) in enumerate(both)]
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, DataLoader(samples, batch_size=64, shuffle=True))
    return module.eval()


def wilson(right: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share (E. B. Wilson, JASA 22, 209)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = right / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z * (share * (1 - share) / count + weight / (4 * count)) ** 0.5 / (1 + weight)
    return middle - half, middle + half


def said(module: Classifier, images: Tensor, label: int) -> str:
    """How many of the images are called by a label, with the interval."""
    called = int((module(images).argmax(1) == label).sum())
    low, high = wilson(called, len(images))
    return f"{called}/{len(images)} = {called / len(images):.1%} ({low:.1%} to {high:.1%})"


def apart(one: Tensor, other: Tensor) -> str:
    """The mean absolute difference."""
    return f"{(one - other).abs().mean():.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="id of a run of CycleGAN")
    parser.add_argument("--seed", type=int, default=0, help="of the classifier")
    parser.add_argument("--picture", help="a PNG file of eight apples of each kind and back")
    given = parser.parse_args()
    quiet()
    run = load_run(given.run)
    module, data = run.module, run.datamodule
    assert isinstance(module, CycleGAN)
    assert isinstance(data, UnpairedImages)
    judge = classifier(apples(data, "train", "val"), given.seed)
    held_out = apples(data, "test")
    columns: list[list[str]] = []
    with torch.inference_mode():
        for kind, images in enumerate(held_out):
            target = 1 - kind
            module.direction = "forward" if kind == 0 else "backward"
            made = module(images)
            module.direction = "backward" if kind == 0 else "forward"
            again = module(made)
            columns.append(
                [
                    f"{KINDS[kind]} → {KINDS[target]}",
                    said(judge, images, kind),
                    said(judge, made, target),
                    apart(again, images),
                    apart(made, images),
                ]
            )
        if given.picture:
            shown = [one[:: max(1, len(one) // 8)][:8] for one in held_out]
            sheet = module.draw(dict(zip(("image", "target"), shown, strict=True)), [])
            cv2.imwrite(given.picture, sheet[:, :, ::-1])
    names = (
        "",
        "real apples called what they are",
        f"translated apples called {KINDS[1]} / {KINDS[0]}",
        "difference after both ways",
        "difference after one way",
    )
    rows = zip(names, *columns, strict=True)
    print("| " + " | ".join(next(rows)) + " |\n| --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
