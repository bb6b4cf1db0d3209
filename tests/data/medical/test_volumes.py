"""Labelled volumes: what is cut out of them, and what is wrong with them."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from ct_series import write_series

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.medical.geometry import join, write_back
from lit_imgproc.data.medical.patches import augment_patch, patch_start
from lit_imgproc.data.medical.read import read_scan
from lit_imgproc.data.medical.slices import MedicalSlices
from lit_imgproc.data.medical.volumes import MedicalVolumes

nib = pytest.importorskip("nibabel")

SIZE = (16, 16, 16)


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("volumes")
    MedicalVolumes.write_toy(root)
    return root


@pytest.fixture
def own_root(tmp_path):
    MedicalVolumes.write_toy(tmp_path)
    return tmp_path


def volumes(root, **settings):
    settings = {"patch_size": SIZE, "num_workers": 0} | settings
    return MedicalVolumes(root=str(root), **settings)


def rewrite(path, change):
    image = nib.load(path)
    data = change(np.asanyarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(data, image.affine), path)


def test_importing_needs_no_extra():
    import subprocess

    code = (
        "import sys, lit_imgproc.data.medical.volumes, lit_imgproc.data.medical.slices, "
        "lit_imgproc.data.medical.images, lit_imgproc.data.medical.medmnist, "
        "lit_imgproc.data.medical.nuclei, lit_imgproc.data.medical.isbi; "
        "print([m for m in ('monai', 'nibabel', 'pydicom') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_toy_volumes(toy_root):
    data = volumes(toy_root, intensity=(40.0, 800.0))
    assert data.splits() == {"train": 8, "val": 2, "test": 2}
    groups = [set(data.dataset(split).groups) for split in data.splits()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    facts = data.facts()
    assert facts["class_names"] == ["background", "shell", "core"]
    assert facts["value_range"] == [0.0, 1.0]
    assert facts["image_size"] == [16, 16, 16]
    sample = data.dataset("train")[0, 5]
    assert sample["image"].shape == (1, 16, 16, 16)
    assert sample["image"].dtype == torch.float32
    assert sample["mask"].dtype == torch.int64
    whole = data.dataset("val")[0]
    assert whole["mask"].shape == whole["image"].shape[1:] == whole["geometry"]["size"]
    assert len(data.dataset("val").size(0)) == 3
    batch = data.batch("val", [0, 1])
    assert isinstance(batch["geometry"], list)


def test_values_are_those_of_the_file(toy_root):
    data = volumes(toy_root)
    for index, case in enumerate(data.dataset("val").names):
        image = nib.as_closest_canonical(nib.load(toy_root / case))
        expected = np.asarray(image.dataobj, np.float32).T
        np.testing.assert_array_equal(data.dataset("val")[index]["image"][0], expected)


def test_standardized_volumes(toy_root):
    data = volumes(toy_root, intensity="zscore")
    image = data.dataset("train")[0]["image"]
    assert abs(float(image.mean())) < 0.01
    assert abs(float(image.std()) - 1) < 0.01


def test_patches_are_centred_on_foreground_as_often_as_asked(toy_root):
    for share in (0.0, 0.3, 1.0):
        data = volumes(toy_root, foreground=share, patch_size=(9, 9, 9))
        data.prepare()
        volume = data.reader[0]
        hits = 0
        for seed in range(1000):
            start = patch_start(volume, (9, 9, 9), share, np.random.default_rng(seed))
            _, mask = volume.box(start, (9, 9, 9))
            hits += int(mask[4, 4, 4] > 0)
        inside = (volume.label[4:-4, 4:-4, 4:-4] > 0).mean()
        expected = share + (1 - share) * inside
        assert abs(hits / 1000 - expected) < 0.05


def test_each_class_has_equal_chances(toy_root):
    data = volumes(toy_root)
    data.prepare()
    volume = data.reader[0]
    sides, drawn = volume.label.shape, []
    for seed in range(600):
        start = patch_start(volume, (1, 1, 1), 1.0, np.random.default_rng(seed))
        drawn.append(int(volume.label[start]))
        assert all(0 <= at < side for at, side in zip(start, sides, strict=True))
    assert 0.4 < np.mean(np.array(drawn) == 2) < 0.6


def test_a_patch_beyond_the_volume_is_lowest_and_ignored(toy_root):
    data = volumes(toy_root, patch_size=(40, 40, 40), intensity=(40.0, 800.0))
    sample = data.dataset("train")[0, 1]
    outside = sample["mask"] == 255
    assert outside.any()
    assert not outside.all()
    lowest = data.dataset("train")[0]["image"].min()
    assert torch.all(sample["image"][0][outside] == lowest)


def test_spacing_and_crop(toy_root):
    native, resampled = volumes(toy_root), volumes(toy_root, spacing=(2.0, 1.0, 1.0))
    for split in ("train", "val"):
        for index in range(len(native.dataset(split))):
            stored = native.dataset(split)[index]
            new = resampled.dataset(split)[index]
            z = native.reader[native.dataset(split).numbers[index]].grid.box_affine[2, 2]
            assert new["image"].shape[1] == int((stored["image"].shape[1] - 1) * z / 2 + 1.5)
            assert set(new["mask"].unique().tolist()) == {0, 1, 2}
    cropped = volumes(toy_root, crop_foreground=True, intensity=(200.0, 300.0))
    sample = cropped.dataset("val")[0]
    assert sample["image"].numel() < native.dataset("val")[0]["image"].numel()
    assert max(sample["geometry"]["start"]) > 0


@pytest.mark.parametrize("settings", [{}, {"orientation": "LPS"}, {"crop_foreground": True}])
@pytest.mark.parametrize("kind", ["volumes", "slices"])
def test_predictions_come_back(toy_root, tmp_path, settings, kind):
    settings = settings | {"intensity": (200.0, 300.0)}
    if kind == "volumes":
        data = volumes(toy_root, **settings)
    else:
        data = MedicalSlices(
            root=str(toy_root), image_size=40, axis="coronal", num_workers=0, **settings
        )
    path = toy_root / "imagesTr" / "toy_005.nii.gz"
    truth = nib.load(toy_root / "labelsTr" / "toy_005.nii.gz")
    parts = []
    for sample in data.samples(path):
        shown = sample["image"][0].numpy()  # 0.03, 0.53 and 1 for the three levels, and noise
        parts.append(((shown > 0.25).astype(np.uint8), sample["geometry"]))
    write_back(*join(parts), tmp_path / "out.nii.gz")
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.affine, truth.affine)
    expected = np.asarray(nib.load(path).dataobj) > 125
    assert (np.asarray(written.dataobj) == expected).mean() > 0.999


@pytest.mark.parametrize("kind", [MedicalVolumes, MedicalSlices])
def test_a_file_is_read_without_the_data_set(toy_root, kind):
    size = {"patch_size": SIZE} if kind is MedicalVolumes else {"image_size": 40}
    given = {"intensity": "zscore", "orientation": "LPS", "num_workers": 0} | size
    reader, data = kind(root="", **given), kind(root=str(toy_root), **given)
    data.prepare()
    path = toy_root / "imagesTr" / "toy_005.nii.gz"
    there, here = reader.samples(path), data.samples(path)
    assert len(there) == (1 if kind is MedicalVolumes else len(data.open(path)))
    for one, other in zip(there, here, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert (one["id"], one["geometry"]) == (other["id"], other["geometry"])
    np.testing.assert_array_equal(reader.open(path), data.open(path))
    assert kind.dimensions == (3 if kind is MedicalVolumes else 2)


def test_class_counts_are_voxels_of_the_training_volumes(toy_root):
    data = volumes(toy_root)
    train = data.dataset("train")
    masks = [train[index]["mask"].ravel() for index in range(len(train))]
    assert data.facts()["class_counts"] == torch.bincount(torch.cat(masks)).tolist()


def test_slices_are_those_of_the_volume(toy_root):
    volume = volumes(toy_root).dataset("val")[0]
    for axis, along in (("axial", 1), ("coronal", 2), ("sagittal", 3)):
        data = MedicalSlices(root=str(toy_root), image_size=20, axis=axis, num_workers=0)
        dataset = data.dataset("val")
        count = volume["image"].shape[along]
        assert dataset.names[0] == f"{volume['id']}/{axis}/0"
        assert dataset.groups[count - 1] == volume["id"] != dataset.groups[count]
        middle = dataset[count // 2]
        expected = volume["image"].select(along, count // 2)
        top, left = ((side - 20) // 2 for side in expected.shape[1:])
        torch.testing.assert_close(
            middle["image"], expected[:, top : top + 20, left : left + 20], rtol=0, atol=0
        )
        assert dataset.size(count // 2) == tuple(expected.shape[1:])
        labelled = MedicalSlices(
            root=str(toy_root),
            image_size=40,
            axis=axis,
            training_slices="labelled",
            num_workers=0,
            augment={"train": "dihedral"},
        )
        train = labelled.dataset("train")
        assert len(train) < len(data.dataset("train"))
        for index in range(0, len(train), 9):
            assert (train[index, 7]["mask"] % 255).any()
    assert data.facts()["image_size"] == [20, 20]


def hashes(loader):
    return [
        hashlib.sha256(
            batch["image"].numpy().tobytes() + batch["mask"].numpy().tobytes()
        ).hexdigest()
        for batch in loader
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("kind", ["volumes", "slices"])
def test_order_does_not_depend_on_workers(toy_root, kind):
    def loader(workers, epoch=0, **settings):
        settings |= {"batch_size": 2, "num_workers": workers, "seed": 3, "root": str(toy_root)}
        if kind == "volumes":
            data = MedicalVolumes(patch_size=SIZE, augment={"train": "flip_intensity"}, **settings)
        else:
            data = MedicalSlices(
                image_size=24,
                training_slices="labelled",
                augment={"train": "dihedral"},
                **(settings | {"batch_size": 16}),
            )
        made = data.train_dataloader()
        made.batch_sampler.set_epoch(epoch)
        return made

    expected = hashes(loader(0))
    for workers in (1, 2, 4):
        assert hashes(loader(workers)) == expected
    assert hashes(loader(2, cache=None)) == expected
    assert not set(hashes(loader(0, epoch=1))) & set(expected)
    resumed = loader(0)
    batches = iter(resumed)
    for _ in range(2):
        next(batches)
    fresh = loader(2)
    fresh.load_state_dict(resumed.state_dict())
    assert hashes(fresh) == expected[2:]


def test_augmentations_keep_image_and_mask_together():
    image = np.random.default_rng(0).random((1, 6, 8, 8), np.float32)
    mask = (image[0] * 100).astype(np.int64)
    seen = set()
    for choice in ("flip", "dihedral"):
        for seed in range(40):
            random = np.random.default_rng(seed)
            new, labels = augment_patch(image, mask, choice, random)
            np.testing.assert_array_equal((new[0] * 100).astype(np.int64), labels)
            seen.add(labels.tobytes())
    assert len(seen) == 16  # 8 of the plane, times two along the depth
    changed, same = augment_patch(
        image, mask, "flip_intensity", np.random.default_rng(0), (0.0, 1.0)
    )
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert sorted(same.ravel()) == sorted(mask.ravel())
    with pytest.raises(DataError, match="equal height and width"):
        volumes("x", patch_size=(4, 5, 6), augment={"train": "dihedral"})


def test_uncompressed_files_are_read_where_they_are_asked(own_root):
    for path in [*own_root.glob("*Tr/*.gz")]:
        nib.save(nib.load(path), str(path)[:-3])
        path.unlink()
    index = own_root / "dataset.json"
    index.write_text(index.read_text().replace(".nii.gz", ".nii"))
    data = volumes(own_root, cache=None)
    data.prepare()
    image = data.reader[0].image
    while isinstance(image, np.ndarray) and not isinstance(image, np.memmap):
        image = image.base
    assert isinstance(image, np.memmap)


def problems_of(root, **settings):
    with pytest.raises(DataError) as caught:
        volumes(root, **settings).prepare()
    return str(caught.value).splitlines()


def test_everything_wrong_is_named_at_once(own_root):
    images, labels = own_root / "imagesTr", own_root / "labelsTr"
    cut = images / "toy_001.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-500])
    (labels / "toy_002.nii.gz").unlink()
    rewrite(labels / "toy_004.nii.gz", lambda data: data[:-1])
    rewrite(labels / "toy_005.nii.gz", lambda data: data * 9)
    moved = nib.load(labels / "toy_007.nii.gz")
    affine = moved.affine.copy()
    affine[0, 3] += 3
    nib.save(
        nib.Nifti1Image(np.asanyarray(moved.dataobj).copy(), affine), labels / "toy_007.nii.gz"
    )
    rewrite(labels / "toy_008.nii.gz", lambda data: data + np.float32(0.5))
    rewrite(images / "toy_010.nii.gz", lambda data: np.stack([data, data], -1))
    problems = "\n".join(problems_of(own_root))
    for sentence in (
        "toy_001.nii.gz: the file is damaged or cut short",
        "toy_002.nii.gz: there is no such file, the label of",
        "toy_004.nii.gz: has the shape",
        "toy_005.nii.gz: has the values [9, 18]",
        "toy_007.nii.gz: lies elsewhere than its image",
        "toy_008.nii.gz: its values are no whole numbers",
        "toy_010.nii.gz: has 2 channels where dataset.json names 1",
    ):
        assert sentence in problems
    assert len(problems.splitlines()) == 7
    data = volumes(own_root, on_error="skip")
    data.prepare()
    assert len(data.left_out) == 7
    assert sum(data.splits().values()) == 5


def test_nan_is_refused_or_filled(own_root):
    def spoil(data):
        data = data.astype(np.float32)
        data[3, 4, 5], data[6, 7, 8] = np.nan, np.inf
        return data

    rewrite(own_root / "imagesTr" / "toy_000.nii", spoil)
    (problem,) = problems_of(own_root)
    assert "toy_000.nii: 2 of its values are NaN or infinite" in problem
    for settings in ({}, {"cache": None}, {"spacing": (1, 1, 1), "intensity": "zscore"}):
        data = volumes(own_root, nonfinite="lowest", **settings)
        data.prepare()
        assert list(data.repaired.values()) == [2]
        image, _ = data.reader[0].box((0, 0, 0), data.reader[0].grid.shape)
        assert np.isfinite(image).all()


def test_wrong_indices_are_one_sentence(tmp_path):
    assert "cannot be read" in problems_of(tmp_path)[0]
    path = tmp_path / "dataset.json"
    for text, sentence in (
        ("{", "not a JSON file"),
        ("[]", "no list `training`"),
        ('{"training": [], "labels": {"0": "a", "2": "b"}}', "`labels` must be the values 0"),
        ('{"training": [], "labels": {"a": 0, "b": 1}}', "no train cases are left"),
        ('{"training": ["x"], "labels": {"a": 0, "b": 1}}', "not a pair"),
    ):
        path.write_text(text)
        assert sentence in "\n".join(problems_of(tmp_path))


def test_given_splits_and_patients(own_root):
    path = own_root / "dataset.json"
    content = json.loads(path.read_text())
    pairs = content["training"]
    for number, pair in enumerate(pairs):
        pair["patient"] = f"p{number // 2}"
    path.write_text(json.dumps(content))
    data = volumes(own_root)
    groups = [set(data.dataset(split).groups) for split in ("train", "val", "test")]
    assert sum(map(len, groups)) == 6
    content["training"], content["validation"] = pairs[:8], pairs[8:]
    path.write_text(json.dumps(content))
    assert volumes(own_root).splits() == {"train": 8, "val": 4, "test": 4}
    content["training"], content["validation"] = pairs[:9], pairs[9:]
    path.write_text(json.dumps(content))
    assert "p4 is in train and in val" in problems_of(own_root)[0]


def test_series_are_cases(tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    training = []
    for number in range(4):
        write_series(tmp_path / f"ct{number}", seed=number)
        scan = read_scan(tmp_path / f"ct{number}")
        label = nib.Nifti1Image((scan.values[0] > 0).astype(np.uint8).T, scan.affine)
        nib.save(label, labels / f"{number}.nii.gz")
        training.append({"image": f"ct{number}", "label": f"labels/{number}.nii.gz"})
    content = {"labels": {"background": 0, "bright": 1}, "training": training}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    data = volumes(tmp_path, patch_size=(4, 4, 4))
    sample = data.dataset("train")[0]
    torch.testing.assert_close((sample["image"][0] > 0).long(), sample["mask"])
    assert len(data.fingerprint()) == 64


def test_channels(own_root):
    path = own_root / "dataset.json"
    content = json.loads(path.read_text())
    content["modality"] = {"0": "T1", "1": "T2"}
    path.write_text(json.dumps(content))
    for file in (own_root / "imagesTr").iterdir():
        rewrite(file, lambda data: np.stack([data, 2 * data + 7], -1))
    data = volumes(own_root, intensity="zscore")
    sample = data.dataset("train")[0, 1]
    assert sample["image"].shape == (2, *SIZE)
    torch.testing.assert_close(sample["image"][0], sample["image"][1], atol=1e-4, rtol=0)
    assert len(data.facts()["mean"]) == 2
    single = own_root / "single.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)), single)
    with pytest.raises(DataError, match="has 1 channels where 2 are needed"):
        data.samples(single)


def test_hippocampus(shared_data):
    data = volumes(
        shared_data / "hippocampus", patch_size=(40, 56, 40), intensity="zscore", batch_size=4
    )
    assert data.splits() == {"train": 84, "val": 18, "test": 18}
    assert data.facts()["class_names"] == ["background", "Anterior", "Posterior"]
    dataset = data.dataset("test")
    for index in range(3):
        sample = dataset[index]
        image = nib.load(shared_data / "hippocampus" / sample["id"])
        assert image.shape == sample["image"].shape[:0:-1]
        label = shared_data / "hippocampus" / sample["id"].replace("imagesTr", "labelsTr")
        np.testing.assert_array_equal(sample["mask"].numpy().T, nib.load(label).dataobj)
    patch = data.dataset("train")[0, 1]
    assert patch["image"].shape == (1, 40, 56, 40)
