import pytest
import torch

from lit_imgproc.errors import UserError
from lit_imgproc.models.style_transfer.gatys import gatys


def picture(height, width, seed=0):
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]


def stripes(side):
    return ((torch.arange(side) // 3) % 2).float().expand(3, side, side)


RANDOM = {"filters": "vgg_random", "content_layers": ("relu3_2",),
          "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0}}  # fmt: skip


def test_it_comes_nearer_to_the_style_and_stays_near_the_content():
    looks = []
    made = gatys(
        picture(48, 40), stripes(48), steps=12, progress=lambda *now: looks.append(now), **RANDOM
    )
    assert made.image.shape == (3, 48, 40)
    assert 0 <= made.image.min() <= made.image.max() <= 1
    first, last = made.losses[0], made.losses[-1]
    assert first["content_loss"] == pytest.approx(0, abs=1e-6)
    assert last["style_loss"] < 0.3 * first["style_loss"]
    assert last["loss"] < 0.3 * first["loss"]
    assert looks[-1] == (len(made.losses), 12)


def test_it_can_start_from_noise_by_a_seed():
    content = picture(48, 48)
    one, same, other = (
        gatys(content, stripes(32), steps=2, init="noise", seed=seed, **RANDOM).image
        for seed in (0, 0, 1)
    )
    assert one.equal(same)
    assert not one.equal(other)


def test_resolutions_go_from_coarse_to_fine():
    made = gatys(picture(130, 128), stripes(64), steps=1, resolutions=3, **RANDOM)
    heights = [one["height"] for one in made.losses]
    assert heights == sorted(heights)
    assert set(heights) == {65, 130}  # a third would have less than 64 pixels
    assert made.image.shape == (3, 130, 128)


def test_an_image_that_is_the_style_already_stays_as_it_is():
    content = stripes(48)
    made = gatys(content, content, steps=3, tv_weight=0, **RANDOM)
    torch.testing.assert_close(made.image, content, rtol=0, atol=1e-3)


def test_what_is_no_image_is_refused():
    with pytest.raises(UserError, match="one image"):
        gatys(torch.rand(1, 3, 48, 48), stripes(48), **RANDOM)
