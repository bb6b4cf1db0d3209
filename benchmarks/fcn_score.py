"""Whether a segmenter finds in photographs that were made of maps what the maps say: FCN-score.

    python benchmarks/fcn_score.py PIX2PIX_RUN UNET_L1_RUN SEGMENTER_RUN [--picture grid.png]

The score of pix2pix's paper (arXiv 1611.07004, section 4.1): a segmenter that was trained on real
photographs segments those that were made of maps, and is scored by the maps. Beside the two runs
(`translation/pix2pix_dubai` and `translation/unet_l1_dubai`) stand the real photographs, which is
what can be reached, and the mean colour of each class in the training photographs, which is what
needs no network. All are of the test split of the first run, whole photographs at their own size.
"""

import argparse
import json
from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lit_imgproc import load_run, pictures
from lit_imgproc.data.pairs.files import Pair
from lit_imgproc.data.pairs.paired import PairedImages
from lit_imgproc.data.pairs.paired_dataset import PairedDataset
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.models.translation.pix2pix import Pix2Pix

Pixels = NDArray[np.uint8]
Make = Callable[[Pixels, Pixels], Pixels]
"""A photograph ``[H,W,3]`` of class numbers ``[H,W]`` and their painted map ``[H,W,3]``."""


def scenes(data: PairedImages, split: str) -> list[tuple[Pixels, Pixels]]:
    """The class numbers ``[H,W]`` and the photograph ``[H,W,3]`` of every pair of a split."""
    dataset = data.dataset(split)
    assert isinstance(dataset, PairedDataset)
    pairs = zip(dataset.sources, dataset.targets, strict=True)
    layers = (data.reading.layers(Pair(*pair)) for pair in pairs)
    return [(numbers, photo) for numbers, photo in layers]


def mean_colours(data: PairedImages) -> Pixels:
    """The mean colour ``[256,3]`` of each class number in the training photographs."""
    sums, counts = np.zeros((256, 3)), np.zeros(256)
    for numbers, photo in scenes(data, "train"):
        counts += np.bincount(numbers.ravel(), minlength=256)
        for channel in range(3):
            weights = photo[..., channel].ravel()
            sums[:, channel] += np.bincount(numbers.ravel(), weights, minlength=256)
    return (sums / counts.clip(1)[:, np.newaxis] + 0.5).astype(np.uint8)


def tensor(picture: Pixels) -> torch.Tensor:
    """``[1,C,H,W]`` in [0, 1]."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def translated(module: Pix2Pix) -> Make:
    """What a run makes of a whole map."""

    def make(numbers: Pixels, painted: Pixels) -> Pixels:
        made = module(tensor(painted))[0].permute(1, 2, 0)
        return (made * 255 + 0.5).byte().numpy()

    return make


def class_numbers(data: PairedImages, segmenter: Segmenter) -> NDArray[np.int64]:
    """The class of the segmenter ``[256]`` for each number of a map; -1 for what is not counted."""
    told = json.loads((data.root / "classes.json").read_text("utf-8"))
    table = np.full(256, -1)
    for number, name in enumerate(told["classes"]):
        if name in segmenter.class_names and number != told.get("ignore_index"):
            table[number] = segmenter.class_names.index(name)
    return table


def scores(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Pixel accuracy, and means over the classes that are there, of truth by row."""
    right, there, found = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    seen = there > 0
    return {
        "pixel accuracy": right.sum() / there.sum(),
        "class accuracy": (right[seen] / there[seen]).mean(),
        "mean IoU": (right[seen] / (there + found - right)[seen]).mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("pix2pix", "unet_l1", "segmenter"):
        parser.add_argument(name, help="id of the run")
    parser.add_argument("--picture", help="a PNG file of one scene a row")
    given = parser.parse_args()
    run, segmenter = load_run(given.pix2pix), load_run(given.segmenter).module
    data = run.datamodule
    assert isinstance(data, PairedImages)
    assert isinstance(segmenter, Segmenter)
    paint = data.reading.source.paint
    assert paint is not None, "the first run is to make photographs of maps of class numbers"
    colours = mean_colours(data)
    makers: dict[str, Make | None] = {
        "real photographs": None,
        "pix2pix": translated(run.module),
        "U-Net, L1 alone": translated(load_run(given.unet_l1).module),
        "mean colour of each class": lambda numbers, painted: colours[numbers],
    }
    classes = class_numbers(data, segmenter)
    count = len(segmenter.class_names)
    confusions = {name: np.zeros((count, count), np.int64) for name in makers}
    rows: list[pictures.Picture] = []
    with torch.inference_mode():
        for numbers, photo in scenes(data, "test"):
            painted, truth = paint(numbers), classes[numbers]
            row = {"map": painted}
            for name, make in makers.items():
                row[name] = photo if make is None else make(numbers, painted)
                found = segmenter.scores(tensor(row[name]))[0].argmax(0).numpy()
                pairs = count * truth[truth >= 0] + found[truth >= 0]
                confusions[name] += np.bincount(pairs, minlength=count**2).reshape(count, count)
            tiles = [
                pictures.caption(cv2.resize(one, (256, 256), interpolation=cv2.INTER_AREA), [name])
                for name, one in row.items()
            ]
            rows.append(np.concatenate(tiles, axis=1))
    found = {name: scores(confusion) for name, confusion in confusions.items()}
    print(f"| {len(rows)} photographs | " + " | ".join(found["pix2pix"]) + " |")
    print("| --- " * 4 + "|")
    for name, values in found.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |")
    if given.picture:
        cv2.imwrite(given.picture, np.concatenate(rows)[:, :, ::-1])


if __name__ == "__main__":
    main()
