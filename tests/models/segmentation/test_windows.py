"""Windows over an image, against MONAI's and against what can be said in closed form."""

import pytest
import torch
from torch.nn.functional import conv2d, pad

from lit_imgproc.models.segmentation.windows import slide


def ramp(*shape):
    """Every value is another one."""
    count = torch.tensor(shape).prod().item()
    return torch.arange(count, dtype=torch.float32).reshape(shape).div_(count)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    ("sides", "window"),
    [
        ((64, 64), (32, 32)),
        ((65, 101), (32, 16)),
        ((20, 90), (32, 24)),  # shorter than the window on one side
        ((3, 5), (16, 16)),  # mirrored more than once
        ((1, 1), (8, 8)),
        ((21, 34, 18), (8, 16, 8)),
        ((5, 34, 1), (8, 16, 8)),
    ],
)
@pytest.mark.parametrize("margin", [0, 5])
def test_what_says_again_what_it_sees_gives_the_image(sides, window, overlap, margin):
    image = ramp(2, *sides)
    seen = []

    def look(windows):
        seen.append(windows.shape)
        inner = slice(margin, -margin or None)
        return windows[(..., *(inner for _ in sides))]

    found = slide(look, image, window, overlap=overlap, batch_size=3, margin=margin)
    assert {shape[1:] for shape in seen} == {(2, *(size + 2 * margin for size in window))}
    assert max(shape[0] for shape in seen) <= 3
    torch.testing.assert_close(found, image, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("sides", "overlap", "count"),
    [
        ((64, 64), 0.0, 4),
        ((64, 64), 0.5, 9),
        ((65, 64), 0.5, 12),
        ((32, 32), 0.5, 1),
        ((10, 10), 0.5, 1),
        ((48, 32), 0.75, 3),
    ],
)
def test_how_many_windows_there_are(sides, overlap, count):
    seen = []

    def look(windows):
        seen.append(len(windows))
        return windows

    slide(look, ramp(1, *sides), (32, 32), overlap=overlap, batch_size=4)
    assert sum(seen) == count
    assert seen == [4] * (count // 4) + [count % 4] * (count % 4 > 0)


def uneven(windows):
    """An answer that depends on where in its window a pixel lies."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, windows.shape[2:]), indexing="ij"))
    return torch.cat([windows, windows * places.sum(0), windows.flip(-1)], dim=1).float()


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.7])
@pytest.mark.parametrize(
    ("sides", "window"), [((70, 93), (32, 24)), ((31, 64), (15, 32)), ((18, 20, 33), (8, 12, 16))]
)
def test_the_same_as_monai(sides, window, overlap):
    inferers = pytest.importorskip("monai.inferers")
    image = ramp(1, *sides)
    weight = torch.ones(())
    for size in window:
        # By its formula, without the floor of 0.001 that MONAI puts under it.
        place = torch.arange(size) - (size - 1) / 2
        weight = weight[..., None] * torch.exp(-(place**2) / (2 * (0.125 * size) ** 2))
    theirs = inferers.sliding_window_inference(
        image[None], window, 4, uneven, overlap=overlap, mode="gaussian", roi_weight_map=weight
    )[0]
    found = slide(uneven, image, window, overlap=overlap)
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-4)


def test_batches_of_any_size_say_the_same():
    image = ramp(1, 50, 61)
    expected = slide(uneven, image, (16, 24), batch_size=1)
    for batch_size in (2, 7, 100):
        torch.testing.assert_close(
            slide(uneven, image, (16, 24), batch_size=batch_size), expected, rtol=0, atol=0
        )


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_network_without_padding_sees_what_truly_surrounds_a_window(overlap):
    """The overlap-tile strategy: as one look at the whole image, mirrored around its borders."""
    torch.manual_seed(0)
    image, kernel = torch.rand(3, 45, 70), torch.rand(2, 3, 9, 9)
    whole = conv2d(pad(image[None], (4, 4, 4, 4), mode="reflect"), kernel)[0]
    found = slide(
        lambda seen: conv2d(seen, kernel), image, (16, 20), overlap=overlap, batch_size=5, margin=4
    )
    torch.testing.assert_close(found, whole)


def test_half_precision_is_summed_in_full():
    found = slide(lambda seen: seen.to(torch.bfloat16), torch.ones(1, 40, 40), (16, 16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.ones(1, 40, 40))
