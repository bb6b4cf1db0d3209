"""Every file of medical_io, and files made here: sound ones as nibabel and pydicom see them."""

import gzip
import warnings

import cv2
import numpy as np
import pytest

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical import toy
from lit_imgproc.data.medical.dicom import read_dicom, read_voi
from lit_imgproc.data.medical.read import read_header, read_scan
from lit_imgproc.data.medical.shown import read_shown

nib = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

NIFTI = ("CT_AVM", "CT_pitch", "MR_Gd", "spmMotor")
DICOM = (
    *("693_J2KR", "693_UNCR", "JPEG-LL", "MR-SIEMENS-DICOM-WithOverlays", "OBXXXX1A_rle_2frame"),
    *("SC_rgb_16bit", "SC_ybr_full_uncompressed", "bad_sequence", "emri_small", "liver"),
    "mlut_18",
)


def of_pydicom(path):
    """``[C,D,H,W]`` by pydicom's own functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        array = pydicom.pixel_array(dataset)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            array = pydicom.pixels.apply_color_lut(array, dataset)
        else:
            array = pydicom.pixels.apply_modality_lut(array, dataset)
    shape = (int(dataset.get("NumberOfFrames", 1)), dataset.Rows, dataset.Columns, -1)
    return array.reshape(shape).transpose(3, 0, 1, 2)


@pytest.mark.parametrize("name", NIFTI)
def test_nifti_equals_nibabel(shared_data, name):
    path = shared_data / "medical_io" / "nifti" / f"{name}.nii.gz"
    scan, image = read_scan(path), nib.load(path)
    expected = np.asanyarray(image.dataobj)
    np.testing.assert_allclose(scan.values[0].T, expected, rtol=1e-6)
    np.testing.assert_array_equal(scan.affine, image.affine)
    np.testing.assert_allclose(scan.spacing[::-1], image.header.get_zooms()[:3], rtol=1e-5)
    assert scan.values.dtype in (np.float32, expected.dtype)
    assert read_header(path).shape == scan.stored.shape


@pytest.mark.parametrize("name", DICOM)
def test_dicom_equals_pydicom(shared_data, name):
    path = shared_data / "medical_io" / "dicom" / f"{name}.dcm"
    scan, expected = read_scan(path), of_pydicom(path)
    np.testing.assert_array_equal(scan.values, expected.astype(np.float32))
    header = read_header(path)
    assert header.shape == scan.stored.shape
    np.testing.assert_array_equal(header.affine, scan.affine)


def test_all_of_medical_io_is_read_or_named(shared_data):
    for path in sorted((shared_data / "medical_io").rglob("*.*")):
        assert read_scan(path).values.size > 0
    with pytest.raises(DataError, match="LICENSE: not an image"):
        read_scan(shared_data / "medical_io" / "nifti" / "LICENSE")


def test_two_ways_of_compression_give_the_same(shared_data):
    folder = shared_data / "medical_io" / "dicom"
    first, second = (read_dicom(folder / f"693_{kind}.dcm") for kind in ("J2KR", "UNCR"))
    np.testing.assert_array_equal(first.values, second.values)


def test_segmentation_object_has_its_place(shared_data):
    scan = read_dicom(shared_data / "medical_io" / "dicom" / "liver.dcm")
    assert scan.stored.shape == (1, 3, 512, 512)
    np.testing.assert_allclose(scan.spacing, (1, 0.810547, 0.810547), rtol=1e-6)
    np.testing.assert_allclose(scan.affine[:3, 3], (235.2, 226.8, -128.69), rtol=1e-6)


@pytest.mark.parametrize("cut", [0, 100, 0.5, -1])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_cut_nifti_is_one_sentence(tmp_path, cut, suffix):
    path = tmp_path / f"volume{suffix}"
    values = np.random.default_rng(0).integers(0, 99, (9, 8, 7)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(DataError) as caught:
        _ = read_scan(path).values
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_wrong_checksum_shows(tmp_path):
    path = tmp_path / "volume.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged or cut short"):
        read_scan(path)


def test_more_axes_become_channels(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, (5, 4, 3, 2)).astype(np.int16)
    for shape in ((5, 4, 3, 2), (5, 4, 3, 1, 2)):
        nib.save(nib.Nifti1Image(values.reshape(shape), np.eye(4)), tmp_path / "v.nii")
        scan = read_scan(tmp_path / "v.nii")
        np.testing.assert_array_equal(scan.stored.transpose(3, 2, 1, 0), values)
    colours = np.zeros((5, 4, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = values[..., 0]
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii.gz")
    scan = read_scan(tmp_path / "rgb.nii.gz")
    assert scan.stored.shape == (3, 3, 4, 5)
    np.testing.assert_array_equal(scan.stored[1].T, values[..., 0])
    plane = nib.Nifti1Image(values[:, :, 0, 0], np.eye(4))
    nib.save(plane, tmp_path / "plane.nii")
    assert read_scan(tmp_path / "plane.nii").stored.shape == (1, 1, 4, 5)


def test_complex_and_impossible_niftis_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.complex64), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(DataError, match="complex"):
        read_scan(tmp_path / "c.nii")
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4))
    image.header.set_data_shape((2, 2, 2))
    nib.save(image, tmp_path / "bomb.nii.gz")
    data = bytearray(gzip.decompress((tmp_path / "bomb.nii.gz").read_bytes()))
    data[42:48] = np.array([30000] * 3, "<i2").tobytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(data))
    with pytest.raises(DataError, match="damaged"):
        read_scan(tmp_path / "bomb.nii.gz")


def written(path, **changes):
    values = np.arange(24 * 20, dtype=np.int16).reshape(24, 20) - 200
    dataset = toy.dicom_slice(values, [1.0, 2.0, 3.0], "1.2.3", "P")
    for name, value in changes.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return values


def test_monochrome1_is_inverted(tmp_path):
    values = written(tmp_path / "m2.dcm")
    written(tmp_path / "m1.dcm", PhotometricInterpretation="MONOCHROME1")
    scan = read_dicom(tmp_path / "m1.dcm")
    np.testing.assert_array_equal(scan.values[0, 0], values)  # what the modality means
    assert scan.mirror == -1024 + 3071  # of 12 bits, rescaled
    first = read_shown(tmp_path / "m2.dcm", 1, (40.0, 400.0))
    second = read_shown(tmp_path / "m1.dcm", 1, (40.0, 400.0))
    np.testing.assert_allclose(first + second, 1, atol=1e-6)
    np.testing.assert_array_equal(
        read_shown(tmp_path / "m1.dcm", 1, None)[:, :, 0], 2047 - values.astype(np.float32)
    )


def test_damaged_dicoms_are_one_sentence(tmp_path):
    path = tmp_path / "slice.dcm"
    written(path)
    data = path.read_bytes()
    cases = {
        "not a DICOM file": data[:100],
        "cannot be decoded": data[:-40],
        "has no pixel data": None,
    }
    for message, content in cases.items():
        if content is None:
            written(path, PixelData=None)
        else:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            read_scan(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    written(path, RescaleSlope=0)
    with pytest.raises(DataError, match="rescale slope is 0"):
        read_scan(path)
    with pytest.raises(DataError, match="no such file"):
        read_scan(tmp_path / "none.dcm")


def test_the_window_of_the_file_is_pydicoms(tmp_path):
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        values = written(tmp_path / "s.dcm", VOILUTFunction=function)
        shown = read_voi(tmp_path / "s.dcm")(values)
        dataset = pydicom.dcmread(tmp_path / "s.dcm")
        theirs = pydicom.pixels.apply_windowing(values.astype(np.float64), dataset)
        low, high = -1024, 3071  # pydicom's results span what 12 bits, rescaled, can be
        np.testing.assert_allclose(shown, (theirs - low) / (high - low), atol=1e-6)


def test_the_lookup_table_of_the_file_comes_first(tmp_path):
    item = pydicom.Dataset()
    item.LUTDescriptor = [4, 0, 16]
    item.LUTData = np.array([0, 65535, 16384, 32768], "<u2").tobytes()
    values = written(tmp_path / "s.dcm", VOILUTSequence=[item])
    shown = read_voi(tmp_path / "s.dcm")(values)
    expected = np.array([0, 65535, 16384, 32768])[np.clip(values, 0, 3)] / 65535
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_a_window_of_a_recipe_is_monais(tmp_path):
    values = np.array([[-1000, -160, 40, 240, 900]], np.int16)
    dataset = toy.dicom_slice(values, [0.0, 0.0, 0.0], "1.2.3", "P")
    dataset.save_as(tmp_path / "s.dcm", enforce_file_format=True)
    shown = read_shown(tmp_path / "s.dcm", 1, (40.0, 400.0))
    assert shown.ravel().tolist() == [0, 0, 0.5, 1, 1]


def test_pictures_keep_their_bits(tmp_path):
    random = np.random.default_rng(0)
    for name, shape, kind in (
        *(("grey.png", (9, 8), np.uint16), ("rgb.png", (9, 8, 3), np.uint16)),
        *(("grey8.png", (9, 8), np.uint8), ("grey.tif", (9, 8), np.uint16)),
        *(("rgb8.tif", (9, 8, 3), np.uint8), ("float.tiff", (9, 8), np.float32)),
    ):
        pixels = random.integers(0, 200 if kind == np.uint8 else 60000, shape).astype(kind)
        cv2.imwrite(str(tmp_path / name), pixels[..., ::-1] if len(shape) == 3 else pixels)
        stored = read_scan(tmp_path / name).stored
        assert stored.dtype == kind
        np.testing.assert_array_equal(stored[:, 0].transpose(1, 2, 0).squeeze(), pixels)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match=name):
            read_scan(tmp_path / name)


def test_frames_are_asked_for(tmp_path, shared_data):
    path = shared_data / "medical_io" / "dicom" / "OBXXXX1A_rle_2frame.dcm"
    with pytest.raises(DataError, match="has 2 frames, give the column `frame`"):
        read_shown(path, 3, None)
    second = read_shown(path, 3, None, frame=1)
    assert second.dtype == np.uint8
    np.testing.assert_array_equal(second, of_pydicom(path)[:, 1].transpose(1, 2, 0) >> 8)
    with pytest.raises(DataError, match="no number 2"):
        read_shown(path, 3, None, frame=2)
