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


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 5, 13, 120])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "area"])
def test_any_number_of_bands_of_any_type_is_scaled_band_by_band(dtype, channels, interpolation):
    image = (np.random.default_rng(0).random((40, 50, channels)) * 9000).astype(dtype)
    spec = InputSpec(channels, (16, 20), "squash", 1.0, interpolation, (0, 9000))
    found = spec(image)
    assert found.dtype == dtype
    one = InputSpec(1, (16, 20), "squash", 1.0, interpolation, (0, 9000))
    bands = np.concatenate([one(image[..., band]) for band in range(channels)], 2)
    np.testing.assert_allclose(found, bands, rtol=1e-6, atol=1e-2)


def test_only_images_of_8_bits_are_given_to_networks_in_0_to_1():
    assert InputSpec(1, (2, 2)).to_network(np.full((2, 2, 1), 51, np.uint8)).max() == np.float32(
        0.2
    )
    reflectance = np.full((2, 2, 13), 9000, np.uint16)
    values = InputSpec(13, (2, 2), value_range=(0, 10000)).to_network(reflectance)
    assert values.dtype == np.float32
    assert values.max() == 9000


def test_an_image_of_another_type_or_number_of_bands_is_refused():
    with pytest.raises(UserError, match=r"must be uint8 of shape.*got float32"):
        InputSpec(3, (8, 8))(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(UserError, match="must be uint8 or uint16 or int16 or float32"):
        InputSpec(3, (8, 8), value_range=(0, 1))(np.zeros((8, 8, 3), np.complex64))
    with pytest.raises(UserError, match="has 4 channels where 13 are needed"):
        InputSpec(13, (8, 8), value_range=(0, 1))(np.zeros((8, 8, 4), np.float32))


@pytest.mark.parametrize(
    ("given", "size", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),
        ((640, 480), (800, 1333), (1067, 800)),
        ((300, 900), (800, 1333), (444, 1333)),
        ((800, 1000), (800, 1333), (800, 1000)),
    ],
)
def test_fit_keeps_the_aspect_ratio_within_both_sides(given, size, expected):
    image = np.zeros((*given, 3), np.uint8)
    assert InputSpec(3, size, "fit")(image).shape[:2] == expected


def test_none_leaves_the_size_as_it_is():
    image = ramp(30, 50)
    assert InputSpec(3, (8, 8), "none")(image) is image
