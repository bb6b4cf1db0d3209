import pickle

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from lit_imgproc.data.base import DataError
from lit_imgproc.data.transforms import PRESETS, Augment, AugmentChoice, check_augment


def noise(side=32, channels=3):
    return np.random.default_rng(0).integers(1, 256, (side, side, channels), np.uint8)


def image(side, channels):
    return np.tile(np.arange(side, dtype=np.uint8)[:, None, None], (1, side, channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 28, 64])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_type_and_shape(preset, side, channels):
    augment = Augment(preset, side, channels)
    for seed in range(5):
        result = augment(noise(side, channels), seed)
        assert result.dtype == np.uint8
        assert result.shape == (side, side, channels)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "none"])
def test_the_seed_alone_decides(preset):
    augment, other = Augment(preset, 32, 3), Augment(preset, 32, 3)
    results = [augment(noise(), seed) for seed in range(20)]
    for seed in reversed(range(20)):
        np.testing.assert_array_equal(other(noise(), seed), results[seed])
    assert len({result.tobytes() for result in results}) > 1
    copy = pickle.loads(pickle.dumps(augment))
    np.testing.assert_array_equal(copy(noise(), 7), results[7])


def test_none_changes_nothing():
    np.testing.assert_array_equal(Augment("none", 32, 3)(noise(), 1), noise())


def test_flip_mirrors_half_of_the_images():
    augment = Augment("flip", 32, 3)
    mirrored = 0
    for seed in range(400):
        result = augment(noise(), seed * 2**50)
        is_mirrored = np.array_equal(result, noise()[:, ::-1])
        assert is_mirrored or np.array_equal(result, noise())
        mirrored += is_mirrored
    assert 160 < mirrored < 240


@pytest.mark.parametrize(("preset", "mirrors"), [("crop_flip", True), ("shift", False)])
def test_crops_of_the_padded_image(preset, mirrors):
    padded = np.pad(noise(), ((4, 4), (4, 4), (0, 0)))
    crops = {
        padded[top : top + 32, left : left + 32][:, ::step].tobytes(): (top, left, step)
        for top in range(9)
        for left in range(9)
        for step in (1, -1)
    }
    augment = Augment(preset, 32, 3)
    seen = {crops[augment(noise(), seed * 7919).tobytes()] for seed in range(3000)}
    assert len(seen) == (162 if mirrors else 81)


def test_erasing_replaces_a_rectangle():
    augment = Augment("crop_flip_erase", 32, 3)
    plain = Augment("crop_flip", 32, 3)
    changed = sum(
        not np.array_equal(augment(noise(), seed), plain(noise(), seed)) for seed in range(200)
    )
    assert 60 < changed < 140


def test_random_resized_crop_wants_the_image_as_decoded():
    augment = Augment("random_resized_crop", 32, 3)
    assert augment.resizes
    assert not Augment("crop_flip", 32, 3).resizes
    assert augment(image(100, 3), 0).shape == (32, 32, 3)


def test_a_pipeline_spelled_out():
    choice = [
        {"name": "OneOf", "p": 1.0, "transforms": [{"name": "VerticalFlip", "p": 1.0}]},
        {"name": "RandomCrop", "height": 20, "width": 20},
    ]
    assert check_augment({"train": choice}) == []
    result = Augment(choice, 32, 3)(image(32, 3), 0)
    assert result.shape == (20, 20, 3)
    assert result[0, 0, 0] > result[-1, 0, 0]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"train": "crop_flp"}, "did you mean crop_flip?"),
        ({"trian": "none"}, "augment.trian: unknown key"),
        ({"train": 3}, "augment.train: got 3"),
        ({"train": ["flip"]}, "augment.train[0]: got 'flip'"),
        ({"train": [{"p": 1.0}]}, "the `name` of a transform is needed"),
        ({"train": [{"name": "HorizontlFlip"}]}, "did you mean HorizontalFlip?"),
        ({"train": [{"name": "HorizontalFlip", "pp": 1}]}, "no argument 'pp'; did you mean p?"),
        ({"train": [{"name": "RandomCrop", "height": "x", "width": 3}]}, "height: Input should be"),
        ({"train": [{"name": "RandomCrop"}]}, "width: Field required"),
        ({"train": [{"name": "OneOf", "transforms": [{"name": "Flop"}]}]}, "transforms[0]"),
        ({"train": [{"name": "OneOf", "transforms": "flip"}]}, "a list of transforms is needed"),
    ],
)
def test_mistakes_have_one_sentence_each(value, sentence):
    problems = check_augment(value)
    assert len(problems) == 1
    assert sentence in problems[0]
    assert "\n" not in problems[0]


def test_a_schema_passes_the_sentences_on():
    schema = TypeAdapter(AugmentChoice)
    for value in (None, {"train": "flip"}, {"train": [{"name": "HorizontalFlip"}]}):
        assert schema.validate_python(value) == value
    with pytest.raises(ValidationError, match=r"did you mean crop_flip\?"):
        schema.validate_python({"train": "crop_flp"})


def test_all_mistakes_are_told_at_once():
    choice = [{"name": "Nothing"}, {"name": "HorizontalFlip", "q": 1}, 3]
    with pytest.raises(DataError) as error:
        Augment(choice, 32, 3)
    assert len(str(error.value).splitlines()) == 3


def test_what_fails_on_an_image_fails_at_once():
    with pytest.raises(DataError, match=r"fails on an image of uint8 of shape \[28, 28, 1\]"):
        Augment([{"name": "RandomCrop", "height": 40, "width": 40}], 28, 1)


def test_pixels_must_stay_bytes():
    with pytest.raises(DataError, match="normalization and tensors belong"):
        Augment([{"name": "Normalize"}], 28, 3)


@pytest.mark.parametrize(("dtype", "channels"), [(np.float32, 13), (np.uint16, 5), (np.uint8, 120)])
def test_a_dihedral_turn_is_one_of_eight_and_keeps_every_value(dtype, channels):
    image = (np.random.default_rng(0).random((16, 16, channels)) * 200).astype(dtype)
    augment = Augment("dihedral", 16, channels, dtype)
    eight = {np.rot90(view, k).tobytes() for view in (image, image[:, ::-1]) for k in range(4)}
    seen = {np.ascontiguousarray(augment(image, seed)).tobytes() for seed in range(100)}
    assert seen == eight


@pytest.mark.parametrize("preset", ["crop_flip", "random_resized_crop", "dihedral", "flip"])
def test_masks_and_boxes_move_with_their_image(preset):
    # Bright 8x6 rectangle: wherever it goes, its mask and its box go too.
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:28, 30:36] = 255
    mask = (image[..., 0] > 0).astype(np.int64)
    box, other = [30, 20, 36, 28], [0, 60, 4, 64]
    masks = np.stack([mask, np.zeros_like(mask)]).astype(np.uint8)
    masks[1, 60:, :4] = 1
    augment = Augment(preset, 64, 3)
    for seed in range(40):
        found = augment.sample(
            seed, image=image, mask=mask, boxes=np.float32([box, other]), masks=masks
        )
        assert found["image"].shape[:2] == found["mask"].shape == found["masks"].shape[1:]
        assert found["mask"].dtype == np.int64
        assert (found["image"] == augment(image, seed)).all()
        bright, labelled = found["image"][..., 0] > 127, found["mask"] == 1
        assert np.count_nonzero(bright ^ labelled) <= 0.2 * np.count_nonzero(labelled) + 40
        assert len(found["boxes"]) == len(found["masks"]) == len(found["kept"])
        for (left, top, right, bottom), one, kept in zip(
            found["boxes"], found["masks"], found["kept"], strict=True
        ):
            rows, columns = np.nonzero(one)
            assert kept in (0, 1)
            if len(rows):  # a sliver of a box may hold no pixel's centre
                edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert np.abs(np.subtract(edges, [left, top, right, bottom])).max() <= 2.5


def test_what_comes_from_outside_is_ignored_in_a_mask_and_of_no_instance():
    augment = Augment("crop_flip", 32, 3)
    image, mask = np.full((32, 32, 3), 9, np.uint8), np.ones((32, 32), np.int64)
    for seed in range(20):
        found = augment.sample(seed, image=image, mask=mask, masks=np.ones((1, 32, 32), np.uint8))
        outside = found["image"][..., 0] == 0
        assert (found["mask"][outside] == 255).all()
        assert (found["mask"][~outside] == 1).all()
        assert (found["masks"][0] == ~outside).all()


@pytest.mark.parametrize("choice", ["flip", "none", [{"name": "RandomBrightnessContrast"}]])
def test_an_image_without_objects_stays_one_without(choice):
    found = Augment(choice, 8, 1).sample(
        3,
        image=np.zeros((8, 8, 1), np.uint8),
        boxes=np.zeros((0, 4), np.float32),
        masks=np.zeros((0, 8, 8), np.uint8),
    )
    assert found["boxes"].shape == (0, 4)
    assert found["kept"].shape == (0,)
    assert found["masks"].shape == (0, 8, 8)


@pytest.mark.parametrize(
    "choice", ["strong", [{"name": "OneOf", "transforms": [{"name": "GaussNoise"}], "p": 0.4}]]
)
def test_what_cuts_reflectances_to_0_to_1_is_refused(choice):
    with pytest.raises(DataError, match=r"cuts values to \[0, 1\].* reach 9000: use transforms"):
        Augment(choice, 16, 3, np.float32, highest=9000)
    Augment(choice, 16, 3, np.float32)
    Augment(choice, 16, 3)


@pytest.mark.parametrize(
    "preset", ["flip", "crop_flip", "random_resized_crop", "dihedral", "shift"]
)
def test_what_moves_pixels_keeps_reflectances(preset):
    augment = Augment(preset, 16, 13, np.float32, highest=9000)
    assert augment(np.full((16, 16, 13), 9000, np.float32), 3).max() == 9000
