"""A detector that is always right: each bright spot of an image is an object."""

from types import SimpleNamespace

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from lit_imgproc.geometry import boxes_to_original, masks_to_original
from lit_imgproc.models.base import ImageModule, Normalization

CLASSES = ["grey", "white"]


def spots(image, *, masks=False):
    """The objects of one image ``[C,h,w]`` in [0, 1]: white from 0.75 on, grey from 0.25 on.

    The score is the brightness.
    """
    shown = image[0].cpu().numpy()
    boxes, labels, scores, pixels = [], [], [], []
    for label, found in enumerate([(shown > 0.25) & (shown < 0.75), shown >= 0.75]):
        numbered, _ = ndimage.label(found)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), start=1):
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            labels.append(label)
            scores.append(float(shown[numbered == number].max()))
            pixels.append(numbered == number)
    order = np.argsort(-np.array(scores), kind="stable").astype(np.int64)
    result = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order],
        "labels": torch.tensor(labels, dtype=torch.int64)[order],
        "scores": torch.tensor(scores, dtype=torch.float32)[order],
    }
    if masks:
        every = np.array(pixels, np.bool_).reshape(-1, *shown.shape)
        result["masks"] = torch.from_numpy(every[order])
    return result


def detect(images):
    """The objects of each image."""
    return [spots(image) for image in images]


def detect_masks(images):
    """The objects of each image, with their masks."""
    return [spots(image, masks=True) for image in images]


class BrightSpots(ImageModule):
    """What finds them, as a module that answers as detectors do."""

    def __init__(self, *, masks=False):
        super().__init__()
        self.network, self.masks = nn.Identity(), masks
        self.normalization = Normalization([0.0], [1.0])
        self.class_names = CLASSES
        self.sizes = []  # of the batches it was given

    def predict_step(self, batch, batch_idx):
        from faster_coco_eval.core import mask as rle

        self.sizes.append(len(batch["image"]))
        answers = []
        for image, name, geometry in zip(
            batch["image"], batch["id"], batch["geometry"], strict=True
        ):
            found = spots(image, masks=self.masks)
            answer = {
                "id": name,
                "boxes": boxes_to_original(found["boxes"].numpy(), geometry).tolist(),
                "labels": [self.class_names[k] for k in found["labels"].tolist()],
                "scores": found["scores"].tolist(),
            }
            if self.masks:
                whole = masks_to_original(found["masks"].numpy().astype(np.uint8), geometry)
                encoded = [rle.encode(np.asfortranarray(one)) for one in whole]
                answer["masks"] = [
                    {"size": list(one["size"]), "counts": one["counts"].decode()} for one in encoded
                ]
            answers.append(answer)
        return answers


def run_of(data, spec, *, masks=False):
    """A run that has trained it on the data of a recipe's block."""
    from lit_imgproc.recipes.run import Run

    run = Run(SimpleNamespace(info=SimpleNamespace(run_id="b419")), "sqlite:///none.db")
    run.__dict__ |= {
        "module": BrightSpots(masks=masks),
        "recipe": {"data": {"root": "", **data}},
        "input_spec": spec,
    }
    return run
