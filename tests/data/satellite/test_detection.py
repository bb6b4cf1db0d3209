import json

import numpy as np
import pytest

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.satellite.annotations import Objects
from lit_imgproc.data.satellite.detection import RasterBoxes, boxes_in
from lit_imgproc.data.satellite.tiling import Window
from lit_imgproc.geometry import boxes_to_original

pytest.importorskip("rasterio")
HEAD = "xmin,ymin,xmax,ymax,label"


@pytest.fixture
def put(tmp_path, write_raster):
    """Writes an image of 100x120 and its annotations."""

    def put(number, rows, suffix="csv"):
        write_raster(f"images/{number}.tif", np.full((3, 100, 120), 9, np.uint8))
        path = tmp_path / "annotations" / f"{number}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([HEAD, *rows, ""]) if suffix == "csv" else rows)

    return put


def voc(boxes, height=100):
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d, label in boxes
    )
    size = f"<size><height>{height}</height><width>120</width></size>"
    return f"<annotation>{size}{objects}</annotation>"


@pytest.fixture
def root(tmp_path, put):
    for number in range(4):
        put(number, ["10,10,30,40,tree", "80,5,110,25,roof"])
    return tmp_path


def boxes(root, **settings):
    return RasterBoxes(root=str(root), **{"tile_size": 64, "num_workers": 0} | settings)


def problems(data):
    with pytest.raises(DataError) as error:
        data.prepare()
    return str(error.value).splitlines()


def test_boxes_are_kept_by_the_share_that_is_in_the_tile():
    objects = Objects(
        np.asarray([[0, 0, 10, 10], [5, 5, 25, 25], [90, 90, 99, 99]], float), list("aba")
    )
    window = Window(5, 5, 50, 50)
    for share, expected in ((0.2, [[0, 0, 5, 5], [0, 0, 20, 20]]), (0.3, [[0, 0, 20, 20]])):
        found, labels = boxes_in(objects, window, share, ["a", "b"])
        assert found.tolist() == expected
        assert found.dtype == np.float32
        assert labels.tolist() == [0, 1][-len(expected) :]


def test_boxes_of_tiles_are_those_of_the_raster(root):
    data = boxes(root, overlap=31, min_visible=0.9)
    dataset = data.dataset("val")
    found = set()
    for index in range(len(dataset)):
        sample = dataset[index]
        whole = boxes_to_original(sample["boxes"].numpy(), sample["geometry"])
        for box, label in zip(whole, sample["labels"].tolist(), strict=True):
            found.add((*box.tolist(), data.facts()["class_names"][label]))
    assert found == {(10, 10, 30, 40, "tree"), (80, 5, 110, 25, "roof")}


def test_boxes_move_with_their_image(tmp_path, write_raster, put):
    for number in range(3):
        put(number, ["10,20,30,60,tree"])
        image = np.zeros((3, 100, 120), np.uint8)
        image[:, 20:60, 10:30] = 200
        write_raster(f"images/{number}.tif", image)
    data = boxes(tmp_path, sampling="random", augment={"train": "dihedral"})
    train = data.dataset("train")
    shapes = set()
    for seed in range(40):
        sample = train[0, seed]
        bright = (sample["image"][0] > 100).nonzero()
        for left, top, right, bottom in sample["boxes"].tolist():
            low, high = bright.min(0).values.tolist(), (bright.max(0).values + 1).tolist()
            assert [top, left, bottom, right] == [*low, *high]
            shapes.add((right - left, bottom - top))
        assert len(sample["boxes"]) == len(sample["labels"]) == len(sample["area"])
        assert sample["iscrowd"].tolist() == [0] * len(sample["boxes"])
    assert {(20, 40), (40, 20)} <= shapes


def test_geojson_csv_and_voc_say_the_same(root, write_raster):
    from lit_imgproc.data.satellite.coordinates import write_geojson
    from lit_imgproc.data.satellite.raster import Raster

    rows = [(10, 10, 30, 40, "tree"), (80, 5, 110, 25, "roof")]
    raster = Raster(root / "images/0.tif")
    places = np.asarray([row[:4] for row in rows], float)
    write_geojson(root / "annotations/0.geojson", raster, places, [row[4] for row in rows])
    (root / "annotations/0.xml").write_text(voc(rows[::-1]))
    (root / "annotations/1.csv").unlink()
    (root / "annotations/1.xml").write_text(voc(rows))
    data = boxes(root, tile_size=200)
    samples = [
        data.dataset(split)[i] for split in data.splits() for i in range(data.splits()[split])
    ]
    assert len(samples) == 4
    for sample in samples:
        order = sample["boxes"][:, 0].argsort()
        assert sample["boxes"][order].round().tolist() == [[10, 10, 30, 40], [80, 5, 110, 25]]
    (root / "annotations/0.xml").write_text(voc(rows[:1]))
    (line,) = problems(boxes(root))
    assert "0.geojson: does not say the same as 0.csv" in line or "0.xml: does not say" in line


def test_boxes_are_mended_and_counted(tmp_path, put):
    put(0, ["-5,10,30,40,tree", "10,10,10,40,tree", "200,10,210,40,tree", "1,1,9,9,tree"])
    for number in (1, 2, 3):
        put(number, ["1,1,9,9,tree", "1,1,9,9,tree"])
    data = boxes(tmp_path)
    data.prepare()
    assert data.repaired == {
        "boxes cut at the raster's edge": 1,
        "boxes without area left out": 2,
        "boxes told twice left out": 3,
    }


def test_images_without_objects(tmp_path, put):
    for number in range(6):
        put(number, ["1,1,9,9,tree"] if number % 2 else [])
    data = boxes(tmp_path, class_names=["tree"])
    assert sum(data.splits().values()) == 6 * 4
    empty = [s for split in data.splits() for s in map(data.dataset(split).__getitem__, range(4))
             if not len(s["boxes"])]  # fmt: skip
    assert empty[0]["boxes"].shape == (0, 4)
    assert empty[0]["labels"].dtype.is_floating_point is False


def test_every_mistake_is_named(root, put):
    put(0, ["a,10,30,40,tree", "1,2,3", "1,2,nan,5,tree"])
    put(1, ["1,2,30,nan,tree"])
    put(2, ["1,2,30,40,"])
    put(3, voc([], height=99), "xml")
    (root / "annotations/3.csv").unlink()
    put(4, "<annotation>", "xml")
    put(5, [])
    (root / "annotations/5.csv").unlink()
    put(6, ["1,2,30,40,tree"])
    with (root / "annotations/6.csv").open("a") as file:
        file.write("\n")
    found = problems(boxes(root))
    names = [line.split(": ")[0].removeprefix(f"{root}/") for line in found]
    assert names == [
        "annotations/0.csv",
        "annotations/0.csv",
        "annotations/1.csv",
        "annotations/2.csv",
        "annotations/3.xml",
        "annotations/4.xml",
        "images/5.tif",
    ]
    assert "line 2 is no box" in found[0]
    assert "line 3 is no box" in found[1]
    assert "is of an image of 99x120" in found[4]


def test_a_csv_of_another_image(root):
    (root / "annotations/0.csv").write_text(f"image_path,{HEAD}\nother.tif,1,2,9,9,tree\n")
    (line,) = problems(boxes(root))
    assert "0.csv: is of other.tif, and not of 0.tif" in line


def test_classes(root):
    assert boxes(root).facts()["class_names"] == ["roof", "tree"]
    assert boxes(root, class_names=["object"]).facts()["class_names"] == ["object"]
    found = problems(boxes(root, class_names=["tree", "car"]))
    assert len(found) == 4
    assert "has boxes of roof, and the classes are tree, car" in found[0]
    splits = {"train": ["[01].tif"], "val": ["2.tif"]}
    (root / "annotations/2.csv").write_text(f"{HEAD}\n1,1,9,9,car\n")
    assert "2.tif: has boxes of car" in problems(boxes(root, splits=splits))[0]


def test_real_tree_crowns(shared_data):
    data = RasterBoxes(
        root=str(shared_data / "neon_trees"),
        images=".",
        annotations=".",
        class_names=["tree"],
        splits={"train": ["2019*", "SOAP*"], "val": ["OSBS*"]},
        num_workers=0,
    )
    assert data.splits()["val"] == 1
    sample = data.dataset("val")[0]
    assert len(sample["boxes"]) == 61  # the CSV and the VOC file say the same
    assert sample["boxes"][0].tolist() == [203, 67, 227, 90]
    assert sample["geometry"]["crs"] == "EPSG:32617"
    assert json.dumps(sample["geometry"])


def test_beyond_the_raster_there_is_no_second_view_of_its_objects(root):
    data = boxes(root, tile_size=128)
    image = data.dataset("train")[0]["image"].numpy()
    assert image.shape == (3, 128, 128)
    assert (image[:, :100, :120] == 9).all()
    assert not image[:, 100:].any()
    assert not image[:, :, 120:].any()
