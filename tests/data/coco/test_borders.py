import numpy as np
import pytest
from scipy import ndimage

from lit_imgproc.data.coco.borders import Borders, touching


def cells(count, size=96, seed=0):
    """Discs at random, which touch and overlap, numbered with gaps."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    numbers = np.zeros((size, size), np.uint16)
    for number in range(count):
        y, x = random.integers(0, size, 2)
        radius = random.integers(3, 9)
        numbers[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = 300 + 3 * number
    return numbers


def by_definition(numbers, weight, sigma):
    """Equation 2 of arXiv:1505.04597, a distance transform of the whole image an object."""
    objects = [numbers == number for number in np.unique(numbers[numbers > 0])]
    if len(objects) < 2:
        return np.ones(numbers.shape)
    distances = np.stack([ndimage.distance_transform_edt(~one) for one in objects])
    first, second = np.sort(distances, 0)[:2]
    added = weight * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    return 1 + np.where(numbers == 0, added, 0)


@pytest.mark.parametrize("count", [0, 1, 2, 12, 30])
@pytest.mark.parametrize("sigma", [1.5, 5.0])
def test_weights_are_those_of_the_definition(count, sigma):
    numbers = cells(count, seed=count)
    apart = np.where(touching(numbers), 0, numbers)
    found = Borders(10, sigma)(numbers)
    assert found["weight"].dtype == np.float32
    np.testing.assert_allclose(
        found["weight"], by_definition(apart, 10, sigma), atol=10 * np.exp(-8)
    )
    assert (found["mask"] == (apart > 0)).all()
    assert (found["weight"].max() > 1.5) == (count >= 12)


def test_a_gap_has_the_weight_of_its_width():
    numbers = np.zeros((1, 9), np.uint16)
    numbers[0, :3], numbers[0, 6:] = 1, 2
    found = Borders(10, 5)(numbers)
    # Of the three pixels between them, each is four from both together.
    added = 10 * np.exp(-(4**2) / 50)
    np.testing.assert_allclose(found["weight"][0], [1, 1, 1, *[1 + added] * 3, 1, 1, 1], 1e-6)


def test_background_is_put_where_objects_touch_and_nowhere_else():
    numbers = np.zeros((6, 8), np.uint16)
    numbers[1:4, 1:4], numbers[4:, 4:] = 7, 600  # by a corner
    numbers[1:3, 4:6] = 5
    expected = np.zeros((6, 8), bool)
    expected[1:4, 3] = expected[1:3, 4] = True  # 7 beside 5
    expected[4, 4] = expected[3, 3] = True  # 7 beside 600
    assert (touching(numbers) == expected).all()
    assert not touching(np.full((4, 4), 9, np.uint16)).any()


def test_what_is_to_be_ignored_counts_nothing_and_is_no_object():
    numbers = cells(12)
    numbers[:, 40:50] = 255
    found = Borders(10, 5)(numbers)
    assert (found["mask"][:, 40:50] == 255).all()
    assert (found["weight"][:, 40:50] == 0).all()
    known = np.where(numbers == 255, 0, numbers)
    apart = np.where(touching(known), 0, known)
    expected = by_definition(apart, 10, 5)
    np.testing.assert_allclose(found["weight"][:, :40], expected[:, :40], atol=10 * np.exp(-8))
