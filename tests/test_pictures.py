"""Pictures: sizes, ranges and layout; what they show is for eyes."""

import numpy as np
import pytest

from lit_imgproc import pictures


def test_a_small_image_is_enlarged_without_smoothing():
    image = np.zeros((1, 28, 28), np.float32)
    image[0, 0, 0] = 1
    tile = pictures.tile(image)
    assert tile.shape == (112, 112, 3)
    assert (tile[:4, :4] == 255).all()
    assert tile.sum() == 4 * 4 * 3 * 255


def test_a_large_image_keeps_its_size_and_many_bands_show_three():
    image = np.stack([np.full((200, 150), value, np.float32) for value in (0.0, 0.5, 1.0, 0.3)])
    tile = pictures.tile(image)
    assert tile.shape == (200, 150, 3)
    assert tile[0, 0].tolist() == [0, 128, 255]


def test_captions_stand_below_and_long_ones_are_cut():
    tile = pictures.tile(np.ones((3, 112, 112), np.float32))
    short, long = (pictures.caption(tile, [text, "x"]) for text in ("a", "w" * 500))
    assert short.shape == long.shape
    assert short.shape[1] == tile.shape[1]
    assert (short[: tile.shape[0]] == tile).all()
    assert (long[tile.shape[0] :] < 255).sum() > (short[tile.shape[0] :] < 255).sum()


def test_an_overlay_is_warm_where_the_map_is_high():
    picture = np.full((112, 112, 3), 128, np.uint8)
    heat = np.zeros((7, 7), np.float32)
    heat[5, 5] = 1
    seen = pictures.overlay(picture, heat).astype(int)
    assert seen.shape == picture.shape
    red_over_blue = seen[..., 0] - seen[..., 2]
    row, column = np.unravel_index(red_over_blue.argmax(), red_over_blue.shape)
    assert 72 <= row <= 104
    assert 72 <= column <= 104
    assert red_over_blue[:40, :40].max() <= 10


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (16, 4), (8, 2)])
def test_a_grid_is_about_square_with_an_even_number_of_columns(count, columns):
    sheet = pictures.grid([np.zeros((112, 112, 3), np.uint8)] * count)
    assert (sheet.shape[1] - 4) // 116 == columns
    assert (sheet.shape[0] - 4) // 116 == -(-count // columns)


def test_values_beyond_0_to_1_are_stretched():
    bands = np.linspace(-1000, 3000, 4 * 112 * 112, dtype=np.float32).reshape(4, 112, 112)
    tile = pictures.tile(bands)
    assert tile.reshape(-1, 3).min(0).tolist() == [0, 0, 0]
    assert tile.reshape(-1, 3).max(0).tolist() == [255, 255, 255]
    assert (pictures.tile(np.full((1, 112, 112), 7.0, np.float32)) == 0).all()


def test_boxes_are_drawn_at_their_edges_in_the_colour_of_their_class():
    picture = np.zeros((40, 40, 3), np.uint8)
    drawn = pictures.outline(picture, np.float32([[5, 6, 20, 30], [0, 0, 40, 40]]), [1, 2])
    assert not picture.any()
    assert drawn[6, 5].tolist() == drawn[29, 19].tolist() == list(pictures.colour(1))
    assert drawn[0, 0].tolist() == drawn[39, 39].tolist() == list(pictures.colour(2))
    assert not drawn[10, 10].any()


def test_a_mask_colours_its_classes_and_leaves_the_ground():
    picture = np.full((4, 4, 3), 200, np.uint8)
    painted = pictures.paint(picture, np.array([[0, 1], [2, 255]]), opacity=0.5)
    assert (painted[:2, :2] == 200).all()
    assert (painted[2:, 2:] == 100).all()
    expected = (200 + np.array(pictures.colour(1))) / 2
    assert np.abs(painted[0, 3] - expected).max() <= 1
    assert painted[0, 3].tolist() != painted[3, 0].tolist()


def test_colours_of_the_first_classes_differ():
    colours = {pictures.colour(number) for number in range(50)}
    assert len(colours) == 50
