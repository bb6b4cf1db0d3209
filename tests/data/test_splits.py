import numpy as np
import pytest

from lit_imgproc.data.splits import held_out, held_out_groups


def test_held_out_is_stratified_and_stable():
    names = [f"{number}.png" for number in range(1000)]
    strata = [number % 4 if number < 900 else 4 for number in range(1000)]
    out = held_out(names, strata, 0.2)
    assert np.bincount(np.array(strata)[out]).tolist() == [45, 45, 45, 45, 20]
    again = held_out(names[::-1], strata[::-1], 0.2)[::-1]
    np.testing.assert_array_equal(out, again)
    assert held_out(["a", "b", "c"], ["x", "x", "y"], 0.01).sum() == 1


def test_groups_are_held_out_whole():
    groups = [f"patient{number // 7}" for number in range(700)]
    out = held_out_groups(groups, 0.2)
    assert out.sum() == 140
    for patient in range(100):
        assert len(set(out[7 * patient : 7 * patient + 7])) == 1
    order = np.random.default_rng(0).permutation(700)
    assert (held_out_groups([groups[i] for i in order], 0.2) == out[order]).all()


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_of_two_groups_one_is_held_out(fraction):
    out = held_out_groups(["a", "b", "b", "b"], fraction)
    assert 0 < out.sum() < 4


def test_of_unequal_groups_the_share_is_the_nearest():
    groups = list("a" + "b" * 2 + "c" * 50 + "d" * 3 + "e" * 9 + "f" * 4 + "g" * 20 + "h" * 11)
    assert abs(held_out_groups(groups, 0.3).mean() - 0.3) <= 0.25  # half of the largest
    assert held_out_groups(["only"] * 5, 0.3).sum() == 0
