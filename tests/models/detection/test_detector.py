import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask
from torch import nn
from torch.utils.data import DataLoader

from lit_imgproc.data.coco.coco_json import CocoData
from lit_imgproc.errors import UserError
from lit_imgproc.models.detection.exchange import answers, targets, truths
from lit_imgproc.models.detection.module import Detector
from lit_imgproc.models.detection.networks import faster_rcnn, mask_rcnn, retinanet
from lit_imgproc.models.rle import decoded, numbered, rles
from lit_imgproc.optim import SGD, AdamW

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3, "optimizer": SGD(lr=0.01)}


class Oracle(nn.Module):
    """Says what it was told, in torchvision's terms, whatever it sees."""

    def __init__(self, says, masks=False):
        super().__init__()
        self.says, self.detections_per_img = says, 100
        self.weight = nn.Parameter(torch.zeros(1))
        if masks:
            self.roi_heads = nn.Module()
            self.roi_heads.mask_head, self.roi_heads.detections_per_img = nn.Identity(), 100

    def forward(self, images, given=None):
        return [dict(one) for one in self.says[: len(images)]]


def boxes_batch(*images, size=(40, 60), **more):
    """A batch of images with boxes ``(x1, y1, x2, y2, label)``."""
    boxes = [torch.tensor([b[:4] for b in one], dtype=torch.float32).view(-1, 4) for one in images]
    return {
        "image": torch.zeros(len(images), 3, *size),
        "boxes": boxes,
        "labels": [torch.tensor([b[4] for b in one], dtype=torch.int64) for one in images],
        "iscrowd": [torch.zeros(len(one), dtype=torch.int64) for one in images],
        "area": [(b[:, 2:] - b[:, :2]).prod(1) for b in boxes],
        "id": [f"{i}.png" for i in range(len(images))],
        **more,
    }


def said(*boxes):
    """What torchvision's networks say: labels from 1."""
    return {
        "boxes": torch.tensor([b[:4] for b in boxes], dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor([b[4] + 1 for b in boxes], dtype=torch.int64),
        "scores": torch.linspace(0.9, 0.6, len(boxes)),
    }


def measured(module, *batches):
    for batch in batches:
        module.validation_step(batch, 0)
    return module.val_metrics.compute()


def detector(network, num_classes=2, **more):
    return Detector(network=network, num_classes=num_classes, **{**PLAIN, **more}).eval()


# Targets -----------------------------------------------------------------------------------------


def test_crowds_and_boxes_without_area_are_not_learned():
    batch = boxes_batch([(1, 2, 11, 12, 0), (5, 5, 30, 30, 1), (3, 3, 3, 9, 1)])
    batch["iscrowd"][0][1] = 1
    batch["masks"] = [torch.ones(3, 40, 60, dtype=torch.uint8)]
    (target,) = targets(batch)
    assert target["boxes"].tolist() == [[1, 2, 11, 12]]
    assert target["labels"].tolist() == [1]
    assert target["masks"].shape == (1, 40, 60)


def test_answers_count_classes_from_zero():
    masks = torch.tensor([[[[0.4, 0.6]]]])
    (answer,) = answers([{**said((0, 0, 2, 1, 1)), "masks": masks}])
    assert answer["labels"].tolist() == [1]
    assert answer["masks"].tolist() == [[[False, True]]]


def test_what_a_network_calls_background_is_no_object():
    found = said((0, 0, 2, 1, -1), (3, 3, 9, 9, 0))
    (answer,) = answers([{**found, "masks": torch.ones(2, 1, 9, 9)}])
    assert answer["boxes"].tolist() == [[3, 3, 9, 9]]
    assert answer["labels"].tolist() == [0]
    assert answer["masks"].shape == (1, 9, 9)


def test_masks_as_code_and_as_numbers():
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3] = True, True
    assert (decoded(rles(masks, None)) == masks.numpy()).all()
    assert numbered(masks.numpy())[:, 0].tolist() == [1, 1, 2, 0]


def test_truths_have_masks_where_the_batch_has():
    batch = boxes_batch([(1, 2, 11, 12, 0)], [])
    assert [set(one) for one in truths(batch)] == [{"boxes", "labels", "iscrowd", "area"}] * 2


# Evaluation --------------------------------------------------------------------------------------


def test_what_is_found_exactly_scores_one():
    objects = [(1, 2, 11, 12, 0), (5, 5, 30, 30, 1)]
    values = measured(detector(Oracle([said(*objects)])), boxes_batch(objects))
    assert values["map"] == pytest.approx(1)


def test_a_box_of_iou_two_thirds_scores_four_thresholds_of_ten():
    values = measured(detector(Oracle([said((2, 0, 12, 10, 0))])), boxes_batch([(0, 0, 10, 10, 0)]))
    assert values["map"] == pytest.approx(0.4)


def test_small_and_large_are_told_in_pixels_of_the_file():
    # 20x20 in the sample is 80x80 in a file four times as large: medium, and not small.
    objects = [(0, 0, 20, 20, 0)]
    geometry = [{"path": "a.png", "size": [160, 240], "scale": [0.25, 0.25]}]
    values = measured(detector(Oracle([said(*objects)])), boxes_batch(objects, geometry=geometry))
    assert values["map_medium"] == pytest.approx(1)
    assert values["map_small"] == -1


@pytest.mark.parametrize("num_classes", [1, 2])
def test_nothing_there_and_nothing_found_gives_no_nan(num_classes):
    module = detector(Oracle([said(), said((0, 0, 9, 9, 0))]), num_classes)
    values = measured(module, boxes_batch([], []))
    assert values["map"] == -1
    assert not any(math.isnan(value) for value in values.values())


def test_an_absent_class_is_left_out_of_the_mean():
    objects = [(1, 2, 11, 12, 0)]
    module = detector(Oracle([said(*objects, (20, 20, 30, 30, 1))]), class_names=["cell", "dust"])
    values = measured(module, boxes_batch(objects))
    assert values["map"] == pytest.approx(1)
    assert values["map/cell"] == pytest.approx(1)
    assert "map/dust" not in values


# Prediction --------------------------------------------------------------------------------------


def test_predicts_in_pixels_of_the_file_with_masks_of_its_size():
    masks = torch.zeros(1, 1, 40, 60)
    masks[0, 0, 10:20, 20:40] = 0.9
    network = Oracle([{**said((20, 10, 40, 20, 1)), "masks": masks}], masks=True)
    batch = boxes_batch([], geometry=[{"path": "a", "size": [80, 120], "scale": [0.5, 0.5]}])
    (answer,) = detector(network, class_names=["a", "b"]).predict_step(batch, 0)
    assert answer["id"] == "0.png"
    assert answer["boxes"] == [[40, 20, 80, 40]]
    assert answer["labels"] == ["b"]
    (rle,) = answer["masks"]
    assert rle["size"] == [80, 120]
    decoded = coco_mask.decode({**rle, "counts": rle["counts"].encode()})
    expected = np.zeros((80, 120), np.uint8)
    expected[20:40, 40:80] = 1
    assert (decoded == expected).all()


def test_draws_the_truth_beside_what_was_found():
    objects = [(10, 10, 30, 30, 1)]
    module = detector(Oracle([said(*objects)]), class_names=["a", "b"])
    batch = boxes_batch(objects)
    picture = module.draw(batch, module.predict_step(batch, 0))
    assert picture.dtype == np.uint8
    tile = picture[4 : 4 + 120, 4 : 4 + 180]
    beside = picture[4 : 4 + 120, 4 + 184 : 4 + 184 + 180]
    coloured = tile.max(2) > tile.min(2)
    assert coloured[30, 30:90].all()  # the upper edge, three times as large
    assert ((beside.max(2) > beside.min(2)) == coloured).all()


def test_draws_masks_where_there_are_masks():
    masks = torch.zeros(1, 1, 40, 60)
    masks[0, 0, 10:30, 10:30] = 0.9
    network = Oracle([{**said((10, 10, 30, 30, 1)), "masks": masks}], masks=True)
    module = detector(network, class_names=["a", "b"])
    batch = boxes_batch([(10, 10, 30, 30, 1)], masks=[masks[0].round().byte()])
    picture = module.draw(batch, module.predict_step(batch, 0))
    for left in (4, 4 + 184):
        tile = picture[4 : 4 + 120, left : left + 180]
        assert (tile[60, 60] > 0).any()
        assert (tile[100, 150] == 0).all()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_figures_follow_a_test():
    objects = [(10, 10, 30, 30, 1)]
    module = detector(Oracle([said(*objects)]), class_names=["a", "b"])
    assert module.figures() == {}
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False,
                         enable_checkpointing=False)  # fmt: skip
    (values,) = trainer.test(
        module, DataLoader([boxes_batch(objects)], batch_size=None), verbose=False
    )
    assert values["test/map"] == pytest.approx(1)
    assert "test/map_large" not in values  # there was none
    assert set(module.figures()) == {"precision_recall", "confusion_matrix"}


# Training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    CocoData.write_toy(folder)
    return folder


def small(kind=faster_rcnn, **more):
    return kind("test_efficientnet", fpn_channels=32, frozen_norms=True, **more)


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
@pytest.mark.parametrize("target", ["boxes", "instances"])
def test_learns_a_handful_of_images_by_heart(toy, target):
    pl.seed_everything(0, verbose=False)
    data = CocoData(root=str(toy), target=target, image_size=64, max_size=96, batch_size=4,
                    num_workers=0, augment={"train": "none"})  # fmt: skip
    data.prepare()
    facts = {k: v for k, v in data.facts().items() if k in ("num_classes", "class_names")}
    kind, more = (faster_rcnn, {}) if target == "boxes" else (mask_rcnn, {"mask_channels": 32})
    sizes = [[12.0], [20.0], [32.0], [48.0], [64.0]]
    network = small(kind, num_classes=facts["num_classes"], head_channels=128,
                    anchor_sizes=sizes, box_batch_size_per_image=64, **more)  # fmt: skip
    mean, std = data.facts()["mean"], data.facts()["std"]
    module = Detector(network=network, mean=mean, std=std, optimizer=AdamW(lr=2e-3), **facts)
    trainer = pl.Trainer(
        max_epochs=60, overfit_batches=1, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    module.eval()
    batch = module.on_after_batch_transfer(data.batch("train", [0, 1, 2, 3]), 0)
    with torch.no_grad():
        values = measured(module, batch)
    assert values["map_50"] > 0.9
    if target == "instances":
        assert values["mask_map_50"] > 0.9


def test_images_of_several_sizes_are_learned_and_measured():
    module = detector(small(num_classes=2, head_channels=32))
    module.log = module.log_dict = lambda *args, **kwargs: None
    batch = boxes_batch([(1, 2, 21, 32, 0)], [])
    batch["image"] = [
        torch.zeros(3, 40, 60, dtype=torch.uint8),
        torch.zeros(3, 64, 33, dtype=torch.uint8),
    ]
    batch = module.on_after_batch_transfer(batch, 0)
    assert [image.dtype for image in batch["image"]] == [torch.float32] * 2
    assert torch.isfinite(module.train().training_step(batch, 0))
    found = module.eval().detect(batch)
    assert len(found) == 2


def test_one_class_and_none_at_all_train():
    module = detector(small(retinanet, num_classes=1), 1).train()
    module.log = module.log_dict = lambda *args, **kwargs: None
    for batch in (boxes_batch([(1, 2, 21, 32, 0)], []), boxes_batch([], [])):
        assert torch.isfinite(module.training_step(batch, 0))


def test_the_loss_is_the_sum_of_the_network_s():
    module = detector(small(retinanet, num_classes=2)).train()
    logged = {}
    module.log = lambda name, value, **more: logged.update({name: value.item()})
    module.log_dict = lambda values: logged.update({k: v.item() for k, v in values.items()})
    module.training_step(boxes_batch([(1, 2, 21, 32, 0)]), 0)
    assert set(logged) == {"train/loss", "train/classification", "train/bbox_regression"}
    parts = logged["train/classification"] + logged["train/bbox_regression"]
    assert logged["train/loss"] == pytest.approx(parts, rel=1e-6)


def test_class_names_are_as_many_as_classes():
    with pytest.raises(UserError, match="2 classes, but 1 class names"):
        detector(Oracle([]), class_names=["a"])
    with pytest.raises(UserError, match="mean and std"):
        Detector(network=Oracle([]), num_classes=1, optimizer=SGD(lr=0.1))
