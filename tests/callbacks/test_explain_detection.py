"""Explanation maps of detectors, whose images may differ in size."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_imgproc import pictures
from lit_imgproc.callbacks.explain import Explain
from lit_imgproc.models.base import ImageModule, Normalization
from lit_imgproc.models.detection.attribution import BoxTarget, matched_score
from lit_imgproc.models.detection.module import Detector
from lit_imgproc.models.detection.networks import faster_rcnn
from lit_imgproc.optim import SGD


class Spots(ImageModule):
    """Finds the one bright cell of an image: its score is the cell's brightness."""

    localized = True

    class_names = ("grey", "white")

    def __init__(self, finds=True):
        super().__init__()
        self.network = nn.Sequential(nn.AvgPool2d(8))
        self.network.score_thresh, self.network.detections_per_img = 0.5, 10
        self.normalization = Normalization([0.0], [1.0])
        self.finds, self.asked = finds, []

    def look(self, images):
        found = []
        height, width = (max(image.shape[side] for image in images) for side in (1, 2))
        padded = [
            nn.functional.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images
        ]
        for cells in self.network(torch.stack(padded))[:, 0]:  # at once, as detectors do
            row, column = divmod(int(cells.argmax()), cells.shape[1])
            corner = torch.tensor([column, row, column + 1, row + 1.0])
            count = int(self.finds)
            found.append(
                {
                    "boxes": (8 * corner[None])[:count],
                    "labels": torch.tensor([1])[:count],
                    "scores": cells[row, column][None][:count],
                }
            )
        return found

    def detect(self, batch):
        return self.look(list(batch["image"]))

    def predict_step(self, batch, batch_idx):
        return [{"boxes": one["boxes"].tolist()} for one in self.detect(batch)]

    def attribution_targets(self, batch, label=None, box=None):
        return [
            BoxTarget(1, one["boxes"][0].tolist()) if len(one["boxes"]) else None
            for one in self.detect(batch)
        ]

    def attribution_fn(self, target=None):
        self.asked += target if isinstance(target, list) else [target]
        return matched_score(self.network, self.look, target)

    def attribution_layer(self):
        return self.network[0]

    def feature_map(self, activation):
        return activation

    def draw(self, batch, output):
        assert len(batch["image"]) == len(batch["id"]) == len(output) == 1
        return pictures.grid([pictures.tile(batch["image"][0].numpy())])


def batch_of(*sizes):
    images = [torch.zeros(1, *size) for size in sizes]
    for image in images:
        image[0, 16:24, 32:40] = 1
    same = len(set(sizes)) == 1
    return {
        "image": torch.stack(images) if same else images,
        "boxes": [torch.zeros(0, 4) for _ in images],
        "proposals": [torch.zeros(0, 4) for _ in images],
        "id": [str(number) for number in range(len(images))],
    }


@pytest.mark.parametrize("sizes", [((128, 128), (128, 128)), ((128, 160), (144, 120))])
def test_the_map_of_each_image_is_of_its_best_object_with_its_box(sizes):
    module = Spots().eval()
    picture = Explain(images=2).picture(module, batch_of(*sizes))
    assert [target.label for target in module.asked] == [1, 1]
    assert [list(target.box) for target in module.asked] == [[32, 16, 40, 24]] * 2
    # Below each map a line names the class.
    height, width = max(h for h, _ in sizes) + 8 + 19, max(w for _, w in sizes) + 8
    assert picture.shape == (2 * (height + 4) + 4, 2 * (width + 4) + 4, 3)
    for row in range(2):  # the cell at the right: a margin of 4, and another of the cell's own
        top, left = 8 + row * (height + 4), 8 + width + 4
        ink = np.array(pictures.colour(1))
        box = picture[top + 16 : top + 24, left + 32 : left + 40]
        assert (box[0] == ink).all()
        assert (box[:, -1] == ink).all()
        inside, outside = box[3:5, 3:5].astype(int), picture[top + 60, left + 60].astype(int)
        assert (inside[..., 0] > inside[..., 2] + 50).all()  # red
        assert outside[2] > outside[0]  # blue


def test_an_image_without_any_object_has_an_empty_map():
    module = Spots(finds=False).eval()
    picture = Explain(images=1).picture(module, batch_of((128, 128)))
    assert module.asked == []
    seen = picture[8:136, 8 + 140 : 8 + 140 + 128]
    blank = pictures.overlay(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1)))[0, 0]
    assert (seen[60:] == blank).all()


@pytest.mark.parametrize("sizes", [((96, 96), (96, 96)), ((96, 128), (80, 64))])
def test_the_detector_is_explained_through_its_trunk(sizes):
    torch.manual_seed(0)
    network = faster_rcnn(
        "test_resnet", 2, strides=[8, 16], fpn_channels=16, head_channels=16, box_score_thresh=0.0
    )
    module = Detector(
        network=network, num_classes=2, mean=[0.5] * 3, std=[0.25] * 3, optimizer=SGD(lr=0.1)
    ).eval()
    images = [torch.rand(3, *size) for size in sizes]
    batch = batch_of(*sizes) | {
        "image": images if sizes[0] != sizes[1] else torch.stack(images),
        "labels": [torch.zeros(0, dtype=torch.int64)] * 2,
    }
    before = {name: value.clone() for name, value in module.state_dict().items()}
    picture = Explain(images=2).picture(module, batch)
    assert picture.dtype == np.uint8
    assert all(value.equal(module.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in module.parameters())
