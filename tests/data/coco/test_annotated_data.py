"""What all formats share, on their toy sources."""

import itertools

import numpy as np
import pytest
import torch

from lit_imgproc.data.coco.box_table import BoxTable
from lit_imgproc.data.coco.coco_json import CocoData
from lit_imgproc.data.coco.label_images import LabelImages
from lit_imgproc.data.coco.mask_images import MaskImages
from lit_imgproc.data.coco.voc import VocData
from lit_imgproc.data.coco.yolo import YoloData
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.verify import verify

MASKED = {CocoData: {}, VocData: {"sets": "ImageSets/Segmentation"}, YoloData: {}}
CASES = [
    *(
        (kind, target, more)
        for kind, more in MASKED.items()
        for target in ("instances", "semantic")
    ),
    *((kind, "boxes", {}) for kind in (CocoData, VocData, YoloData, BoxTable)),
    *((LabelImages, t, {"index": "index.csv"}) for t in ("boxes", "instances", "semantic")),
    (LabelImages, "semantic", {"index": "index.csv", "border_weight": 10}),
    (MaskImages, "semantic", {"class_names": ["ground", "disc", "square"]}),
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    roots = {}
    for kind in {kind for kind, _, _ in CASES}:
        roots[kind] = tmp_path_factory.mktemp(kind.__name__)
        kind.write_toy(roots[kind])
    return roots


def make(roots, kind, target, more, **settings):
    defaults = {"num_workers": 0, "image_size": [48, 64], "max_size": 96, "batch_size": 4}
    wanted = {} if kind in (BoxTable, MaskImages) else {"target": target}
    return kind(root=str(roots[kind]), **(defaults | wanted | more | settings))


@pytest.mark.parametrize("augment", ["none", "flip", "crop_flip", "random_resized_crop", "strong"])
@pytest.mark.parametrize(("kind", "target", "more"), CASES)
def test_every_batch_is_of_the_contract(roots, kind, target, more, augment):
    data = make(roots, kind, target, more, augment={"train": augment})
    classes = data.facts()["num_classes"]
    objects = 0
    for batch in itertools.chain(data.train_dataloader(), data.val_dataloader()):
        for number, image in enumerate(batch["image"]):
            assert image.dtype == torch.uint8
            height, width = image.shape[1:]
            if target == "semantic":
                mask = batch["mask"][number]
                assert mask.dtype == torch.int64
                assert mask.shape == (height, width)
                assert set(np.unique(mask)) <= {*range(classes), 255}
                continue
            boxes, labels = batch["boxes"][number], batch["labels"][number]
            objects += len(boxes)
            assert boxes.dtype == torch.float32
            assert boxes.shape == (len(labels), 4)
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([width, height] * 2)).all()
            assert labels.dtype == batch["iscrowd"][number].dtype == torch.int64
            assert len(labels) == len(batch["iscrowd"][number]) == len(batch["area"][number])
            assert ((labels >= 0) & (labels < classes)).all()
            if target == "instances":
                masks = batch["masks"][number]
                assert masks.dtype == torch.uint8
                assert masks.shape == (len(labels), height, width)
                assert masks.flatten(1).any(1).all() if len(masks) else True
                assert set(np.unique(masks)) <= {0, 1}
    assert objects > 20 or target == "semantic"


@pytest.mark.parametrize(("kind", "target", "more"), [c for c in CASES if c[1] == "instances"])
def test_an_instance_stays_in_its_box_when_both_are_moved(roots, kind, target, more):
    data = make(roots, kind, target, more, augment={"train": "dihedral"}, resize="none")
    dataset = data.dataset("train")
    for index in range(len(dataset)):
        sample = dataset[index, 1234567 + index]
        for mask, box in zip(sample["masks"].numpy(), sample["boxes"].tolist(), strict=True):
            rows, columns = np.nonzero(mask)
            around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(np.array(around) - box).max() <= 1


@pytest.mark.parametrize(("kind", "target", "more"), CASES)
def test_verify_finds_nothing(roots, kind, target, more):
    data = make(roots, kind, target, more)
    report = verify(data, lambda values, what, total: values)
    assert report.problems == []


def test_a_batch_is_of_images_of_like_shape(roots):
    settings = {"image_size": 48, "batch_size": 2}
    grouped = make(roots, CocoData, "boxes", {}, **settings)
    stacked = [isinstance(batch["image"], torch.Tensor) for batch in grouped.train_dataloader()]
    assert sum(stacked) >= 6
    mixed = make(roots, CocoData, "boxes", {}, aspect_grouping=False, **settings)
    assert sum(isinstance(b["image"], torch.Tensor) for b in mixed.train_dataloader()) < 6
    squares = make(roots, CocoData, "boxes", {}, resize="squash", **settings)
    assert all(b["image"].shape[1:] == (3, 48, 48) for b in squares.train_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_in_mid_run_is_left_out_or_stops(tmp_path, workers):
    CocoData.write_toy(tmp_path)
    for on_error in ("skip", "stop"):
        data = make({CocoData: tmp_path}, CocoData, "boxes", {}, on_error=on_error)
        data.num_workers = workers
        data.prepare()
        path = tmp_path / "train2017/train_005.jpg"
        whole = path.read_bytes()
        path.write_bytes(whole[:300])
        if on_error == "skip":
            batches = list(data.train_dataloader())
            assert sum(len(batch["image"]) for batch in batches) == 16
            (skipped,) = [one for batch in batches for one in batch.get("skipped", ())]
            assert skipped.startswith(str(path))
        else:
            with pytest.raises(DataError, match=r"train_005\.jpg"):
                list(data.train_dataloader())
        path.write_bytes(whole)


def test_an_augmentation_that_fails_on_an_image_names_it(roots):
    crop = [{"name": "RandomCrop", "height": 60, "width": 60}]
    settings = {"augment": {"train": crop}, "image_size": 64, "max_size": 80}
    data = make(roots, CocoData, "boxes", {}, **settings)
    with pytest.raises(DataError, match=r"\.jpg: augment\.train fails on this image of"):
        list(data.train_dataloader())


def test_an_image_that_has_changed_since_is_told(roots, tmp_path):
    CocoData.write_toy(tmp_path)
    data = make({CocoData: tmp_path}, CocoData, "boxes", {})
    data.prepare()
    path = tmp_path / "train2017/train_000.jpg"
    path.write_bytes((tmp_path / "train2017/train_001.jpg").read_bytes())
    with pytest.raises(DataError, match="is 96x64 and was 64x96 when training began"):
        data.dataset("train")[0]


def test_two_ranks_share_an_epoch(roots):
    data = make(roots, CocoData, "boxes", {})
    ranks = [[i for batch in data._train_batches(rank, 2) for i, _ in batch] for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == list(range(16))
    assert data.steps_per_epoch(2) == 2


def test_a_constructor_does_not_touch_the_disk(tmp_path):
    for kind in (CocoData, VocData, YoloData, BoxTable, LabelImages):
        with pytest.raises(DataError, match="no such folder"):
            kind(root=str(tmp_path / "none")).prepare()
