import cv2
import numpy as np
import pytest
from PIL import Image

from lit_imgproc.data.coco.voc import VocData
from lit_imgproc.data.errors import DataError

OBJECT = "<object><name>{}</name>{}<bndbox>{}</bndbox></object>"
SIDES = ("xmin", "ymin", "xmax", "ymax")


def thing(name="cat", box=(11, 6, 20, 30), more=""):
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(SIDES, box, strict=True))
    return OBJECT.format(name, more, sides)


def write(root, objects, count=8, filename="{}.png", size=(60, 40)):
    """Eight images, of which the first has the objects."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(exist_ok=True)
    for number in range(1, count + 1):
        cv2.imwrite(str(root / f"JPEGImages/{number}.png"), np.full((40, 60, 3), number, np.uint8))
        name = filename.format(number) if number == 1 else f"{number}.png"
        text = (
            f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}"
            f"</height></size>{objects if number == 1 else thing()}</annotation>"
        )
        (root / f"Annotations/{number}.xml").write_text(text)


def make(root, **settings):
    return VocData(root=str(root), **({"num_workers": 0, "resize": "none"} | settings))


def of_first(data):
    for split in ("train", "val", "test"):
        names = list(data.dataset(split).names)
        if "JPEGImages/1.png" in names:
            return data.dataset(split)[names.index("JPEGImages/1.png")]
    return None


def test_corners_are_edges_or_the_outer_pixels_counted_from_one(tmp_path):
    write(tmp_path, thing())
    assert of_first(make(tmp_path))["boxes"].tolist() == [[11, 6, 20, 30]]
    assert of_first(make(tmp_path, one_based=True))["boxes"].tolist() == [[10, 5, 20, 30]]


def test_difficult_objects_are_crowds_and_classes_are_sorted(tmp_path):
    difficult = "<difficult>1</difficult><truncated>1</truncated>"
    write(tmp_path, thing() + thing("ant", (1, 1, 9, 9), difficult))
    sample = of_first(make(tmp_path))
    assert sample["iscrowd"].tolist() == [0, 1]
    assert make(tmp_path).facts()["class_names"] == ["ant", "cat"]
    assert sample["labels"].tolist() == [1, 0]
    one = of_first(make(tmp_path, class_names=["thing"]))
    assert one["labels"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objects": thing("owl")}, r"1\.xml: object 0 is a 'owl', which is none of the classes"),
        ({"objects": thing("")}, r"1\.xml: object 0 has no name"),
        ({"objects": thing(box=(1, 2, "x", 4))}, r"1\.xml: object 0 has no box of numbers"),
        (
            {"objects": thing(box=(1, 2, "inf", 4))},
            r"1\.xml: object 0 has a box that is no",
        ),
        ({"objects": "<object><name>cat</name></object>"}, r"1\.xml: object 0 has no box"),
        ({"objects": "<object>"}, r"1\.xml: cannot be read as XML"),
        ({"objects": "", "filename": "77.png"}, r"1\.xml: is of '77.png', and not of 1.png"),
    ],
)
def test_a_damaged_annotation_is_named_and_its_image_can_be_skipped(tmp_path, settings, said):
    write(tmp_path, **settings)
    names = {"class_names": ["cat", "dog"]}
    with pytest.raises(DataError, match=said) as caught:
        make(tmp_path, **names).prepare()
    assert len(str(caught.value).splitlines()) == 1
    skipping = make(tmp_path, on_error="skip", **names)
    assert sum(skipping.splits().values()) == 7
    assert of_first(skipping) is None


def test_missing_files_and_other_sizes_are_named(tmp_path):
    write(tmp_path, thing(), size=(61, 40), count=20)
    (tmp_path / "JPEGImages/2.png").unlink()
    (tmp_path / "Annotations/3.xml").unlink()
    with pytest.raises(DataError) as caught:
        make(tmp_path).prepare()
    said = str(caught.value)
    assert "2.xml: there is no image of its name" in said
    assert "3.png: has no annotations" in said
    assert said.count("is 40x60 and should be 40x61") == 18


def test_lists_of_images_are_read(tmp_path):
    write(tmp_path, thing())
    folder = tmp_path / "ImageSets/Main"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("1\n2 1\n\n3\n")
    (folder / "val.txt").write_text("4\n5\n")
    data = make(tmp_path)
    assert data.splits() == {"train": 3, "val": 2, "test": 2}
    assert data.dataset("test") is data.dataset("val")
    (folder / "train.txt").write_text("1\n2\n1\n")
    with pytest.raises(DataError, match=r"train\.txt: lists 1 more than once"):
        make(tmp_path).prepare()
    (folder / "train.txt").write_text("1\n2\n99\n")
    with pytest.raises(DataError, match=r"99\.xml: there is no image of its name"):
        make(tmp_path).prepare()


def test_label_images_give_instances_and_classes(tmp_path):
    VocData.write_toy(tmp_path)
    settings = {"sets": "ImageSets/Segmentation"}
    boxes = make(tmp_path, **settings).dataset("train")
    instances = make(tmp_path, target="instances", **settings).dataset("train")
    semantic = make(tmp_path, target="semantic", **settings).dataset("train")
    assert semantic.class_names == ["background", "disc", "square"]
    for index in range(len(boxes)):
        plain, masked, mask = boxes[index], instances[index], semantic[index]["mask"].numpy()
        assert plain["id"] == masked["id"]
        assert plain["labels"].tolist() == masked["labels"].tolist()
        # The edge of an object is ignored, and no part of it.
        assert (plain["boxes"] - masked["boxes"]).abs().le(2).all()
        for label, one in zip(masked["labels"].tolist(), masked["masks"].numpy(), strict=True):
            assert (mask[one == 1] == label + 1).all()
        assert set(np.unique(mask)) <= {0, 1, 2, 255}
        with Image.open(tmp_path / f"SegmentationClass/{plain['id'][11:-4]}.png") as stored:
            assert (np.array(stored) == mask).all()


def test_label_images_that_do_not_fit_are_named(tmp_path):
    VocData.write_toy(tmp_path)
    names = [f"train_{number:03}.png" for number in range(4)]
    stored = [np.array(Image.open(tmp_path / "SegmentationClass" / name)) for name in names[:3]]
    Image.fromarray(stored[0][:-1]).save(tmp_path / "SegmentationClass" / names[0])
    Image.fromarray(np.where(stored[1] == 0, np.uint8(9), stored[1])).save(
        tmp_path / "SegmentationClass" / names[1]
    )
    Image.fromarray(np.stack([stored[2]] * 3, 2)).save(tmp_path / "SegmentationClass" / names[2])
    (tmp_path / "SegmentationClass" / names[3]).unlink()
    with pytest.raises(DataError) as caught:
        make(tmp_path, target="semantic", sets="ImageSets/Segmentation").prepare()
    first, second, third, fourth = sorted(str(caught.value).splitlines())
    assert "is 63x96, and its image 64x96" in first
    assert "has pixels of the values [9], which are of no class (data.class_names)" in second
    assert "is an image of kind RGB" in third
    assert "is no label image that can be read" in fourth


def test_tree_crowns_with_their_tiff(shared_data):
    settings = {"annotations": ".", "images": ".", "resize": "none"}
    with pytest.raises(DataError, match=r"image_477\.tif: has no annotations"):
        make(shared_data / "neon_trees", **settings).prepare()
    data = make(shared_data / "neon_trees", on_error="skip", class_names=["Tree"], **settings)
    assert data.splits() == {"train": 1, "val": 1, "test": 1}
    found = {}
    for split in data.splits():
        sample = data.dataset(split)[0]
        found[sample["id"]] = len(sample["boxes"]), tuple(sample["image"].shape)
    assert found["OSBS_029.tif"] == (61, (3, 400, 400))
    assert found["SOAP_061.png"] == (37, (3, 400, 400))
    assert found["2019_YELL_2_541000_4977000_image_crop.png"] == (279, (3, 1035, 1249))
