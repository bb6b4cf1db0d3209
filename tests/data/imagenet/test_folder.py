import cv2
import numpy as np
import pytest

from lit_imgproc.data.base import DataError
from lit_imgproc.data.imagenet.folder import list_images


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.zeros((4, 4, 3), np.uint8))


def put_classes(root, count=20):
    put(root, *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(count)))


def listing(root, index=None, val=0.15, test=0.15):
    return list_images(root, index, val, test)


def names(files):
    return {name for name, _ in files}


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_folders_of_splits(tmp_path, val):
    for split in ("train", val, "test"):
        put(tmp_path, f"{split}/cat/1.png", f"{split}/dog/deeper/2.JPG")
    files = listing(tmp_path).files
    assert files["train"] == [("train/cat/1.png", "cat"), ("train/dog/deeper/2.JPG", "dog")]
    assert files["val"][0] == (f"{val}/cat/1.png", "cat")
    assert files["test"][1] == ("test/dog/deeper/2.JPG", "dog")


def test_validation_images_are_held_out_of_training(tmp_path):
    put_classes(tmp_path / "train")
    put(tmp_path, "test/cat/1.png", "test/dog/1.png")
    files = listing(tmp_path).files
    assert [len(files[split]) for split in ("train", "val", "test")] == [34, 6, 2]
    assert names(files["train"]).isdisjoint(names(files["val"]))


def test_without_test_images_those_of_validation_are_tested(tmp_path):
    put_classes(tmp_path / "train")
    put(tmp_path, "val/cat/1.png", "val/dog/1.png")
    files = listing(tmp_path).files
    assert files["test"] == files["val"]
    assert len(files["train"]) == 40


def test_one_folder_of_classes_is_split_evenly_and_always_alike(tmp_path):
    put_classes(tmp_path, count=40)
    files = listing(tmp_path, val=0.1, test=0.2).files
    for split, count in (("train", 28), ("val", 4), ("test", 8)):
        labels = [label for _, label in files[split]]
        assert labels.count("cat") == labels.count("dog") == count
    assert len(set.union(*map(names, files.values()))) == 80
    assert listing(tmp_path, val=0.1, test=0.2).files == files
    put(tmp_path, "cat/new.png")
    changed = names(listing(tmp_path, val=0.1, test=0.2).files["test"]) ^ names(files["test"])
    assert len(changed) <= 2


def test_an_index_file(tmp_path):
    put_classes(tmp_path / "pictures", count=2)
    (tmp_path / "index.csv").write_text(
        "label,path,split\n"
        "cat,pictures/cat/0.png,train\ndog,pictures/dog/0.png,train\n"
        "cat,pictures/cat/1.png,valid\ndog,pictures/dog/1.png,test\n"
    )
    files = listing(tmp_path, "index.csv").files
    assert files == {
        "train": [("pictures/cat/0.png", "cat"), ("pictures/dog/0.png", "dog")],
        "val": [("pictures/cat/1.png", "cat")],
        "test": [("pictures/dog/1.png", "dog")],
    }


def test_several_labels_an_image(tmp_path):
    put(tmp_path, *(f"{number}.png" for number in range(5)))
    (tmp_path / "labels.csv").write_text(
        "path,label,split\n0.png,b|a,train\n1.png,c,train\n2.png,,train\n3.png,a,val\n4.png,c|a,test\n"
    )
    found = listing(tmp_path, "labels.csv")
    assert found.multilabel
    assert found.class_names == ["a", "b", "c"]
    np.testing.assert_array_equal(found.encode("train"), [[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(found.encode("test"), [[1, 0, 1]])
    assert found.encode("train").dtype == np.float32


def test_single_labels_are_class_indices(tmp_path):
    put_classes(tmp_path)
    found = listing(tmp_path)
    assert not found.multilabel
    assert found.encode("val").tolist() == [0, 0, 0, 1, 1, 1]
    assert found.encode("val").dtype == np.int64


def problems(root, index=None, val=0.15, test=0.15):
    with pytest.raises(DataError) as error:
        listing(root, index, val, test)
    return str(error.value).splitlines()


def test_a_missing_root(tmp_path):
    (sentence,) = problems(tmp_path / "nowhere")
    assert "nowhere: there is no such folder" in sentence


def test_fractions_that_leave_nothing(tmp_path):
    (sentence,) = problems(tmp_path, val=0.5, test=0.5)
    assert "leave no training images" in sentence


def test_no_classes(tmp_path):
    assert "has no folders of classes" in problems(tmp_path)[0]


def test_one_class_is_too_few(tmp_path):
    put(tmp_path, *(f"cat/{number}.png" for number in range(9)))
    assert "two classes are needed; there is only the class 'cat'" in problems(tmp_path)[0]


def test_every_empty_class_is_named(tmp_path):
    put_classes(tmp_path / "train")
    for folder in ("train/cow", "test/cat"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "train/cow/notes.txt").write_text("none yet")
    found = problems(tmp_path)
    assert len(found) == 2
    assert "train/cow: holds no images" in found[1] + found[0]
    assert "test/cat: holds no images" in found[1] + found[0]


def test_classes_that_are_not_trained(tmp_path):
    put_classes(tmp_path / "train")
    put(tmp_path, "test/cat/1.png", "test/cow/1.png", "test/ewe/1.png")
    assert [line.split(": ")[1] for line in problems(tmp_path)] == [
        "class 'cow' of the test images has no training images.",
        "class 'ewe' of the test images has no training images.",
    ]


def test_every_mistake_in_an_index(tmp_path):
    put(tmp_path, "0.png")
    (tmp_path / "index.csv").write_text(
        "path,label,split\n0.png,a,train\n1.png,a,train\n0.png,a,trian\n0.png\n"
    )
    found = problems(tmp_path, "index.csv")
    assert len(found) == 3
    assert "index.csv:3: there is no file 1.png" in found[0]
    assert "index.csv:4: split is 'trian'" in found[1]
    assert "index.csv:5: split is None" in found[2]


def test_an_index_without_its_columns(tmp_path):
    (tmp_path / "index.csv").write_text("file,class\n0.png,a\n")
    (sentence,) = problems(tmp_path, "index.csv")
    assert "has no column label and no column path; its columns are file, class" in sentence
    assert "cannot be read" in problems(tmp_path, "other.csv")[0]


def test_a_long_list_of_problems_is_cut(tmp_path):
    rows = "".join(f"{number}.png,a\n" for number in range(80))
    (tmp_path / "index.csv").write_text("path,label\n" + rows)
    found = problems(tmp_path, "index.csv")
    assert len(found) == 51
    assert "30 more problems" in found[-1]


def test_images_per_class_are_drawn_by_seed(tmp_path):
    put_classes(tmp_path / "train", count=30)

    def drawn(seed):
        found = listing(tmp_path)
        found.draw(8, seed)
        return found.files["train"]

    assert [label for _, label in drawn(0)] == ["cat"] * 8 + ["dog"] * 8
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    found = listing(tmp_path)
    found.draw(25, 0)
    assert len(found.problems) == 2
    assert "class 'cat' has 21 training images" in found.problems[0]


def test_a_file_that_an_index_lists_again(tmp_path):
    put(tmp_path, "0.png", "1.png", "2.png", "3.png")
    (tmp_path / "index.csv").write_text(
        "path,label,split\n0.png,a,train\n1.png,b,train\n2.png,a,val\n3.png,b,test\n"
        "./0.png,a,train\n1.png,a,train\n2.png,a,test\n3.png,b,test\n"
    )
    assert [line.split(": ", 1)[1] for line in problems(tmp_path, "index.csv")] == [
        "0.png is listed twice, in line 2 before: delete one.",
        "1.png has the label 'a', and by line 3 'b'.",
        "2.png is in test, and in val by line 4: one can be true.",
        "3.png is listed twice, in line 5 before: delete one.",
    ]


def test_links_to_folders_within_a_class_are_not_followed(tmp_path):
    put_classes(tmp_path)
    (tmp_path / "cat/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dog/same.png").symlink_to(tmp_path / "dog/0.png")
    assert len(listing(tmp_path).names()) == 41


def test_files_are_left_out(tmp_path):
    put_classes(tmp_path)
    put(tmp_path, "cat/a: b.png")
    found = listing(tmp_path)
    found.leave_out([f"{tmp_path}/cat/a: b.png: is no image.", f"{tmp_path}/dog/3.png: is empty."])
    assert found.problems == []
    assert len(found.names()) == 39
    assert {"cat/a: b.png", "dog/3.png"}.isdisjoint(found.names())
    found.leave_out(["something else is wrong."])
    assert found.problems == ["something else is wrong."]
    found = listing(tmp_path)
    found.leave_out([f"{tmp_path}/dog/{number}.png: is empty." for number in range(20)])
    assert "two classes are needed; there is only the class 'cat'" in found.problems[0]
