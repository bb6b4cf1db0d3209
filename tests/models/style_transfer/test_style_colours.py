import torch

from lit_imgproc.models.style_transfer.colour import (
    luminance,
    match_colours,
    match_luminance,
    with_colours_of,
)


def picture(seed, mix=1.0):
    random = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, 20, 24, generator=random)
    return (noise + mix * noise.roll(1, 0)) / (1 + mix) * 0.5 + 0.2


def test_luminance_of_grey_is_grey():
    grey = torch.full((2, 3, 4, 4), 0.3)
    torch.testing.assert_close(luminance(grey), grey)
    green = torch.zeros(3, 2, 2)
    green[1] = 1
    torch.testing.assert_close(luminance(green), torch.full((3, 2, 2), 0.587))


def test_colours_come_from_one_image_and_luminance_from_another():
    drawn, content = picture(0), picture(1)
    made = with_colours_of(drawn, content)
    torch.testing.assert_close(luminance(made), luminance(drawn), rtol=0, atol=1e-5)
    chroma = made - luminance(made)
    torch.testing.assert_close(chroma, content - luminance(content), rtol=0, atol=1e-5)
    torch.testing.assert_close(with_colours_of(content, content), content)


def test_a_matched_style_has_the_mean_and_covariance_of_the_content():
    style, content = picture(2, mix=0.2), picture(3, mix=2.0) ** 2
    matched = match_colours(style, content).flatten(1)
    torch.testing.assert_close(matched.mean(1), content.flatten(1).mean(1))
    torch.testing.assert_close(matched.cov(), content.flatten(1).cov(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(match_colours(content, content), content, rtol=0, atol=1e-4)


def test_a_style_of_one_colour_can_be_matched():
    grey = torch.full((3, 8, 8), 0.5)
    assert match_colours(grey, picture(4)).isfinite().all()
    assert match_luminance(grey, picture(4)).isfinite().all()


def test_matched_luminance_has_the_mean_and_deviation_of_the_content():
    content = picture(5)
    matched = match_luminance(picture(6), content)
    assert matched[0].equal(matched[2])
    wanted = luminance(content)
    torch.testing.assert_close(matched.mean(), wanted.mean())
    torch.testing.assert_close(matched.std(), wanted.std())
