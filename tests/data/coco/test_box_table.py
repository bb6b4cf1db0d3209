import cv2
import numpy as np
import pytest

from lit_imgproc.data.coco.box_table import BoxTable
from lit_imgproc.data.errors import DataError

HEAD = "image_path,xmin,ymin,xmax,ymax,label\n"


def write(root, rows, head=HEAD):
    for number in range(8):
        cv2.imwrite(str(root / f"{number}.png"), np.full((40, 60, 3), number, np.uint8))
    others = "".join(f"{number}.png,,,,,\n" for number in range(1, 8))
    (root / "boxes.csv").write_text(head + rows + others)


def make(root, **settings):
    defaults = {"tables": "boxes.csv", "num_workers": 0, "resize": "none"}
    return BoxTable(root=str(root), **(defaults | settings))


def test_a_line_is_a_box_and_one_without_numbers_an_image(tmp_path):
    write(tmp_path, "0.png,1.5,2,11,22,dog\n0.png,3,4,5,6,cat\n")
    data = make(tmp_path, val_fraction=0.2, test_fraction=0.2)
    assert sum(data.splits().values()) == 8
    assert data.facts()["class_names"] == ["cat", "dog"]
    samples = [data.dataset(s)[i] for s, n in data.splits().items() for i in range(n)]
    boxes = {
        sample["id"]: (sample["boxes"].tolist(), sample["labels"].tolist()) for sample in samples
    }
    assert boxes["0.png"] == ([[1.5, 2, 11, 22], [3, 4, 5, 6]], [1, 0])
    assert all(not boxes[f"{number}.png"][0] for number in range(1, 8))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("0.png,1,2,x,4,cat\n", r"boxes\.csv:2: xmin, ymin, xmax, ymax are not four numbers"),
        ("0.png,1,2,,4,cat\n", r"boxes\.csv:2: xmin, ymin, xmax, ymax are not four numbers"),
        ("0.png,1,2,nan,4,cat\n", r"boxes\.csv:2: xmin, ymin, xmax, ymax are not four numbers"),
        ("0.png,1,2,3\n", r"boxes\.csv:2: xmin, ymin, xmax, ymax are not four numbers"),
        ("0.png,1,2,3,4,owl\n", r"boxes\.csv:2: is a 'owl', which is none of the classes cat, dog"),
        ("gone.png,1,2,3,4,cat\n", r"gone\.png: cannot be read"),
    ],
)
def test_a_damaged_line_is_named_and_its_image_can_be_skipped(tmp_path, rows, said):
    write(tmp_path, rows)
    with pytest.raises(DataError, match=said):
        make(tmp_path, class_names=["cat", "dog"]).prepare()
    skipping = make(tmp_path, class_names=["cat", "dog"], on_error="skip")
    assert sum(skipping.splits().values()) == 7


@pytest.mark.parametrize(
    ("head", "rows", "said"),
    [
        ("image,xmin\n", "", "has no column image_path and no column ymin"),
        (HEAD, ",1,2,3,4,cat\n", r"boxes\.csv:2: has no image_path"),
        ("", "", "has no column"),
    ],
)
def test_what_is_wrong_with_the_table_is_told(tmp_path, head, rows, said):
    write(tmp_path, rows, head)
    with pytest.raises(DataError, match=said):
        make(tmp_path).prepare()


def test_tables_by_split(tmp_path):
    BoxTable.write_toy(tmp_path)
    data = BoxTable(root=str(tmp_path), num_workers=0, resize="none")
    assert data.splits() == {"train": 16, "val": 6, "test": 6}
    assert data.facts()["class_names"] == ["disc", "square"]
    assert min(data.dataset("train").source.counts) == 0


def test_tree_crowns(shared_data, tmp_path):
    for path in (shared_data / "neon_trees").iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "more.csv").write_text(HEAD + "SOAP_061.png,,,,,\n")
    data = make(tmp_path, tables="*.csv", class_names=["Tree"])
    counts = {}
    for split in data.splits():
        source = data.dataset(split).source
        counts |= dict(zip(source.names, source.counts.tolist(), strict=True))
    assert counts == {
        "OSBS_029.tif": 61,
        "2018_SJER_3_252000_4107000_image_477.tif": 7,
        "SOAP_061.png": 0,
    }
