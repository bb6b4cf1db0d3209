import numpy as np
import pytest
from ct_series import write_series

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.read import read_header, read_scan

pydicom = pytest.importorskip("pydicom")


def places(folder):
    """File by height, lowest first."""
    found = {pydicom.dcmread(f).ImagePositionPatient[2]: f for f in folder.iterdir()}
    return [found[height] for height in sorted(found)]


def changed(path, **changes):
    dataset = pydicom.dcmread(path)
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


def test_slices_are_in_the_order_of_their_places(tmp_path):
    values = write_series(tmp_path / "ct")
    scan = read_scan(tmp_path / "ct")
    np.testing.assert_array_equal(scan.values[0], values)
    assert scan.spacing == (2.5, 0.5, 0.5)
    expected = [[-0.5, 0, 0, 10], [0, -0.5, 0, 12], [0, 0, 2.5, 40], [0, 0, 0, 1]]
    np.testing.assert_allclose(scan.affine, expected)
    header = read_header(tmp_path / "ct")
    assert header.shape == (1, 8, 24, 20)
    np.testing.assert_array_equal(header.affine, scan.affine)


def test_a_tilted_gantry_shears(tmp_path):
    write_series(tmp_path, 4)
    for number, path in enumerate(places(tmp_path)):
        changed(path, ImagePositionPatient=[-10, -12 + 0.7 * number, 40 + 2.5 * number])
    np.testing.assert_allclose(read_scan(tmp_path).affine[:3, 2], [0, -0.7, 2.5])


def test_missing_and_uneven_slices_are_named(tmp_path):
    write_series(tmp_path)
    files = places(tmp_path)
    files[3].unlink()
    with pytest.raises(DataError) as caught:
        read_scan(tmp_path)
    assert f"1 slice is missing between {files[2].name} and {files[4].name}" in str(caught.value)
    changed(files[2], ImagePositionPatient=[-10, -12, 46.0])
    with pytest.raises(DataError, match=f"{files[1].name} and {files[2].name} are 3.5 mm apart"):
        read_scan(tmp_path)
    changed(files[2], ImagePositionPatient=[-10, -12, 42.5])
    with pytest.raises(DataError, match="lie in the same place"):
        read_scan(tmp_path)


def test_several_series_and_strangers_are_named(tmp_path):
    write_series(tmp_path, 3)
    write_series(tmp_path, 4, seed=1)
    with pytest.raises(DataError, match="holds 2 series"):
        read_scan(tmp_path)
    write_series(tmp_path / "turned", 3)
    first = places(tmp_path / "turned")[0]
    changed(first, ImageOrientationPatient=[1, 0, 0, 0, 0, 1])
    with pytest.raises(DataError, match="another direction"):
        read_scan(tmp_path / "turned")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no DICOM files"):
        read_scan(tmp_path / "empty")


def test_each_slice_may_have_a_scale(tmp_path):
    values = write_series(tmp_path, 3)
    for number, path in enumerate(places(tmp_path)):
        changed(path, RescaleSlope=number + 1)
    expected = [(values[n].astype(float) + 1024) * (n + 1) - 1024 for n in range(3)]
    np.testing.assert_allclose(read_scan(tmp_path).values[0], expected)


def test_one_slice_is_a_series(tmp_path):
    values = write_series(tmp_path, 1)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.values[0], values)
    assert scan.spacing == (2.5, 0.5, 0.5)
