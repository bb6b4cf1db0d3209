"""Pictures of explanations: colours, outlines, slices, captions."""

import numpy as np
import pytest
import torch

from lit_imgproc import pictures
from lit_imgproc.explain import drawing
from lit_imgproc.explain.explanation import Explanation, Report
from lit_imgproc.explain.methods import METHODS
from lit_imgproc.models.detection.attribution import BoxTarget
from lit_imgproc.models.segmentation.attribution import RegionTarget
from lit_imgproc.models.targets import Target

GREY = np.full((3, 224, 224), 0.5, np.float32)
SIGNED = [method for method, about in METHODS.items() if about.signed]
CAT = Target(0)


def explained(image=GREY, target=CAT, **maps):
    return Explanation("a.png", image, {}, target, "cat", maps=maps)


def tiles(explanation, *failed):
    """The tiles of a picture, which has two columns, without captions."""
    seen = drawing.picture(explanation, Report([explanation], failed=list(failed)))
    height, width = drawing.tile(explanation).shape[:2]
    rows = -(-(1 + len(explanation.maps)) // 2)
    step = (seen.shape[0] - 4) // rows
    corners = [(4 + r * step, 4 + c * (width + 4)) for r in range(rows) for c in range(2)]
    cut = [seen[top : top + height, left : left + width] for top, left in corners]
    return cut[: 1 + len(explanation.maps)]


@pytest.mark.parametrize("method", SIGNED)
def test_a_signed_map_is_red_for_blue_against_and_leaves_the_image_at_0(method):
    heat = np.zeros((224, 224), np.float32)
    heat[:60], heat[-60:] = 2.0, -2.0
    base, seen = tiles(explained(**{method: heat}))
    assert (seen[60:-60] == base[60:-60]).all()
    full = np.array([drawing.FOR, drawing.AGAINST]) * 0.85 + 128 * 0.15
    assert abs(seen[0, 0] - full[0]).max() <= 1
    assert abs(seen[-1, -1] - full[1]).max() <= 1


def test_the_scale_of_a_signed_map_is_one_for_both_signs_and_not_that_of_an_outlier():
    heat = np.zeros((224, 224), np.float32)
    heat[:100], heat[-100:] = 1.0, -0.5
    heat[0, 0] = 1000
    alpha = drawing.layer(explained(occlusion=heat), "occlusion")[..., 3]
    assert alpha[0, 0] == alpha[50, 50] == 255
    assert int(alpha[-1, -1]) == pytest.approx(128, abs=255 / drawing.STEPS)
    assert alpha[112, 112] == 0


def test_a_map_without_sign_goes_from_blue_at_its_least_to_red():
    heat = np.full((224, 224), 5.0, np.float32)
    heat[:100] = 9.0
    base, seen = tiles(explained(grad_cam=heat))
    unit = (heat == 9).astype(np.float32)
    assert (seen == pictures.overlay(base, unit)).mean() > 0.99
    assert seen[0, 0, 0] > seen[0, 0, 2]
    assert seen[-1, -1, 2] > seen[-1, -1, 0]


@pytest.mark.parametrize("method", ["grad_cam", "occlusion"])
def test_a_map_of_one_place_and_an_empty_one_are_drawn_too(method):
    heat = np.zeros((224, 224), np.float32)
    empty = explained(**{method: heat.copy()})
    heat[7, 7] = 3
    one = drawing.layer(explained(**{method: heat}), method)
    assert (one != drawing.layer(empty, method)).any(2).sum() == 1
    assert drawing.says_of_map(empty, method) == ["nothing in it"]


def test_a_method_that_fails_has_a_red_frame():
    heat = np.zeros((224, 224), np.float32)
    _, good, bad = tiles(explained(occlusion=heat, kernel_shap=heat), "kernel_shap")
    for edge in (bad[:4], bad[-4:], bad[:, :4], bad[:, -4:]):
        assert (edge == drawing.FAILED).all()
    assert (bad[4:-4, 4:-4] == 128).all()
    assert (good == 128).all()


def test_a_caption_has_the_name_and_the_numbers(monkeypatch):
    said = []
    monkeypatch.setattr(
        pictures, "caption", lambda seen, lines, ink="plain": said.append((lines, ink)) or seen
    )
    heat = np.ones((224, 224), np.float32)
    one = explained(grad_cam=heat, occlusion=heat)
    one.numbers = {"grad_cam": {"insertion": 0.816, "deletion": 0.1, "pointing": 1.0}}
    drawing.picture(one, Report([one], failed=["occlusion"]))
    assert said == [
        (["a.png", "explained: cat"], "plain"),
        (["Grad-CAM", "insertion 0.82", "deletion 0.10", "points at it"], "plain"),
        (["Occlusion", "fails sanity check"], "wrong"),
    ]


def test_without_maps_there_is_the_image_and_a_word():
    nothing = explained(target=None)
    assert drawing.says_of_image(nothing) == ["nothing found to explain"]
    (only,) = tiles(nothing)
    assert (only == 128).all()
    assert drawing.says_of_image(explained()) == ["no map of cat"]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((28, 28), (224, 224)),
        ((224, 224), (224, 224)),
        ((40, 80), (160, 320)),
        ((600, 800), (288, 384)),
        ((2, 2000), (1, 384)),
    ],
)
def test_small_images_are_enlarged_by_a_whole_number_and_large_ones_shrunk(size, shown):
    one = explained(np.full((3, *size), 0.5, np.float32), grad_cam=np.ones(size, np.float32))
    assert drawing.tile(one).shape == (*shown, 3)
    assert drawing.layer(one, "grad_cam").shape == (*shown, 4)


def test_a_box_is_outlined_on_the_image_and_on_every_map():
    heat = np.zeros((112, 112), np.float32)
    target = BoxTarget(0, [20.0, 30.0, 60.0, 80.0])
    one = explained(GREY[:, :112, :112], target, grad_cam=heat, occlusion=heat)
    inside = np.zeros((224, 224), bool)
    inside[60:160, 40:120] = True
    edge = inside.copy()
    edge[62:158, 42:118] = False
    base, *maps = tiles(one)
    assert ((base == 255).all(2) == edge).all()
    assert (base[~inside] == 128).all()
    for seen in maps:
        assert (seen[edge] >= 254).all()


def test_a_box_beyond_the_image_is_outlined_along_its_edge():
    seen = drawing.tile(explained(target=BoxTarget(0, [-50.0, 100.0, 500.0, 900.0])))
    assert (seen[100:, [0, -1]] == 255).all()
    assert (seen[-1] == 255).all()
    assert (seen[:100] == 128).all()


def test_a_region_of_a_volume_is_outlined_in_the_slice_of_most_heat():
    volume = np.full((1, 6, 40, 40), -500.0, np.float32)
    volume[:, 4, 10:20, 10:20] = 300
    region = torch.zeros(6, 40, 40, dtype=torch.bool)
    region[4, 10:20, 10:20] = True
    against = np.zeros((6, 40, 40), np.float32)
    against[2], against[4, 12:18, 12:18] = -1, 1
    one = explained(volume, RegionTarget(0, region), occlusion=against, grad_cam=against * 0)
    assert drawing.shown_slice(one) == 4
    assert drawing.says_of_image(one) == ["explained: cat", "slice 5 of 6"]
    base, seen, other = tiles(one)
    factor = len(base) // 40
    inside = np.zeros((40, 40), bool)
    inside[10:20, 10:20] = True
    inside = inside.repeat(factor, 0).repeat(factor, 1)
    assert (base[~inside] == 0).all()
    assert (base[inside] == 255).any()
    assert (seen[~inside] == base[~inside]).all()
    middle = seen[15 * factor, 15 * factor].astype(int)
    assert middle[0] > middle[2] + 100
    assert other.shape == base.shape


def test_a_volume_without_maps_shows_its_middle_in_the_contrast_of_the_whole():
    volume = np.zeros((1, 5, 30, 30), np.float32)
    volume[:, 0], volume[:, 4] = -1000, 1000
    one = explained(volume, None)
    assert drawing.says_of_image(one)[-1] == "slice 3 of 5"
    assert abs(drawing.tile(one).astype(int) - 128).max() <= 1


def test_the_scales_of_colours():
    plain, signed = drawing.ramp(False), drawing.ramp(True)
    assert plain.shape == signed.shape == (1, 101, 3)
    assert (signed[0, 50] == 255).all()
    assert signed[0, -1, 0] > signed[0, -1, 2] + 100
    assert signed[0, 0, 2] > signed[0, 0, 0] + 100
