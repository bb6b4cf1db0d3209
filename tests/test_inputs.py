import json

import numpy as np
import pytest

from lit_imgproc.errors import UserError
from lit_imgproc.inputs import InputSpec


def ramp(height, width):
    """Every pixel says where it was: row in the first channel, column in the second."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.indices((height, width))
    return image


def test_an_image_of_the_right_size_passes_unchanged():
    image = ramp(8, 6)
    np.testing.assert_array_equal(InputSpec(3, (8, 6))(image), image)


def test_crop_cuts_the_centre_of_the_scaled_image():
    # 40x80 covers 20/0.5 = 40 as it is: nothing is scaled, rows 10..29 and columns 30..49 remain.
    cropped = InputSpec(3, (20, 20), crop_fraction=0.5)(ramp(40, 80))
    np.testing.assert_array_equal(cropped, ramp(40, 80)[10:30, 30:50])


@pytest.mark.parametrize(("height", "width"), [(333, 500), (500, 333), (100, 100), (37, 500)])
def test_crop_agrees_with_torchvision_on_geometry(height, width):
    torch = pytest.importorskip("torch")
    from torchvision.transforms import v2

    image = ramp(height, width) // 2
    reference = v2.Compose([v2.Resize(64, v2.InterpolationMode.NEAREST), v2.CenterCrop(56)])(
        torch.from_numpy(image).permute(2, 0, 1)
    )
    ours = InputSpec(3, (56, 56), crop_fraction=0.875, interpolation="nearest")(image)
    difference = np.abs(ours.astype(int) - reference.permute(1, 2, 0).numpy())
    assert difference.max() <= 1  # nearest may fall on either side of a half


def test_squash_changes_the_aspect_ratio():
    image = np.repeat(np.repeat(np.array([[10, 20], [30, 40]], np.uint8), 4, 0), 8, 1)
    squashed = InputSpec(1, (2, 2), resize="squash", interpolation="area")(image)
    np.testing.assert_array_equal(squashed[..., 0], [[10, 20], [30, 40]])


def test_a_rectangle_is_covered():
    assert InputSpec(3, (20, 60), crop_fraction=0.9)(ramp(50, 50)).shape == (20, 60, 3)


def test_area_averages_where_the_image_shrinks():
    checkers = (np.indices((8, 8)).sum(0) % 2 * 200).astype(np.uint8)
    small = InputSpec(1, (4, 4), resize="squash", interpolation="area")(checkers)
    assert small.min() == small.max() == 100


def test_area_is_bilinear_where_the_image_grows():
    image = ramp(4, 4) * 60
    grown = [InputSpec(3, (9, 9), "squash", 1.0, name)(image) for name in ("area", "bilinear")]
    np.testing.assert_array_equal(*grown)


def test_channels_are_converted():
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    grey = InputSpec(1, (1, 4))(rgb)
    # ITU-R BT.601: 0.299, 0.587, 0.114 of 255.
    np.testing.assert_array_equal(grey[0, :, 0], [76, 150, 29, 9])
    np.testing.assert_array_equal(InputSpec(3, (1, 4))(grey), np.repeat(grey, 3, 2))
    np.testing.assert_array_equal(InputSpec(3, (1, 4))(grey[..., 0]), np.repeat(grey, 3, 2))
    alpha = np.concatenate([rgb, np.zeros((1, 4, 1), np.uint8)], 2)
    np.testing.assert_array_equal(InputSpec(3, (1, 4))(alpha), rgb)
    np.testing.assert_array_equal(InputSpec(1, (1, 4))(alpha), grey)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(UserError):
        InputSpec(3, (4, 4))(image)


def test_plain_values_round_trip_through_json():
    spec = InputSpec(1, (28, 30), "squash", 0.9, "bicubic", (0.0, 16.0))
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
