import shutil

import cv2
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_imgproc.data.errors import DataError
from lit_imgproc.data.pairs.unpaired import UnpairedImages
from lit_imgproc.errors import UserError
from lit_imgproc.recipes.registry import resolve


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("unpaired")
    UnpairedImages.write_toy(root)
    return root


def make(root, **settings):
    return UnpairedImages(root=str(root), **({"image_size": 64, "num_workers": 0} | settings))


def test_two_domains_as_their_authors_publish_them(written):
    data = make(written)
    assert data.splits() == {"train": 14, "val": 2, "test": 4}
    assert data.facts()["in_channels"] == data.facts()["out_channels"] == 3
    assert data.facts()["class_names"] == []
    test = data.dataset("test")
    for index in range(4):
        sample = test[index]
        for key, name in (("image", f"testA/00{index}.jpg"), ("target", f"testB/00{index}.jpg")):
            stored = cv2.imread(str(written / name), cv2.IMREAD_COLOR_RGB)
            expected = cv2.resize(stored, (64, 64), interpolation=cv2.INTER_AREA)
            assert (sample[key].numpy() == expected.transpose(2, 0, 1)).all()
        assert sample["id"] == f"testA/00{index}.jpg"
        assert sample["geometry"]["size"] == [64, 72]
    assert test.size(0) == (64, 72)
    assert resolve("datamodule", "unpaired_images") is UnpairedImages


def test_validation_images_are_those_of_their_folders_or_held_out_of_both_domains(
    written, tmp_path
):
    data = make(written)
    train, val = data.dataset("train"), data.dataset("val")
    assert not {*train.names, *train.targets} & {*val.names, *val.targets}
    assert len(train.targets) + len(val.targets) == 20
    assert make(written, seed=9).dataset("val").names == val.names
    root = shutil.copytree(written, tmp_path / "toy")
    for letter in "AB":
        shutil.copytree(root / f"test{letter}", root / f"val{letter}")
    assert make(root).splits() == {"train": 16, "val": 4, "test": 4}
    for letter in "AB":
        shutil.rmtree(root / f"test{letter}")
    data = make(root)
    assert data.dataset("test") is data.dataset("val")
    flat = make(root, source="trainA/*", target="trainB/*")
    assert flat.splits() == {"train": 12, "val": 2, "test": 2}


def test_an_epoch_is_as_long_as_the_longer_domain_and_draws_partners_anew(written):
    data = make(written, batch_size=2)
    train = data.dataset("train")
    assert len(train.targets) == 17
    assert data.steps_per_epoch() == 8
    order = list(data.training_order(0))
    assert len(order) == 16
    samples = [train[key] for key in order]
    assert {sample["id"] for sample in samples} <= {*train.names}
    assert len({sample["id"] for sample in samples}) > 10
    partners = {sample["target"].numpy().tobytes() for sample in samples}
    assert 6 < len(partners) <= 17
    first = order[0]
    assert (train[first]["target"] == samples[0]["target"]).all()
    # The partner goes by the seed of the sample alone, which every epoch has others of.
    others = {train[first[0], seed]["target"].numpy().tobytes() for seed in range(12)}
    assert len(others) > 5


def test_both_domains_are_augmented_independently(tmp_path):
    columns = np.tile(np.arange(100, dtype=np.uint8), (80, 1))
    for letter in "AB":
        for split in ("train", "test"):
            (tmp_path / f"{split}{letter}").mkdir()
            for number in range(4):
                cv2.imwrite(str(tmp_path / f"{split}{letter}/{number}.png"), columns)
    data = make(tmp_path, resize="crop", load_size=80, in_channels=1, out_channels=1)
    pairs = [data.dataset("train")[0, seed] for seed in range(10)]
    assert any((one["image"] != one["target"]).any() for one in pairs)
    colours = make(tmp_path, augment={"train": "strong"}, in_channels=1)
    assert colours.dataset("train")[0, 1]["image"].shape == (1, 64, 64)


def test_fewer_targets_are_gone_over_again_in_evaluation(written, tmp_path):
    root = shutil.copytree(written, tmp_path / "toy")
    for number in (2, 3, 4, 5, 6, 7):
        (root / f"testB/00{number}.jpg").unlink()
    test = make(root).dataset("test")
    assert [len(test), len(test.targets)] == [4, 2]
    assert (test[0]["target"] == test[2]["target"]).all()
    assert (test[0]["target"] != test[1]["target"]).any()


class Watcher(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((batch["id"], int(batch["image"].sum()), int(batch["target"].sum())))
        return self.layer(batch["target"].float().mean().view(1, 1)).sum()

    def validation_step(self, batch, _):
        assert batch["target"].shape == batch["image"].shape

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_training_resumes_with_the_same_partners(written, tmp_path):
    def fit(module, workers=0, callbacks=(), path=None):
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            max_epochs=2,
            callbacks=list(callbacks),
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        data = make(
            written, batch_size=4, load_size=72, augment={"train": "flip"}, num_workers=workers
        )
        trainer.fit(module, data, ckpt_path=path)
        return module.seen

    keep = ModelCheckpoint(
        dirpath=tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}"
    )
    whole = fit(Watcher(), callbacks=[keep])
    assert len(whole) == 8
    for step in (1, 3, 5):
        assert fit(Watcher(), step == 3, path=tmp_path / f"step={step}.ckpt") == whole[step:]


def test_what_is_wrong_is_named_for_both_domains(written, tmp_path):
    root = shutil.copytree(written, tmp_path / "toy")
    (root / "trainA/000.jpg").write_bytes(b"")
    cv2.imwrite(str(root / "testB/000.png"), np.zeros((64, 64, 3), np.uint16))
    with pytest.raises(DataError) as caught:
        make(root).prepare()
    said = str(caught.value).splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"{root}/trainA/000.jpg: not an image that can be decoded")
    assert "has 16 bits a channel where 8 bits" in said[1]
    skipping = make(root, on_error="skip")
    assert skipping.splits()["train"] in (13, 14)
    assert len(skipping.left_out) == 2
    with pytest.raises(DataError, match=r"holds no training images \{split\}C/\* \(data.target\)"):
        make(root, target="{split}C/*").prepare()
    with pytest.raises(UserError, match=r"data.source=trainA has no wildcard"):
        make(root, source="trainA")


def test_the_fingerprint_is_of_both_domains(written, tmp_path):
    root = shutil.copytree(written, tmp_path / "toy")
    assert make(root).fingerprint() == make(written, image_size=32).fingerprint()
    shutil.copy(root / "trainB/000.jpg", root / "trainB/001.jpg")
    assert make(root).fingerprint() != make(written).fingerprint()


def test_golden_and_red_apples(shared_data):
    data = make(shared_data / "fruits/unpaired_golden2red", image_size=96)
    assert data.splits() == {"train": 255, "val": 45, "test": 80}
    sample = data.dataset("test")[0]
    image, target = (sample[key].float().mean((1, 2)) for key in ("image", "target"))
    assert target[0] / target[1] > image[0] / image[1]
