import io
import random

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lit_imgproc.data.crops import AveragedCrop
from lit_imgproc.data.decode import Encoded
from lit_imgproc.data.transforms import Augment

SIDE = 32


def photo(height, width):
    """Smooth shapes with some fine texture, as photographs are."""
    noise = np.random.default_rng(0)
    coarse = noise.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(image + noise.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)


def encode(image, kind="JPEG", **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return Encoded(stream.getvalue(), f"photo.{kind.lower()}", 3)


def composed(augment, image, seed):
    """What albumentations' own Compose makes of it."""
    augment._seed(seed)
    return augment._compose(image=image)["image"]


PIPELINES = {
    "preset": "random_resized_crop",
    "crop": [{"name": "RandomResizedCrop", "size": (SIDE, SIDE)}],
    "area": [
        {"name": "RandomResizedCrop", "size": (SIDE, SIDE), "area_for_downscale": "image"},
        {"name": "HorizontalFlip"},
    ],
    "many": [
        {"name": "RandomResizedCrop", "size": (SIDE, SIDE), "scale": (0.3, 0.9)},
        {"name": "OneOf", "p": 0.8, "transforms": [{"name": "VerticalFlip"}, {"name": "Sharpen"}]},
        {"name": "RandomBrightnessContrast", "p": 0.5},
        {"name": "GaussNoise", "p": 0.5},
        {"name": "Erasing", "p": 0.5, "fill": "random"},
    ],
    "not always": [
        {"name": "RandomResizedCrop", "size": (SIDE, SIDE), "p": 0.5},
        {"name": "Resize", "height": SIDE, "width": SIDE},
    ],
}


@pytest.mark.parametrize("shape", [(70, 50, 3), (40, 64, 1), (300, 200, 3), (30, 30, 5)])
@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
def test_a_seed_gives_the_pixels_that_compose_gives(pipeline, shape):
    augment = Augment(pipeline, SIDE, shape[2])
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for seed in range(25):
        result = augment(image, seed * 2**40 + 1)
        assert result.shape == (SIDE, SIDE, shape[2])
        np.testing.assert_array_equal(result, composed(augment, image, seed * 2**40 + 1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
def test_a_file_gives_the_same_crops_as_its_pixels(pipeline, kind):
    augment = Augment(pipeline, SIDE, 3)
    encoded = encode(photo(96, 128), kind)
    for seed in range(40):
        fast = augment(encoded, seed).astype(int)
        plain = composed(augment, encoded.decode(), seed)
        if pipeline != "random_resized_crop" or kind != "JPEG":
            np.testing.assert_array_equal(fast, plain)
        else:
            assert np.abs(fast - plain).mean() < 4, seed


def test_crops_of_the_preset_are_those_of_albumentations():
    """The same parameters for the same seed, but for edges that move where a crop is averaged."""
    ours, theirs = AveragedCrop((SIDE, SIDE)), A.RandomResizedCrop((SIDE, SIDE))
    factors = set()
    for seed in range(300):
        drawn = []
        for crop in (ours, theirs):
            crop.set_random_state(np.random.default_rng(seed), random.Random(seed))
            drawn.append(crop.get_params_dependent_on_data({"shape": (375, 500, 3)}, {}))
        box, expected = (np.array(params["crop_coords"]) for params in drawn)
        factor = drawn[0]["factor"]
        factors.add(factor)
        assert ((expected - box >= 0) & (expected - box < factor)).all()
        assert not (box % factor).any()
        height, width = box[3] - box[1], box[2] - box[0]
        assert min(height, width) >= SIDE * factor or factor == 1
        assert min(expected[3] - expected[1], expected[2] - expected[0]) < SIDE * factor * 2 or (
            factor == 8
        )
        assert drawn[0]["shrinks"] == (min(height, width) >= SIDE)
    assert factors == {2, 4, 8}


def test_pixels_of_a_jpeg_are_near_those_of_the_plain_path():
    """What is decoded at a fraction of its size is what averages of the pixels are, nearly."""
    augment = Augment("random_resized_crop", 64, 3)
    image = photo(600, 800)
    for options in ({"quality": 95}, {"quality": 90, "progressive": True}, {"subsampling": 0}):
        encoded = encode(image, **options)
        pixels = encoded.decode()
        for seed in range(20):
            difference = augment(encoded, seed).astype(float) - augment(pixels, seed)
            assert np.abs(difference).mean() < 2
            assert np.abs(difference.mean()) < 0.5


def test_a_large_crop_is_nearer_to_evaluation_than_bilinear_sampling_is():
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    box = {"crop_coords": (0, 0, 512, 512)}
    ours = AveragedCrop((100, 100), **whole).apply(image, **box, factor=4)
    theirs = A.RandomResizedCrop((100, 100), **whole).apply(image, **box)
    area = cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(ours - area).mean() < np.abs(theirs - area).mean() / 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_cropped_upright(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    augment = Augment("random_resized_crop", SIDE, 3)
    encoded = encode(photo(160, 240), exif=exif, quality=95)
    pixels = encoded.decode()
    assert encoded.shape == pixels.shape
    for seed in range(10):
        difference = augment(encoded, seed).astype(float) - augment(pixels, seed)
        assert np.abs(difference).mean() < 4


def test_masks_and_boxes_follow_the_crop_of_the_image():
    augment = Augment("random_resized_crop", SIDE, 3)
    image = np.zeros((256, 256, 3), np.uint8)
    image[64:192, 96:224] = 255
    mask = (image[..., 0] > 0).astype(np.int64)
    boxes = np.float32([[96, 64, 224, 192]])
    for seed in range(30):
        sample = augment.sample(seed, image=image, mask=mask, boxes=boxes)
        np.testing.assert_array_equal(sample["image"], augment(image, seed))
        bright = sample["image"][..., 0] > 127
        assert (bright != sample["mask"].astype(bool)).mean() < 0.1
        for left, top, right, bottom in sample["boxes"]:
            rows, columns = np.nonzero(sample["mask"])
            assert abs(columns.min() - left) <= 1
            assert abs(columns.max() + 1 - right) <= 1
            assert abs(rows.min() - top) <= 1
            assert abs(rows.max() + 1 - bottom) <= 1


def test_shrinking_agrees_with_an_antialiased_resize():
    """Torchvision and timm train on antialiased crops: these are nearer to them than plain ones."""
    image = photo(448, 448)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    smooth = F.interpolate(tensor, (SIDE, SIDE), mode="bilinear", antialias=True)
    smooth = smooth[0].permute(1, 2, 0).numpy()
    box = {"crop_coords": (0, 0, 448, 448)}
    ours = AveragedCrop((SIDE, SIDE)).apply(image, **box, factor=8)
    theirs = A.RandomResizedCrop((SIDE, SIDE)).apply(image, **box)
    assert np.abs(ours - smooth).mean() < np.abs(theirs - smooth).mean()
