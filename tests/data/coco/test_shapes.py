import numpy as np
import pytest
from pycocotools import mask as reference

from lit_imgproc.data.coco.shapes import Shapes, encode_runs, read_shape, run_lengths
from lit_imgproc.data.errors import DataError

# pycocotools does not know NumPy 2's `copy` argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def encode_mask(mask):
    return reference.encode(np.asfortranarray(mask))["counts"]


def whole(shapes, number, stored, size=None):
    size = size or stored
    patch = shapes.patch(number, stored, size)
    mask = np.zeros(size, np.uint8)
    mask[patch.rows, patch.columns] = patch.mask
    return mask


def expected(given, size):
    parts = reference.frPyObjects(given, *size)
    return reference.decode(reference.merge(parts) if isinstance(given, list) else parts)


def polygons(random, size):
    return [
        random.uniform(-8, max(size) + 8, 2 * random.integers(3, 20)).round(2).tolist()
        for _ in range(random.integers(1, 4))
    ]


def test_polygons_are_filled_as_by_pycocotools_bit_for_bit():
    random = np.random.default_rng(0)
    for _ in range(500):
        size = tuple(random.integers(3, 120, 2).tolist())
        given = polygons(random, size)
        shapes = Shapes.pack([read_shape(given, size)[0]])
        assert (whole(shapes, 0, size) == expected(given, size)).all()


def test_run_lengths_are_those_of_pycocotools():
    random = np.random.default_rng(1)
    for density in (0.0, 0.01, 0.5, 0.99, 1.0):
        for _ in range(20):
            size = tuple(random.integers(1, 90, 2).tolist())
            mask = (random.random(size) < density).astype(np.uint8)
            code = encode_mask(mask)
            runs = run_lengths(code, size).tolist()
            assert encode_runs(runs, size) == code
            told = {"size": list(size), "counts": runs}
            text = {"size": list(size), "counts": code.decode()}
            shapes = Shapes.pack([read_shape(one, size)[0] for one in (told, text)])
            assert (whole(shapes, 0, size) == mask).all()
            assert (whole(shapes, 1, size) == mask).all()


def test_an_object_is_scaled_with_its_image():
    size, larger = (20, 30), (40, 90)
    square = [[6.0, 5.0, 12.0, 5.0, 12.0, 15.0, 6.0, 15.0]]
    box = np.zeros(size, np.uint8)
    box[5:15, 6:12] = 1
    shapes = Shapes.pack([read_shape(square, size)[0], encode_mask(box)])
    wanted = np.zeros(larger, np.uint8)
    wanted[10:30, 18:36] = 1
    assert (whole(shapes, 0, size, larger) == wanted).all()
    assert (whole(shapes, 1, size, larger) == wanted).all()


def test_some_of_the_objects_are_the_same_objects():
    random = np.random.default_rng(2)
    size = (50, 40)
    given = [read_shape(polygons(random, size), size)[0] for _ in range(5)]
    given[2] = encode_mask((random.random(size) < 0.5).astype(np.uint8))
    some = Shapes.pack(given).select(np.array([4, 2, 0]))
    assert [some[0], some[1], some[2]] == [given[4], given[2], given[0]]


def test_polygons_of_less_than_three_points_are_left_out_and_counted():
    shape, short = read_shape([[1, 1, 5, 1, 5, 5], [1, 1, 2, 2]], (10, 10))
    assert (len(shape), short) == (1, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "neither polygons nor run lengths"),
        ("PP", "neither polygons nor run lengths"),
        ([[1, 2, 3, 4, 5]], "x and y in turns"),
        ([[1, 2, 3, 4, 5, float("nan")]], "x and y in turns"),
        ([["a", "b"]], "not lists of numbers"),
        ({"size": [9, 10], "counts": [90]}, r"run lengths are of \[9, 10\], the image \[10, 10\]"),
        ({"size": [10, 10], "counts": [90]}, "not of 10x10 pixels"),
        ({"size": [10, 10], "counts": [101, -1]}, "not of 10x10 pixels"),
        ({"size": [10, 10], "counts": [50.0, 50.0]}, "not of 10x10 pixels"),
        ({"size": [10, 10], "counts": "PPPPPPP"}, "damaged"),
        ({"size": [10, 10], "counts": ""}, "damaged"),
        ({"size": [10, 10], "counts": "\x01"}, "damaged"),
        ({"size": [10, 10], "counts": "oooooooooooooooo0"}, "damaged"),
        ({"size": [10, 10], "counts": "d3d3"}, "not of 10x10 pixels"),
        ({"size": [10, 10]}, "damaged"),
    ],
)
def test_what_is_damaged_is_told(given, said):
    with pytest.raises(DataError, match=said):
        read_shape(given, (10, 10))
