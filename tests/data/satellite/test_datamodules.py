"""What all of them promise: the order of batches, the facts, the toys."""

import hashlib
import pickle

import numpy as np
import pytest
import torch

from lit_imgproc.data.satellite import toy
from lit_imgproc.data.satellite.detection import RasterBoxes
from lit_imgproc.data.satellite.eurosat import EuroSAT
from lit_imgproc.data.satellite.scenes import HyperspectralScenes, SceneFolder
from lit_imgproc.data.satellite.segmentation import RasterTiles

pytest.importorskip("rasterio")

KINDS = {
    "scenes": (SceneFolder, {}),
    "tiles": (RasterTiles, {"tile_size": 64}),
    "random tiles": (RasterTiles, {"tile_size": 32, "block": 64, "sampling": "random"}),
    "boxes": (RasterBoxes, {"tile_size": 96, "overlap": 32, "sampling": "random", "block": 96}),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    for cls in (SceneFolder, RasterTiles, RasterBoxes):
        cls.write_toy(folder / cls.__name__)
    return folder


@pytest.fixture(params=KINDS)
def make(request, roots):
    cls, settings = KINDS[request.param]

    def made(**changes):
        settings_now = {"batch_size": 4, "num_workers": 0, "augment": {"train": "dihedral"}}
        return cls(root=str(roots / cls.__name__), **settings_now | settings | changes)

    return made


def digest(batch):
    """Of everything in a batch."""
    digest = hashlib.sha256()
    for key in sorted(batch):
        value = batch[key]
        for part in value if isinstance(value, list) else [value]:
            data = part.contiguous().numpy().tobytes() if torch.is_tensor(part) else repr(part)
            digest.update(data if isinstance(data, bytes) else data.encode())
    return digest.hexdigest()


def same(one, other):
    return digest(one) == digest(other)


def epoch(data, number=0, state=None):
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(number)
    if state is not None:
        loader.load_state_dict(state)
    return [digest(batch) for batch in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on small machines
def test_whole_batches_are_the_same_for_any_number_of_workers(make):
    expected = epoch(make())
    assert len(set(expected)) == len(expected)
    for workers in (1, 2, 4):
        assert epoch(make(num_workers=workers)) == expected
    assert epoch(make(), number=1) != expected


def test_an_epoch_goes_on_where_it_was(make):
    data = make()
    expected = epoch(data)
    assert epoch(make(), state={"epoch": 0, "position": 8}) == expected[2:]


def test_the_seed_changes_the_batches(make):
    assert epoch(make(seed=1)) != epoch(make())


def test_evaluation_does_not_augment(make):
    val = make().dataset("val")
    assert torch.equal(val[0]["image"], val[0]["image"])
    assert torch.equal(val[0]["image"], make(augment=None, seed=9).dataset("val")[0]["image"])


def test_training_is_a_function_of_index_and_seed(make):
    train = make().dataset("train")
    for seed in (0, 1, 2**62):
        assert same(train[1, seed], train[1, seed])
    assert len({train[1, seed]["image"].numpy().tobytes() for seed in range(20)}) > 3


def test_facts_are_plain_and_belong_to_the_images(make):
    data = make()
    facts = data.facts()
    train = data.dataset("train")
    image = train[0]["image"]
    assert image.shape == (facts["in_channels"], *facts["image_size"])
    assert len(facts["band_names"]) == len(facts["mean"]) == len(facts["std"]) == len(image)
    assert facts["num_classes"] == len(facts["class_names"]) == len(facts["class_counts"])
    low, high = facts["value_range"]
    for index in range(len(train)):
        values = train[index]["image"].float()
        assert low <= values[values != 0].min() <= values.max() <= high
    assert all(isinstance(value, int | bool | list) for value in facts.values())
    spec = data.input_spec()
    assert list(spec.value_range) == facts["value_range"]
    assert spec.eight_bit == (image.dtype == torch.uint8)
    pixels = image.permute(1, 2, 0).numpy()
    assert spec(pixels) is pixels or np.array_equal(spec(pixels), pixels)


def test_the_fingerprint_goes_by_what_was_read(make):
    assert make().fingerprint() == make(augment=None, num_workers=2, batch_size=3).fingerprint()


def test_no_two_splits_share_a_group(make):
    data = make()
    groups = [data.dataset(split).groups for split in ("train", "val", "test")]
    if groups[0] is not None:
        train, val, test = map(set, groups)
        assert len(train | val | test) == len(train) + len(val) + len(test)
        assert len(groups[0]) == len(data.dataset("train"))


def test_datasets_travel_to_workers(make):
    train = make().dataset("train")
    again = pickle.loads(pickle.dumps(train))
    assert same(again[0, 3], train[0, 3])


def test_a_file_can_be_opened_before_anything_is_read(make, roots):
    data = make()
    path = sorted((roots / type(data).__name__).rglob("*.tif"))[0]
    image = data.open(path)
    assert image.dtype == (np.uint8 if isinstance(data, RasterBoxes) else np.float32)
    assert data.input_spec().channels == image.shape[2]


@pytest.mark.parametrize(("cls", "bands"), [(SceneFolder, 13), (HyperspectralScenes, 120)])
def test_the_classes_of_the_toys_show_in_their_spectra_alone(tmp_path, cls, bands):
    cls.write_toy(tmp_path)
    data = cls(root=str(tmp_path))
    assert data.facts()["in_channels"] == bands

    def means(split):
        dataset = data.dataset(split)
        images = np.stack([dataset[i]["image"].numpy() for i in range(len(dataset))])
        return images.mean((2, 3)), np.asarray(dataset.labels)

    def accuracy(features):
        (train, labels), (test, answers) = (
            (features(values), label) for values, label in (means("train"), means("test"))
        )
        centres = np.stack([train[labels == k].mean(0) for k in range(4)])
        found = ((test[:, np.newaxis] - centres) ** 2).sum(2).argmin(1)
        return (found == answers).mean()

    assert accuracy(lambda values: values / values.mean(1, keepdims=True)) == 1
    assert accuracy(lambda values: values.mean(1, keepdims=True)) < 0.5


def test_toys_are_always_the_same(tmp_path):
    for folder in ("a", "b"):
        toy.write_scenes(tmp_path / folder, ["x", "y", "z"])
    first, second = (SceneFolder(root=str(tmp_path / folder)) for folder in ("a", "b"))
    assert first.fingerprint() == second.fingerprint()


def test_eurosat_in_its_published_layout(tmp_path):
    EuroSAT.write_toy(tmp_path)
    data = EuroSAT(root=str(tmp_path), bands=["B04", "B03", "B02"], indices=["ndvi"])
    assert data.splits() == {"train": 70, "val": 10, "test": 20}
    facts = data.facts()
    assert facts["band_names"] == ["B04", "B03", "B02", "ndvi"]
    assert facts["image_size"] == [64, 64]
    assert EuroSAT(root=str(tmp_path)).facts()["in_channels"] == 13


def test_eurosat_by_its_lists(tmp_path):
    EuroSAT.write_toy(tmp_path)
    every = sorted(file.stem for file in tmp_path.rglob("*.tif"))
    parts = {"train": every[::2], "val": every[1::4], "test": every[3::4]}
    for split, names in parts.items():
        (tmp_path / f"eurosat-{split}.txt").write_text("\n".join(f"{n}.jpg" for n in names) + "\n")
    assert EuroSAT(root=str(tmp_path)).splits() == {"train": 50, "val": 25, "test": 25}
