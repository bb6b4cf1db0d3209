"""Where tiles lie and what they count; objects on seams are tested where detectors see them."""

import numpy as np
import pytest

from lit_imgproc.seams import starts, taper_of


def test_tiles_cover_a_length_and_end_where_it_ends():
    assert starts(100, 40, 10) == [0, 30, 60]
    assert starts(101, 40, 10) == [0, 30, 60, 61]
    assert starts(40, 40, 10) == [0]
    assert starts(39, 40, 10) == [0]


@pytest.mark.parametrize("name", ["gaussian", "linear", "uniform"])
def test_a_taper_is_even_greatest_in_the_middle_and_nowhere_zero(name):
    for size in (1, 2, 7, 64):
        weights = taper_of(name, size)
        np.testing.assert_allclose(weights, weights[::-1])
        assert (weights > 0).all()
        assert weights.max() <= 1
        assert weights[size // 2] == weights.max()
