import cv2
import numpy as np
import pytest

from lit_imgproc.data.coco.yolo import YoloData
from lit_imgproc.data.errors import DataError


def write(root, text, splits=("train", "val"), form="images/{}"):
    """Eight images a split, of which the first has the labels."""
    for split in splits:
        images = root / form.format(split)
        labels = root / form.format(split).replace("images", "labels")
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(8):
            pixels = np.full((40, 80, 3), number, np.uint8)
            cv2.imwrite(str(images / f"{split}{number}.png"), pixels)
        (labels / f"{split}0.txt").write_text(text)


def make(root, **settings):
    defaults = {"class_names": ["cat", "dog"], "num_workers": 0, "resize": "none"}
    return YoloData(root=str(root), **(defaults | settings))


def test_boxes_and_polygons_have_exact_values(tmp_path):
    write(tmp_path, "1 0.5 0.5 0.25 0.5\n\n0 0.125 0.25 0.25 0.25 0.25 0.5 0.125 0.5\n")
    sample = make(tmp_path).dataset("train")[0]
    assert sample["boxes"].tolist() == [[30, 10, 50, 30], [10, 10, 20, 20]]
    assert sample["labels"].tolist() == [1, 0]
    assert len(make(tmp_path).dataset("train")[1]["boxes"]) == 0
    with pytest.raises(DataError, match=r"train0\.txt:1: is a box, and masks need polygons"):
        make(tmp_path, target="instances").prepare()
    for path in tmp_path.glob("labels/*/*.txt"):
        path.write_text(path.read_text().splitlines()[-1])
    sample = make(tmp_path, target="instances").dataset("train")[0]
    expected = np.zeros((40, 80), np.uint8)
    expected[10:20, 10:20] = 1
    assert (sample["masks"][0].numpy() == expected).all()
    assert (make(tmp_path, target="semantic").dataset("val")[0]["mask"].numpy() == expected).all()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 0.5 0.5 0.2", "has 3 numbers after the class"),
        ("1 0.5 0.5 0.2 0.2 0.2", "has 5 numbers after the class"),
        ("2 0.5 0.5 0.2 0.2", "class 2 is none of the 2 classes"),
        ("-1 0.5 0.5 0.2 0.2", "class -1 is none"),
        ("cat 0.5 0.5 0.2 0.2", "is no class and numbers"),
        ("1 0.5 0.5 0.2 nan", "has numbers that are not finite"),
    ],
)
def test_a_damaged_line_is_named_and_its_image_can_be_skipped(tmp_path, line, said):
    write(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n", splits=["train"])
    with pytest.raises(DataError, match=rf"train0\.txt:2: {said}"):
        make(tmp_path).prepare()
    skipping = make(tmp_path, on_error="skip")
    assert sum(skipping.splits().values()) == 7
    assert len(skipping.left_out) == 1


def test_boxes_are_repaired_and_counted(tmp_path):
    text = "0 0.95 0.5 0.2 0.1\n0 0.5 0.5 0 0.1\n0 0.5 0.5 -0.1 0.1\n0 0.1 0.1 0.1 0.1\n"
    write(tmp_path, text + "0 0.1 0.1 0.1 0.1\n")
    data = make(tmp_path)
    assert len(data.dataset("train")[0]["boxes"]) == 2
    assert data.dataset("train")[0]["boxes"][0].tolist() == [68, 18, 80, 22]
    assert data.repaired == {
        "boxes cut at the image's edge": 2,
        "boxes without area left out": 4,
        "boxes told twice left out": 2,
    }


def test_labels_without_an_image_are_named(tmp_path):
    write(tmp_path, "")
    (tmp_path / "labels/train/gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "labels/train/classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"gone\.txt: there is no image of its name") as caught:
        make(tmp_path).prepare()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("form", "config"),
    [
        ("images/{}", None),
        ("{}/images", None),
        ("images/{}", "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"),
        ("{}/images", "train: ../train/images\nval: [val/images]\nnames: [cat, dog]\nnc: 2\n"),
        ("in/images/{}", "path: in\ntrain: images/train\nvalid: images/val\nnames: [cat, dog]\n"),
        ("images/{}", "path: /gone\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"),
    ],
)
def test_the_layouts(tmp_path, form, config):
    write(tmp_path, "1 0.5 0.5 0.25 0.5", form=form)
    names = {}
    if config is not None:
        (tmp_path / "data.yaml").write_text(config)
        names = {"class_names": None}
    data = make(tmp_path, **names)
    assert data.splits() == {"train": 8, "val": 8, "test": 8}
    assert data.facts()["class_names"] == ["cat", "dog"]
    assert data.dataset("train")[0]["labels"].tolist() == [1]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("- 3", "must hold `train`"),
        ("train: [", "cannot be read as YAML"),
        ("train: images/train\n", "has no list of `names`"),
        ("train: images/train\nnames: {1: a, 2: b}\n", "has no list of `names`"),
        ("train: elsewhere\nnames: [a, b]\n", "there is no .*elsewhere"),
        ("val: images/val\nnames: [a, b]\n", r"has neither data\.yaml with `train`"),
    ],
)
def test_what_is_wrong_with_the_configuration_is_told(tmp_path, config, said):
    write(tmp_path, "")
    (tmp_path / "data.yaml").write_text(config)
    with pytest.raises(DataError, match=said):
        make(tmp_path, class_names=None).prepare()
