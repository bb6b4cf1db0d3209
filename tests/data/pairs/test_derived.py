import numpy as np

from lit_imgproc.data.pairs.derived import edges, erase, hole, seed_of
from lit_imgproc.data.pairs.framing import Framing, augmented
from lit_imgproc.data.transforms import Augment


def test_edges_lie_where_the_grey_changes_most():
    picture = np.full((40, 60, 3), 40, np.uint8)
    picture[:, 30:] = 200
    lines = edges(picture)[:, :, 0]
    assert lines.shape == (40, 60)
    columns = {*np.nonzero(lines == 0)[1].tolist()}
    assert columns
    assert columns <= {29, 30}
    assert ((lines == 0).sum(1) == 1).all()


def test_edges_go_by_the_contrast_of_the_picture_and_not_by_its_light():
    random = np.random.default_rng(0)
    picture = random.integers(0, 60, (40, 60, 1), np.uint8)
    picture[10:30, 20:50] += 60
    assert (edges(picture) == edges(picture + 50)).all()
    assert (edges(np.full((20, 20, 1), 7, np.uint8)) == 255).all()


def test_a_hole_is_a_rectangle_of_a_quarter_to_a_half_of_each_side():
    places = []
    for seed in range(40):
        missing = hole(80, 120, seed)
        rows, columns = np.nonzero(missing.any(1))[0], np.nonzero(missing.any(0))[0]
        assert 20 <= len(rows) <= 40
        assert 30 <= len(columns) <= 60
        assert missing.sum() == len(rows) * len(columns)
        places.append((rows[0], columns[0], len(rows)))
    assert len({*places}) > 35
    assert (hole(80, 120, 3) == hole(80, 120, 3)).all()
    assert seed_of("a") == seed_of("a") != seed_of("b")


def test_what_is_erased_is_grey_and_marked():
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    missing = np.eye(4, dtype=bool)
    left = erase(picture, missing)
    assert (left[missing] == [128, 128, 128, 255]).all()
    assert (left[~missing, :3] == picture[~missing]).all()
    assert (left[~missing, 3] == 0).all()


def test_pictures_and_class_numbers_are_augmented_alike():
    random = np.random.default_rng(1)
    numbers = random.integers(0, 250, (32, 32), np.uint8)
    layers = [numbers[:, :, None].repeat(3, 2), numbers, numbers[:, :, None]]
    augment = Augment("dihedral", 32, 4)
    seen = set()
    for seed in range(8):
        colour, index, grey = augmented(layers, augment, seed)
        assert (colour == index[:, :, None]).all()
        assert (grey[:, :, 0] == index).all()
        seen.add(index.tobytes())
    assert len(seen) > 3
    alone = [augmented([numbers], augment, seed)[0] for seed in range(8)]
    assert {one.tobytes() for one in alone} == seen


def test_tiles_cover_a_picture_and_stay_within_it():
    framing = Framing(64, None, "none")
    assert framing.corners(64, 64) == [(0, 0)]
    assert framing.corners(100, 128) == [(0, 0), (0, 64), (36, 0), (36, 64)]
    assert Framing(64, None, "crop").corners(1000, 1000) == [(0, 0)]
