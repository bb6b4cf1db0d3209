"""The same blood cells told in three formats give the same batches."""

import hashlib
import itertools
import json

import numpy as np
import pytest
import torch

from lit_imgproc.data.coco.box_table import BoxTable
from lit_imgproc.data.coco.coco_json import CocoData
from lit_imgproc.data.coco.voc import VocData
from lit_imgproc.data.coco.yolo import YoloData

CLASSES = ["RBC", "WBC", "Platelets"]
SETTINGS = {"image_size": [96, 128], "max_size": 200, "batch_size": 8, "seed": 3}


def digest(batch):
    """SHA-256 of everything in a batch."""
    result = hashlib.sha256()
    for key, value in sorted(batch.items()):
        result.update(key.encode())
        for one in value:
            is_tensor = isinstance(one, torch.Tensor)
            result.update(one.numpy().tobytes() if is_tensor else json.dumps(one).encode())
    return result.hexdigest()


@pytest.fixture(scope="module")
def bccd(shared_data):
    return shared_data / "bccd"


def as_coco(root, **settings):
    return CocoData(
        root=str(root),
        annotations="coco/instances_{split}.json",
        images="JPEGImages",
        **({"num_workers": 0} | SETTINGS | settings),
    )


def as_voc(root, **settings):
    names = {"class_names": CLASSES}
    return VocData(root=str(root), **({"num_workers": 0} | SETTINGS | names | settings))


def first(loader, count=2):
    return [digest(batch) for batch in itertools.islice(loader, count)]


@pytest.mark.parametrize("augment", [None, {"train": "crop_flip"}])
def test_voc_and_coco_give_the_same_batches(bccd, augment):
    coco, voc = (make(bccd, augment=augment) for make in (as_coco, as_voc))
    assert coco.splits() == voc.splits() == {"train": 205, "val": 87, "test": 72}
    assert coco.facts() == voc.facts()
    assert coco.fingerprint() == voc.fingerprint()
    assert coco.repaired == voc.repaired == {"boxes without area left out": 2}
    for loader in ("train_dataloader", "val_dataloader"):
        assert first(getattr(coco, loader)()) == first(getattr(voc, loader)())
    for split in ("train", "val", "test"):
        one, other = coco.dataset(split).source, voc.dataset(split).source
        assert (one.boxes == other.boxes).all()
        assert (one.labels == other.labels).all()


def test_the_boxes_are_those_of_the_file(bccd):
    data = as_coco(bccd, resize="none")
    told = json.loads((bccd / "coco/instances_val.json").read_text())
    dataset = data.dataset("val")
    names = {f"JPEGImages/{image['file_name']}": image["id"] for image in told["images"]}
    assert sum(dataset.source.counts) == len(told["annotations"]) - 1
    for index in (0, 40, 86):
        sample = dataset[index]
        here = [a for a in told["annotations"] if a["image_id"] == names[sample["id"]]]
        xywh = np.array([a["bbox"] for a in here])
        xywh[:, 2:] += xywh[:, :2]
        assert sample["boxes"].tolist() == xywh.tolist()
        assert sample["labels"].tolist() == [a["category_id"] - 1 for a in here]


def test_as_yolo_text_and_as_a_table_they_are_the_same_to_a_thousandth_of_a_pixel(bccd, tmp_path):
    coco = as_coco(bccd, resize="none").dataset("val").source
    (tmp_path / "labels").mkdir()
    for folder in ("images", "JPEGImages"):
        (tmp_path / folder).symlink_to(bccd / "JPEGImages")
    rows = ["image_path,xmin,ymin,xmax,ymax,label"]
    for index, name in enumerate(coco.names):
        objects = coco.objects(index)
        lines = []
        for (x0, y0, x1, y1), label in zip(objects.boxes.tolist(), objects.labels, strict=True):
            rows.append(f"{name},{x0},{y0},{x1},{y1},{CLASSES[label]}")
            box = [(x0 + x1) / 1280, (y0 + y1) / 960, (x1 - x0) / 640, (y1 - y0) / 480]
            lines.append(" ".join([str(label), *(f"{value:.8f}" for value in box)]))
        stem = name.removeprefix("JPEGImages/").removesuffix(".jpg")
        (tmp_path / f"labels/{stem}.txt").write_text("\n".join(lines))
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    (tmp_path / "list.txt").write_text("\n".join(f"images/{n[11:]}" for n in coco.names))
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [RBC, WBC, Platelets]\n")
    yolo = YoloData(root=str(tmp_path), num_workers=0)
    table = BoxTable(root=str(tmp_path), tables="boxes.csv", class_names=CLASSES, num_workers=0)
    for found in (yolo, table):
        boxes = {}
        for split in ("train", "val", "test"):
            source = found.dataset(split).source
            for index, name in enumerate(source.names):
                boxes[name.rpartition("/")[2]] = source.objects(index)
        assert len(boxes) == 87
        for index, name in enumerate(coco.names):
            one, other = coco.objects(index), boxes[name.rpartition("/")[2]]
            assert np.abs(one.boxes - other.boxes).max() < 1e-3
            assert (one.labels == other.labels).all()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_workers(bccd, workers):
    settings = {"augment": {"train": "flip"}, "batch_size": 16}
    alone = as_coco(bccd, **settings).train_dataloader()
    helped = as_coco(bccd, num_workers=workers, **settings).train_dataloader()
    epochs = []
    for epoch in range(2):
        for loader in (alone, helped):
            loader.batch_sampler.set_epoch(epoch)
        epochs.append(first(alone, 4))
        assert first(helped, 4) == epochs[-1]
    assert set(epochs[0]).isdisjoint(epochs[1])


def test_an_interrupted_epoch_goes_on_where_it_was(bccd):
    settings = {"augment": {"train": "flip"}, "batch_size": 16}
    whole = first(as_coco(bccd, **settings).train_dataloader(), 5)
    stopped = as_coco(bccd, num_workers=1, **settings).train_dataloader()
    assert first(stopped, 2) == whole[:2]
    resumed = as_coco(bccd, **settings).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    assert first(resumed, 3) == whole[2:]


def test_training_draws_sizes_and_evaluation_takes_the_last(bccd):
    data = as_coco(bccd)
    assert {len(batch["image"]) for batch in data.train_dataloader()} == {8, 205 % 8}
    sides = [sample.shape[1] for batch in data.train_dataloader() for sample in batch["image"]]
    assert {side: sides.count(side) > 80 for side in sides} == {96: True, 128: True}
    assert data.batch("val", [0, 1])["image"].shape == (2, 3, 128, 171)
    assert data.input_spec().size == (128, 200)
