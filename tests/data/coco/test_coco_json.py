"""COCO's JSON: exact values, what is repaired, and one file with each thing that can be wrong."""

import json

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from lit_imgproc.data.coco.coco_json import CocoData
from lit_imgproc.data.errors import DataError
from lit_imgproc.geometry import boxes_to_original, masks_to_original

# pycocotools does not know NumPy 2's `copy` argument.
of_pycocotools = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 30.0, 10.0, 30.0]]


def image(number, **more):
    return {"id": number, "file_name": f"{number}.png", "height": 40, "width": 60, **more}


def thing(number, of=1, bbox=(10, 10, 10, 20), category=5, **more):
    return {"id": number, "image_id": of, "bbox": bbox, "category_id": category, **more}


def write(root, annotations, images=None, categories=None, files=range(1, 9)):
    told = {
        "images": [image(number) for number in range(1, 9)] if images is None else images,
        "annotations": annotations,
        "categories": categories or [{"id": 9, "name": "cat"}, {"id": 5, "name": "dog"}],
    }
    (root / "told.json").write_text(json.dumps(told))
    random = np.random.default_rng(0)
    for number in files:
        pixels = random.integers(0, 256, (40, 60, 3), np.uint8)
        cv2.imwrite(str(root / f"{number}.png"), pixels)


def make(root, **settings):
    defaults = {"annotations": "told.json", "images": ".", "num_workers": 0, "resize": "none"}
    return CocoData(root=str(root), **(defaults | settings))


def all_of(data):
    """Every sample by its id."""
    datasets = {id(data.dataset(split)): data.dataset(split) for split in data.splits()}
    return {
        one["id"]: one
        for dataset in datasets.values()
        for one in map(dataset.__getitem__, range(len(dataset)))
    }


def test_boxes_and_labels_have_exact_values(tmp_path):
    write(
        tmp_path, [thing(1), thing(2, of=2, category=9, bbox=(0.5, 1.25, 3, 4), iscrowd=1, area=7)]
    )
    data = make(tmp_path)
    found = all_of(data)
    assert data.facts()["class_names"] == ["dog", "cat"]  # by id
    assert found["1.png"]["boxes"].tolist() == [[10, 10, 20, 30]]
    assert found["1.png"]["labels"].tolist() == [0]
    assert found["1.png"]["area"].tolist() == [200]
    assert found["2.png"]["boxes"].tolist() == [[0.5, 1.25, 3.5, 5.25]]
    assert found["2.png"]["labels"].tolist() == [1]
    assert found["2.png"]["iscrowd"].tolist() == [1]
    assert found["2.png"]["area"].tolist() == [7]
    empty = found["3.png"]
    assert empty["boxes"].shape == (0, 4)
    assert empty["boxes"].dtype == empty["area"].dtype == torch.float32
    assert empty["labels"].dtype == empty["iscrowd"].dtype == torch.int64
    stored = cv2.imread(str(tmp_path / "3.png"))[:, :, ::-1]
    assert (empty["image"].permute(1, 2, 0).numpy() == stored).all()


def test_boxes_follow_their_image_and_go_back(tmp_path):
    write(tmp_path, [thing(1, segmentation=SQUARE)])
    data = make(tmp_path, resize="fit", image_size=80, target="instances")
    sample = all_of(data)["1.png"]
    assert sample["image"].shape == (3, 80, 120)
    assert sample["boxes"].tolist() == [[20, 20, 40, 60]]
    assert sample["area"].tolist() == [800]
    assert sample["masks"].shape == (1, 80, 120)
    assert sample["masks"].sum() == 800
    geometry = sample["geometry"]
    assert geometry["size"] == [40, 60]
    assert geometry["path"] == str(tmp_path / "1.png")
    back = boxes_to_original(sample["boxes"].numpy(), geometry)
    assert back.tolist() == [[10, 10, 20, 30]]
    masks = masks_to_original(sample["masks"].numpy(), geometry)
    assert masks.shape == (1, 40, 60)
    assert masks.sum() == 200


def test_semantic_masks_ignore_crowds_and_show_the_smaller_object(tmp_path):
    crowd = {"size": [40, 60], "counts": [0, 40 * 15, 40 * 45]}  # the first 15 columns
    small = [[15.0, 10.0, 25.0, 10.0, 25.0, 20.0, 15.0, 20.0]]
    annotations = [
        thing(1, segmentation=small, category=9, bbox=(15, 10, 10, 10), area=100),
        thing(2, segmentation=SQUARE, area=200),
        thing(3, segmentation=crowd, iscrowd=1, bbox=(0, 0, 15, 40), area=600),
    ]
    write(tmp_path, annotations)
    data = make(tmp_path, target="semantic")
    assert data.facts()["class_names"] == ["background", "dog", "cat"]
    assert data.facts()["num_classes"] == 3
    mask = all_of(data)["1.png"]["mask"]
    expected = np.zeros((40, 60), np.int64)
    expected[:, :15] = 255
    expected[10:30, 10:20] = 1
    expected[10:20, 15:25] = 2
    assert mask.dtype == torch.int64
    assert (mask.numpy() == expected).all()


@of_pycocotools
def test_masks_are_those_of_pycocotools(tmp_path, capsys):
    CocoData.write_toy(tmp_path)
    data = CocoData(root=str(tmp_path), target="instances", resize="none", num_workers=0)
    told = COCO(str(tmp_path / "annotations/instances_train2017.json"))
    dataset = data.dataset("train")
    objects, crowds = 0, 0
    for index, entry in enumerate(told.loadImgs(sorted(told.imgs))):
        sample = dataset[index]
        assert sample["id"] == f"train2017/{entry['file_name']}"
        annotations = told.imgToAnns[entry["id"]]
        assert [a["iscrowd"] for a in annotations] == sample["iscrowd"].tolist()
        for annotation, mask in zip(annotations, sample["masks"].numpy(), strict=True):
            assert (told.annToMask(annotation) == mask).all()
            objects, crowds = objects + 1, crowds + annotation["iscrowd"]
    assert objects > 20
    assert crowds == 1
    assert 0 in dataset.source.counts


def test_captions_are_lists(tmp_path):
    CocoData.write_toy(tmp_path)
    data = CocoData(
        root=str(tmp_path),
        annotations="annotations/captions_{split}2017.json",
        target="captions",
        num_workers=0,
        batch_size=2,
        augment={"train": "flip"},
    )
    batch = data.batch("train", [0, 3])
    assert batch["captions"][1] == ["A picture of nothing."] * 2
    assert len(batch["captions"][0]) == 2
    assert len(next(iter(data.train_dataloader()))["captions"]) == 2
    assert data.facts()["num_classes"] == 0


def test_boxes_are_repaired_and_counted(tmp_path, caplog):
    annotations = [
        thing(1),
        thing(2, bbox=(50, 30, 20, 20)),  # reaches out
        thing(3, bbox=(5, 5, 0, 4)),
        thing(4, bbox=(9, 9, -4, 4)),
        thing(5, bbox=(70, 5, 9, 9)),  # outside
        thing(6),  # as the first
        thing(7, category=9),  # of another class
        thing(8, bbox=(50.0, 30.0, 10.01, 10.0)),  # rounding
    ]
    write(tmp_path, annotations)
    data = make(tmp_path)
    boxes = all_of(data)["1.png"]["boxes"].tolist()
    first, corner = [10, 10, 20, 30], [50, 30, 60, 40]
    assert boxes == [first, corner, first, corner]
    assert data.repaired == {
        "boxes cut at the image's edge": 1,
        "boxes without area left out": 2,
        "boxes outside of their image left out": 1,
        "boxes told twice left out": 1,
    }
    assert "boxes told twice left out (1)" in caplog.text
    with pytest.raises(DataError) as caught:
        make(tmp_path, defects="refuse").prepare()
    lines = str(caught.value).splitlines()
    numbers = [line.split("annotation ")[1].split(":")[0] for line in lines]
    assert numbers == ["2", "3", "4", "5", "6"]
    assert all(line.startswith(str(tmp_path / "told.json")) for line in lines)


def test_objects_without_a_shape_are_left_out_of_masks_and_counted(tmp_path):
    annotations = [
        thing(1, segmentation=SQUARE),
        thing(2, bbox=(1, 1, 5, 5), segmentation=[]),
        thing(3, bbox=(1, 1, 6, 6), segmentation=[[1, 1, 2, 2]]),
    ]
    write(tmp_path, annotations)
    data = make(tmp_path, target="instances")
    assert len(all_of(data)["1.png"]["boxes"]) == 1
    assert data.repaired == {
        "objects without segmentation left out": 2,
        "polygons of less than three points left out": 1,
    }
    assert len(all_of(make(tmp_path))["1.png"]["boxes"]) == 3


def test_training_images_without_objects_can_be_dropped(tmp_path):
    write(tmp_path, [thing(n, of=n) for n in (1, 2, 3, 4, 5)])
    kept, dropped = make(tmp_path), make(tmp_path, empty="drop")
    assert sum(kept.splits().values()) == 8
    with_objects = [n for n in kept.dataset("train").names if int(n[0]) < 6]
    assert list(dropped.dataset("train").names) == with_objects
    assert dropped.splits()["val"] == kept.splits()["val"]


DAMAGED = {
    "category": (thing(1, category=7), "annotation 1 of 1.png: category_id 7 is of no category"),
    "bbox": (thing(1, bbox=(1, 2, 3)), "annotation 1 of 1.png: has no bbox"),
    "letters": (thing(1, bbox=("a", 2, 3, 4)), "annotation 1 of 1.png: has no bbox"),
    "nan": (
        thing(1, bbox=(1, 2, 3, float("nan"))),
        "annotation 1 of 1.png: its bbox is not finite",
    ),
    "image": (thing(1, of=77), "annotation 1 is of image 77: there is none"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_contradictory_annotation_is_named_and_its_image_can_be_skipped(tmp_path, name):
    annotation, said = DAMAGED[name]
    write(tmp_path, [annotation, thing(2, of=2)])
    with pytest.raises(DataError, match=said) as caught:
        make(tmp_path).prepare()
    assert str(caught.value).startswith(str(tmp_path / "told.json"))
    assert len(str(caught.value).splitlines()) == 1
    skipping = make(tmp_path, on_error="skip")
    found = all_of(skipping)
    assert len(found) == (8 if name == "image" else 7)
    assert len(skipping.left_out) == 1
    assert len(found["2.png"]["boxes"]) == 1


def test_everything_wrong_with_images_is_told_at_once(tmp_path):
    images = [image(n) for n in range(1, 31)]
    images[3]["height"] = 41
    write(tmp_path, [thing(1), thing(1, of=5)], images, files=range(1, 31))
    (tmp_path / "2.png").unlink()
    (tmp_path / "3.png").write_bytes(b"")
    data = (tmp_path / "6.png").read_bytes()
    (tmp_path / "6.png").write_bytes(data[:2000] + b"\0\0\0\0" + data[2004:])
    with pytest.raises(DataError) as caught:
        make(tmp_path).prepare()
    said = sorted(str(caught.value).splitlines())
    assert [line.removeprefix(f"{tmp_path}/")[:5] for line in said] == [
        "2.png", "3.png", "4.png", "6.png", "told."
    ]  # fmt: skip
    assert "is 40x60 and should be 41x60" in said[2]
    assert "another annotation has this id" in said[4]
    skipping = make(tmp_path, on_error="skip")
    assert sum(skipping.splits().values()) == 25
    assert sorted(skipping.left_out) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": [image(1), image(1)]}, "several images have the id 1"),
        ({"images": [image(1), image(2, file_name="1.png")]}, "several images have the file 1.png"),
        ({"images": [{"id": 1}]}, "has no `id` or no `file_name`"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "have the id 1"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "have the name a"),
        ({"categories": [{"id": 1}]}, "not every category has"),
    ],
)
def test_what_is_wrong_with_the_file_as_a_whole_stops_always(tmp_path, change, said):
    write(tmp_path, [], **change)
    with pytest.raises(DataError, match=said):
        make(tmp_path, on_error="skip").prepare()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"images": 3}', '{"images": [3]}'])
def test_a_file_that_is_no_coco_json_is_told(tmp_path, text):
    (tmp_path / "told.json").write_text(text)
    with pytest.raises(DataError, match=r"told\.json"):
        make(tmp_path).prepare()


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        make(tmp_path / "none").prepare()
    with pytest.raises(DataError, match=r"there is no told\.json \(data\.annotations\)"):
        make(tmp_path).prepare()


def test_an_image_in_two_splits_is_refused(tmp_path):
    write(tmp_path, [thing(1)])
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text((tmp_path / "told.json").read_text())
    with pytest.raises(DataError, match=r"1\.png: is in val, and in train"):
        make(tmp_path, annotations="{split}.json").prepare()


def test_the_fingerprint_is_of_annotations_too(tmp_path):
    write(tmp_path, [thing(1)])
    before = make(tmp_path).fingerprint()
    assert make(tmp_path, num_workers=1).fingerprint() == before
    write(tmp_path, [thing(1, bbox=(10, 10, 10, 21))])
    assert make(tmp_path).fingerprint() != before
