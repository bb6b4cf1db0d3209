"""DICOM series, for tests."""

import numpy as np

from lit_imgproc.data.medical.toy import dicom_slice


def write_series(folder, slices=8, *, seed=0):
    """A CT series of 24x20 pixels, 2.5 mm apart, whose names and numbers are in another order.

    Returns:
        The values, ``[D,H,W]``, in Hounsfield units.
    """
    from pydicom import uid

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    values = random.integers(-1000, 1000, (slices, 24, 20)).astype(np.int16)
    series = uid.generate_uid(entropy_srcs=["toy series", str(seed)])
    for number in random.permutation(slices).tolist():
        position = [-10.0, -12.0, 40 + 2.5 * number]
        dataset = dicom_slice(values[number], position, series, f"P{seed}")
        dataset.InstanceNumber = slices - number
        dataset.SOPInstanceUID = uid.generate_uid(entropy_srcs=["toy", str(seed), str(number)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        name = f"IM{int(random.integers(10**6)):06d}"
        dataset.save_as(folder / name, enforce_file_format=True)
    return values
