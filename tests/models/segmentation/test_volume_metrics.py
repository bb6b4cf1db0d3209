"""Dice, HD95 and surface Dice of cases against monai, which is the reference implementation."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage

from lit_imgproc.models.segmentation.volume_metrics import VolumeMetrics

SIZE = (18, 24, 20)


def cube(at, side=6, size=SIZE):
    volume = torch.zeros(size, dtype=torch.int64)
    volume[tuple(slice(start, start + side) for start in at)] = 1
    return volume


def measured(*cases, names=("background", "organ"), **options):
    metric = VolumeMetrics(list(names), **options)
    for case in cases:
        metric.update(*case)
    return metric.compute()


def blobs(seed, classes, size=SIZE):
    noise = np.random.default_rng(seed).normal(size=(classes, *size))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 2, 2, 2)).argmax(0))


def expected_of(prediction, mask, spacing, names, tolerance):
    """What monai says of one case, ``[classes]`` each: Dice, HD95 and surface Dice."""
    metrics = pytest.importorskip("monai.metrics")
    known = mask != 255
    numbers = torch.arange(len(names)).view(-1, 1, 1, 1)
    found, there = (((each == numbers) & known)[None].float() for each in (prediction, mask))
    whole = {"include_background": True}
    distance = {"spacing": list(spacing), **whole}
    with warnings.catch_warnings():  # monai warns of its own arguments, and of absent classes
        warnings.simplefilter("ignore")
        dice = metrics.DiceMetric(reduction="none", **whole)(found, there)
        hd95 = metrics.compute_hausdorff_distance(found, there, percentile=95, **distance)
        near = metrics.compute_surface_dice(found, there, [tolerance] * len(names), **distance)
    return torch.cat([dice, hd95, near])


def test_a_square_shifted_by_two_pixels():
    """Half of a 4-pixel square is left, and no pixel is further than 2 from the other's edge."""
    values = measured((cube((2, 5, 5), 4), cube((2, 5, 7), 4), (1, 1, 1)))
    assert values["case_dice"] == values["case_dice/organ"] == 0.5
    assert values["hd95"] == values["hd95/organ"] == 2.0
    assert set(values) == {
        f"{name}{of}" for name in ("case_dice", "hd95", "surface_dice") for of in ("", "/organ")
    }


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_distances_are_in_millimetres_along_each_axis(axis):
    spacing = (2.5, 0.8, 0.5)
    at = [4, 4, 4]
    at[axis] += 2
    values = measured((cube(at), cube((4, 4, 4)), spacing))
    assert values["hd95"] == pytest.approx(2 * spacing[axis])


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (0.1, 0.1, 0.1), (0.7, 0.7, 0.7)])
def test_a_surface_that_is_off_by_the_tolerance_is_within_it(spacing):
    case = cube((6, 4, 4)), cube((4, 4, 4)), spacing
    assert measured(case, tolerance_mm=2 * spacing[0])["surface_dice"] == 1
    assert measured(case, tolerance_mm=1.9 * spacing[0])["surface_dice"] < 1


def test_surface_dice_without_tolerance_is_the_common_share():
    """Boundaries of two 6-cubes, one shifted by 1, share what the four sides have in common."""
    values = measured((cube((4, 4, 4)), cube((4, 4, 5)), (1, 1, 1)), tolerance_mm=0)
    # 5 layers are in both; of a layer the rim of 20 is on the surface of both, and the two layers
    # where one cube ends are of the surface of that one alone.
    assert values["surface_dice"] == pytest.approx(5 * 20 / (6**3 - 4**3))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("background", [False, True])
def test_cases_equal_monai(seed, background):
    names = ["background" if background else "air", "a", "b", "c"]
    spacing = [(1.0, 1.0, 1.0), (2.5, 0.8, 0.7), (0.5, 1.5, 0.9), (3.0, 1.0, 1.0)][seed]
    cases, expected = [], []
    for n in range(3):
        mask = blobs(10 * seed + n, 4)
        prediction = torch.where(blobs(99 + n, 3) == 0, blobs(50 + n, 4), mask.roll(1, n))
        if n == 1:  # a class that is in neither
            mask[mask == 3] = prediction[prediction == 3] = 0
        if n == 2:
            mask[blobs(7, 5) == 0] = 255
            mask[0] = 255
        cases.append((prediction, mask, spacing))
        expected.append(expected_of(prediction, mask, spacing, names, 1.5))
    first = 1 if background else 0
    means = torch.stack(expected).nanmean(0)
    values = measured(*cases, names=names, tolerance_mm=1.5)
    assert len(values) == 3 * (1 + len(names) - first)
    for measure, row in zip(("case_dice", "hd95", "surface_dice"), means, strict=True):
        assert values[measure] == pytest.approx(float(row[first:].mean()), abs=1e-5)
        for name, value in list(zip(names, row.tolist(), strict=True))[first:]:
            assert values[f"{measure}/{name}"] == pytest.approx(value, abs=1e-5), name


def test_cases_weigh_alike():
    """A large case that is right and a small one that is half right: 3/4."""
    right = cube((2, 2, 2), 12), cube((2, 2, 2), 12), (1, 1, 1)
    half = cube((2, 5, 5), 4), cube((2, 5, 7), 4), (1, 1, 1)
    values = measured(right, half)
    assert (values["case_dice"], values["hd95"]) == (0.75, 1)


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_only_in_one_of_both_is_as_far_as_the_volume_is_wide(order):
    """373.13 mm is what BraTS counts, whose volumes have 155 slices of 240 by 240 mm."""
    empty = torch.zeros(155, 240, 240, dtype=torch.uint8)
    there = empty.clone()
    there[70:80, 100:110, 100:110] = 1
    values = measured((*(there, empty)[::order], (1, 1, 1)))
    assert values["hd95"] == pytest.approx(373.1287, abs=1e-4)
    assert (values["case_dice"], values["surface_dice"]) == (0, 0)
    found, none = cube((1, 1, 1)), torch.zeros(SIZE, dtype=torch.int64)
    values = measured((*(found, none)[::order], (2.0, 0.5, 1.0)), (found, found, (1, 1, 1)))
    assert values["hd95"] == pytest.approx(math.hypot(36, 12, 20) / 2)
    assert (values["case_dice"], values["surface_dice"]) == (0.5, 0.5)


def test_what_is_in_neither_is_left_out():
    organ, none = cube((1, 1, 1)), torch.zeros(SIZE, dtype=torch.int64)
    values = measured((organ, organ, (1, 1, 1)), (none, none, (1, 1, 1)))
    assert (values["case_dice"], values["hd95"], values["surface_dice"]) == (1, 0, 1)
    absent = measured((organ, organ, (1, 1, 1)), names=("background", "organ", "tumour"))
    assert absent == values


@pytest.mark.parametrize("names", [("background",), ("background", "organ"), ("cell", "wall")])
def test_nothing_at_all_is_minus_one(names):
    mask = torch.full(SIZE, 255)
    found = torch.zeros(SIZE, dtype=torch.int64) if len(names) == 1 else cube((1, 1, 1))
    values = measured((found, mask, (1, 1, 1)), names=names)
    assert values == {"case_dice": -1, "hd95": -1, "surface_dice": -1}


def test_one_class_fills_all():
    none = torch.zeros(SIZE, dtype=torch.int64)
    values = measured((none, none, (1, 1, 1)), names=("tissue",))
    assert values["case_dice/tissue"] == values["case_dice"] == values["surface_dice"] == 1
    assert values["hd95"] == 0
    values = measured((none, none, (1, 1, 1)), names=("background",))
    assert values == {"case_dice": -1, "hd95": -1, "surface_dice": -1}


def test_what_is_predicted_on_ignored_voxels_is_not_there():
    mask = cube((1, 1, 1))
    found = mask + cube((10, 10, 10))
    mask[9:] = 255
    values = measured((found, mask, (1, 1, 1)))
    assert (values["case_dice"], values["hd95"]) == (1, 0)


def test_shapes_differ():
    with pytest.raises(ValueError, match="differ in shape"):
        VolumeMetrics(["a"]).update(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), (1, 1, 1))


def test_a_hippocampus_moved_by_a_millimetre(shared_data):
    nibabel = pytest.importorskip("nibabel")
    file = sorted((shared_data / "hippocampus" / "labelsTr").glob("*.nii*"))[0]
    mask = torch.from_numpy(np.asarray(nibabel.load(file).dataobj).astype(np.int64))
    names = ["background", "anterior", "posterior"]
    values = measured((mask.roll(1, 2), mask, (1, 1, 1)), names=names)
    expected = expected_of(mask.roll(1, 2), mask, (1, 1, 1), names, 1.0)[:, 1:].mean(1).tolist()
    assert [values[name] for name in ("case_dice", "hd95", "surface_dice")] == pytest.approx(
        expected
    )
    assert (values["hd95"], values["surface_dice"]) == (1, 1)
    assert 0.8 < values["case_dice"] < 0.95
