import itertools

import cv2
import numpy as np
import pytest
from ct_series import write_series

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical import toy
from lit_imgproc.data.medical.geometry import Grid, grid_of, join, write_back
from lit_imgproc.data.medical.read import read_scan

nib = pytest.importorskip("nibabel")

CODES = [
    "".join(p) for ax in itertools.product("RL", "AP", "SI") for p in itertools.permutations(ax)
]


def ball(shape):
    place = np.indices(shape).reshape(3, -1).T - np.array(shape) / 2
    far = np.linalg.norm(place / np.array(shape), axis=1).reshape(shape)
    return ((far < 0.4).astype(np.uint8) + (far < 0.2)).astype(np.uint8)


@pytest.mark.parametrize("code", CODES)
def test_all_orientations_become_canonical_and_come_back(code):
    values = np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(np.int16)
    upright = nib.Nifti1Image(values, np.diag([1.0, 2, 3, 1]))
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(upright.affine), nib.orientations.axcodes2ornt(code)
    )
    image = upright.as_reoriented(turn)
    stored = np.asarray(image.dataobj).T
    grid = grid_of("x.nii", stored.shape, image.affine, "RAS")
    np.testing.assert_array_equal(grid.turn(stored), values.T)
    np.testing.assert_allclose(grid.box_affine, upright.affine, atol=1e-9)
    lps = grid_of("x.nii", stored.shape, image.affine, "LPS")
    np.testing.assert_array_equal(lps.turn(stored), values.T[:, ::-1, ::-1])
    for one in (grid, lps, grid_of("x.nii", stored.shape, image.affine)):
        np.testing.assert_array_equal(one.restore(one.turn(stored), order=0), stored)


def test_spacing_is_that_of_monai():
    grid = grid_of("x.nii", (10, 4, 4), np.diag([1, 1, 2.5, 1.0]), "RAS", (1, 1, 1))
    assert grid.whole == (24, 4, 4)
    np.testing.assert_allclose(grid.box_affine, np.eye(4), atol=1e-9)


def test_linear_resampling_keeps_a_plane():
    z = np.broadcast_to(np.arange(10.0)[:, None, None], (10, 4, 4)).astype(np.float32)
    grid = grid_of("x.nii", z.shape, np.diag([1, 1, 2.5, 1.0]), "RAS", (1, 1, 1))
    resampled = grid.resample(z, order=1)
    np.testing.assert_allclose(resampled[:, 0, 0], np.minimum(np.arange(24) / 2.5, 9), atol=1e-5)
    back = grid.restore(resampled, order=1)
    np.testing.assert_allclose(back[:-1], z[:-1], atol=1e-5)  # the last lies between two


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.7), (1.0, 1.3, 0.9)])
def test_labels_survive_resampling(spacing):
    label = ball((30, 26, 28))
    grid = grid_of("x.nii", label.shape, np.diag([-1, 0.8, 1.1, 1.0]), "RAS", spacing)
    back = grid.restore(grid.resample(grid.turn(label), order=0), order=0)
    assert back.shape == label.shape
    for number in (1, 2):
        dice = 2 * ((back == number) & (label == number)).sum()
        dice = dice / ((back == number).sum() + (label == number).sum())
        assert dice > 0.94


def test_nifti_gets_its_own_geometry_back(tmp_path):
    toy.write_volumes(tmp_path)
    for name in ("toy_001.nii.gz", "toy_002.nii.gz", "toy_003.nii", "toy_000.nii"):
        path = tmp_path / "labelsTr" / name
        scan, original = read_scan(path), nib.load(path)
        grid = grid_of(str(path), scan.stored.shape[1:], scan.affine, "RAS")
        write_back(grid.turn(scan.stored[0]), grid.to_dict(), tmp_path / "out" / name)
        written = nib.load(tmp_path / "out" / name)
        np.testing.assert_array_equal(written.dataobj, original.dataobj)
        np.testing.assert_array_equal(written.affine, original.affine)
        for key in ("pixdim", "dim", "sform_code", "qform_code", "srow_x", "xyzt_units"):
            np.testing.assert_array_equal(written.header[key], original.header[key])


def test_probabilities_outside_of_the_box_are_background(tmp_path):
    grid = grid_of(str(tmp_path / "x.nii"), (6, 5, 4), np.eye(4), "RAS").box((1, 1, 1), (3, 3, 2))
    probabilities = np.full((3, 3, 3, 2), 1 / 3, np.float32)
    write_back(probabilities, grid.to_dict(), tmp_path / "p.nii.gz")
    written = np.asarray(nib.load(tmp_path / "p.nii.gz").dataobj)
    assert written.shape == (4, 5, 6, 3)
    np.testing.assert_allclose(written.sum(-1), 1, rtol=1e-6)
    assert written[0, 0, 0].tolist() == [1, 0, 0]


def test_dicom_gets_a_nifti_in_the_same_place(tmp_path):
    write_series(tmp_path / "ct")
    scan = read_scan(tmp_path / "ct")
    grid = grid_of(scan.path, scan.stored.shape[1:], scan.affine, "RAS")
    label = (grid.turn(scan.values[0]) > 0).astype(np.int64)
    write_back(label, grid.to_dict(), tmp_path / "label.nii.gz")
    back = read_scan(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(back.values[0], scan.values[0] > 0)
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-5)


def test_single_images_get_a_png(tmp_path):
    grid = grid_of("x.dcm", (1, 6, 5), np.diag([-1, -1, 1, 1.0]), None)
    label = np.random.default_rng(0).integers(0, 3, (6, 5))
    write_back(label, grid.to_dict(), tmp_path / "label.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "label.png"), 0), label)
    with pytest.raises(DataError, match="single image"):
        write_back(
            np.zeros((2, 6, 5), np.uint8),
            grid_of("x", (2, 6, 5), np.eye(4)).to_dict(),
            tmp_path / "label.png",
        )


def test_slices_are_joined():
    label = ball((8, 9, 10))
    whole = grid_of("x.nii", label.shape, np.eye(4), "RAS")
    parts = []
    for k in range(9):
        grid = whole.box((-2, k, 1), (12, 1, 8))  # padded and cut
        part = np.zeros((12, 8), np.uint8)
        part[2:10] = label[:, k, 1:9]
        parts.append((part, grid.to_dict()))
    joined, geometry = join(parts)
    expected = label.copy()
    expected[:, :, [0, 9]] = 0
    np.testing.assert_array_equal(joined, expected)
    assert Grid.from_dict(geometry) == whole
    other = grid_of("y.nii", label.shape, np.eye(4), "RAS")
    with pytest.raises(DataError, match="cannot be joined"):
        join([*parts, (label, other.to_dict())])


def test_wrong_shapes_are_refused(tmp_path):
    grid = grid_of("x.nii", (4, 4, 4), np.eye(4), "RAS")
    with pytest.raises(DataError, match="a prediction of shape"):
        write_back(np.zeros((3, 4, 4), np.uint8), grid.to_dict(), tmp_path / "x.nii")


def test_geometry_survives_json():
    import json

    grid = grid_of("x.nii", (4, 5, 6), np.eye(4), "RAS", (1, 1, 2)).box((1, 0, -2), (2, 2, 9))
    assert Grid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid
