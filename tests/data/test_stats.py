import numpy as np
import pytest
import torch
from given import Given, Samples, noise, silent

from lit_imgproc.data.imagenet.datamodule import Digits, ImageFolder
from lit_imgproc.data.stats import figure, rows, stats


@pytest.mark.parametrize("workers", [0, 2])
def test_digits_are_measured_as_numpy_would(workers):
    data = Digits(num_workers=workers)
    found = stats(data, silent)
    images = data.dataset("train").images / 255
    train = found["train"]
    assert train.images == len(images)
    np.testing.assert_allclose(train.mean, [images.mean()], rtol=1e-9)
    np.testing.assert_allclose(train.std, [images.std()], rtol=1e-9)
    assert (train.low, train.high) == ([0.0], [1.0])
    assert train.sizes == [[8, 8]] * 3
    labels = data.dataset("train").labels
    assert list(train.classes.values()) == np.bincount(labels).tolist()
    assert sum(one.images for one in found.values()) == 1797


def test_sizes_are_those_of_the_files(tmp_path):
    ImageFolder.write_toy(tmp_path)
    found = stats(ImageFolder(root=str(tmp_path), num_workers=0, image_size=32), silent)
    smallest, median, largest = found["train"].sizes
    assert smallest[1] == median[1] == largest[1] == 64
    assert 48 <= smallest[0] < median[0] < largest[0] <= 64


def test_masks_and_boxes_are_counted_by_class():
    mask = torch.tensor([[0, 0, 1, 255]])
    samples = [
        {"image": torch.zeros(3, 1, 4), "mask": mask, "id": "a"},
        noise("b", boxes=torch.ones(3, 4), labels=torch.tensor([1, 1, 0])),
        noise("c", label=torch.tensor([0.0, 1.0])),
        noise("d", label=1),
    ]
    found = stats(Given(train=Samples(samples)), silent)["train"]
    assert found.classes == {"cell": 3, "ground": 5}


def test_native_values_and_holes_in_them():
    image = torch.tensor([[[1000.0, 3000.0], [torch.nan, 2000.0]]])
    data = Given(value_range=(0, 10000), train=Samples([{"image": image, "id": "a"}], ["p"]))
    found = stats(data, silent)["train"]
    assert found.mean == [2000.0]
    assert (found.low, found.high) == ([1000.0], [3000.0])
    assert found.groups == 1


def test_the_table_and_the_figure_tell_of_every_split(tmp_path):
    found = stats(Digits(num_workers=0), silent)
    table = dict(rows(found))
    assert table["images"] == ["1259", "269", "269"]
    assert table["median size"] == ["8x8"] * 3
    assert table["0"][1].endswith("%)")
    picture = figure(found)
    picture.savefig(tmp_path / "a.png")
    balance, channels = picture.axes
    heights = [bar.get_height() for bar in balance.patches]
    assert len(heights) == 30
    assert sum(heights) == pytest.approx(3)
    assert channels.get_title() == "Mean and deviation"
