import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lit_imgproc.errors import UserError
from lit_imgproc.models.segmentation.batch import IGNORE
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.models.segmentation.networks import fcn_resnet50, unet
from lit_imgproc.models.segmentation.padding import inner, lowest, mirror
from lit_imgproc.models.segmentation.unet_2015 import unet_2015
from lit_imgproc.optim import SGD, AdamW

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3, "optimizer": SGD(lr=0.1)}


class Threshold(nn.Module):
    """Says class 1 where the first channel is above a half, as surely as it is."""

    divisor, remainder, margin = 8, 0, 0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape))
        assert all(side % self.divisor == 0 for side in images.shape[2:])
        one = self.weight * 20 * (images[:, :1] - 0.5)
        return torch.cat([-one, one], 1)


class Inner(Threshold):
    """The same without padding: says nothing of the outer four pixels."""

    divisor, remainder, margin = 8, 4, 4

    def forward(self, images):
        assert all(side % 8 == 4 for side in images.shape[2:])
        self.sizes.append(tuple(images.shape))
        one = self.weight * 20 * (images[:, :1, 4:-4, 4:-4] - 0.5)
        return torch.cat([-one, one], 1)


def segmenter(network=None, num_classes=2, **more):
    network = network or Threshold()
    return Segmenter(network=network, num_classes=num_classes, **{**PLAIN, **more}).eval()


def batch_of(*masks, **more):
    """Images that show their masks of two classes."""
    images = [torch.tensor(mask == 1).float().expand(3, *mask.shape) for mask in masks]
    one_size = len({mask.shape for mask in masks}) == 1
    truth = [torch.tensor(mask, dtype=torch.int64) for mask in masks]
    return {
        "image": torch.stack(images) if one_size else images,
        "mask": torch.stack(truth) if one_size else truth,
        "id": [f"{i}.png" for i in range(len(masks))],
        **more,
    }


def square(height=24, width=32, top=4, left=6, side=10):
    mask = np.zeros((height, width), np.int64)
    mask[top : top + side, left : left + side] = 1
    return mask


# Any size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [Threshold, Inner])
@pytest.mark.parametrize("size", [(24, 32), (23, 31), (5, 9), (64, 17)])
def test_logits_are_of_the_size_of_the_image(network, size):
    module = segmenter(network())
    images = torch.rand(2, 3, *size)
    logits = module(images)
    assert logits.shape == (2, 2, *size)
    assert torch.equal(logits.argmax(1), (images[:, 0] > 0.5).long())


@pytest.mark.parametrize("network", [Threshold, Inner])
@pytest.mark.parametrize("window", [16, [16, 24], 12])
def test_windows_say_what_the_whole_image_does(network, window):
    images = torch.rand(2, 3, 37, 50)
    whole = segmenter(network()).scores(images)
    torch.testing.assert_close(segmenter(network(), window=window).scores(images), whole)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole.sum(1), torch.ones(2, 37, 50))


def test_a_window_of_the_wrong_dimensions_is_one_sentence():
    with pytest.raises(UserError, match="of 2 dimensions"):
        segmenter(window=[8, 8, 8])


def test_a_mirror_goes_on_as_often_as_is_needed():
    row = torch.arange(4.0).view(1, 1, 4)
    assert mirror(row, [2], [3]).flatten().tolist() == [2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert mirror(row, [0], [8]).flatten().tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1]
    assert mirror(row[..., :1], [1], [2]).flatten().tolist() == [0, 0, 0, 0]
    volume = torch.rand(1, 2, 5, 6, 7)
    expected = nn.functional.pad(volume, (1, 2, 3, 4, 2, 0), mode="reflect")
    assert torch.equal(mirror(volume, [2, 3, 1], [0, 4, 2]), expected)
    assert torch.equal(inner(expected, (5, 6, 7)), expected[..., 1:6, 3:9, 1:8])


def test_volumes_go_on_with_their_lowest_value():
    volumes = torch.rand(2, 2, 3, 4, 5) - 0.3
    padded = lowest(volumes, [1, 0, 2], [0, 3, 1])
    assert padded.shape == (2, 2, 4, 7, 8)
    assert torch.equal(padded[:, :, 1:, :4, 2:7], volumes)
    beyond = torch.ones(4, 7, 8, dtype=torch.bool)
    beyond[1:, :4, 2:7] = False
    least = volumes.flatten(2).amin(2)
    assert torch.equal(padded[..., beyond], least[..., None].expand(2, 2, int(beyond.sum())))


@pytest.mark.parametrize("symmetries", ["hflip", "d4", "mirrors"])
def test_views_of_a_network_that_looks_at_pixels_alone_change_nothing(symmetries):
    images = torch.rand(2, 3, 24, 16)
    plain = segmenter().scores(images)
    several = segmenter(test_time_augmentation=symmetries).scores(images)
    torch.testing.assert_close(several, plain)


# Learning ----------------------------------------------------------------------------------------


def test_a_handful_of_images_is_learned_by_heart(tmp_path):
    pl.seed_everything(0, verbose=False)
    random = np.random.default_rng(0)
    masks = [square(32, 32, *random.integers(2, 18, 2)) for _ in range(4)]
    batch = batch_of(*masks)
    batch["image"] = batch["image"] * 0.5 + torch.rand(4, 3, 32, 32) * 0.3
    network = unet("test_resnet", num_classes=2, decoder_channels=(32, 16, 16, 8, 8))
    module = segmenter(
        network, optimizer=AdamW(lr=5e-3), loss={"cross_entropy": 1.0, "dice": 1.0}
    ).train()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=60, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch], batch_size=None))
    module.eval()
    (found,) = trainer.validate(module, DataLoader([batch], batch_size=None), verbose=False)
    assert found["val/iou"] > 0.95


def test_parts_of_the_loss_are_summed_by_weight():
    batch = batch_of(square(), square(left=1))
    plain = segmenter(loss={"cross_entropy": 1.0}).losses(batch)
    both = segmenter(loss={"cross_entropy": 0.5, "dice": 2.0}).losses(batch)
    assert set(both) == {"cross_entropy", "dice"}
    torch.testing.assert_close(both["cross_entropy"], 0.5 * plain["cross_entropy"])


def test_auxiliary_heads_count_in_training_alone():
    batch = batch_of(square(33, 33), square(33, 33, left=1))
    module = segmenter(fcn_resnet50(num_classes=2), auxiliary_weight=0.4).train()
    parts = []
    for weight in (0.4, 0.8):
        module.auxiliary_weight = weight
        torch.manual_seed(0)  # of dropout
        parts.append(module.losses(batch))
    assert set(parts[0]) == {"cross_entropy", "auxiliary"}
    torch.testing.assert_close(parts[1]["auxiliary"], 2 * parts[0]["auxiliary"])
    assert set(module.eval().losses(batch)) == {"cross_entropy"}


def test_what_lies_in_the_margin_is_not_learned():
    mask = square(20, 20)
    batch = batch_of(mask, mask)
    expected = segmenter(Inner()).losses(batch)["cross_entropy"]
    batch["mask"][:, :4], batch["mask"][:, -4:] = 1, 1
    batch["weight"] = torch.ones(2, 20, 20)
    batch["weight"][:, :4] = 100
    torch.testing.assert_close(segmenter(Inner()).losses(batch)["cross_entropy"], expected)


def test_training_images_of_several_sizes_are_one_sentence():
    with pytest.raises(UserError, match="of 24x32, 40x20 pixels, and have to be of one size"):
        segmenter().losses(batch_of(square(), square(40, 20)))


def test_weights_of_pixels_reach_the_loss():
    batch = batch_of(square(), square())
    batch["mask"][0, 0, 0] = 1  # the only mistake
    few = segmenter().losses(batch | {"weight": torch.ones(2, 24, 32)})["cross_entropy"]
    weight = torch.ones(2, 24, 32)
    weight[0, 0, 0] = 10
    much = segmenter().losses(batch | {"weight": weight})["cross_entropy"]
    assert float((much / few).detach()) == pytest.approx(10 * 1536 / 1545, rel=1e-3)


def test_the_unet_of_2015_learns_from_the_middle_and_answers_for_all():
    network = unet_2015(num_classes=2, in_channels=3, width=4, depth=2)
    module = segmenter(network)
    size = 2 * network.margin + 8
    assert module.outputs(torch.rand(1, 3, size, size))[0].shape[-2:] == (8, 8)
    assert module(torch.rand(1, 3, 21, 30)).shape == (1, 2, 21, 30)


# Measuring ---------------------------------------------------------------------------------------


def measured(module, *batches):
    for batch in batches:
        module.validation_step(batch, 0)
    return module.summary(module.val_metrics)


def test_metrics_are_of_the_whole_set_and_not_means_of_batches():
    half = batch_of(square())
    half["mask"][0] = torch.tensor(square(top=4, left=11))  # half of it is missed
    values = measured(segmenter(class_names=["background", "thing"]), half, batch_of(square()))
    assert values["iou/thing"] == pytest.approx(150 / 250)
    assert values["dice"] == values["dice/thing"] == pytest.approx(0.75)
    assert values["accuracy"] == pytest.approx(1 - 100 / 1536)


def test_images_of_several_sizes_are_one_set():
    masks = [square(), square(40, 20)]
    values = measured(segmenter(), batch_of(*masks))
    assert values["iou"] == 1
    assert values["accuracy"] == 1


@pytest.mark.parametrize("value", [0, 1, IGNORE])
def test_one_class_or_none_gives_no_nan(value):
    batch = batch_of(np.full((16, 16), value), np.full((16, 16), value))
    module = segmenter(loss={"cross_entropy": 1.0, "dice": 1.0, "lovasz": 1.0, "focal": 1.0})
    total = sum(module.losses(batch).values())
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(module.network.weight.grad).all()
    values = measured(module, batch)
    assert all(np.isfinite(float(v)) for v in values.values())
    assert values["iou"] == (-1 if value == IGNORE else 1)
    assert torch.isfinite(module.mean_loss.compute())


# Answers -----------------------------------------------------------------------------------------


def test_an_answer_is_in_pixels_of_the_file():
    geometry = {"path": "a.png", "size": [48, 64], "scale": [0.5, 0.5]}
    batch = batch_of(square(), geometry=[geometry])
    (answer,) = segmenter(class_names=["sky", "cloud"]).predict_step(batch, 0)
    assert answer["mask"].shape == (48, 64)
    assert answer["mask"].dtype == np.uint8
    assert answer["mask"][9:27, 13:31].all()
    assert answer["classes"]["cloud"] == pytest.approx(400 / (48 * 64), rel=0.05)
    assert sum(answer["classes"].values()) == pytest.approx(1)


def test_images_of_several_sizes_are_answered_one_by_one():
    masks = [square(), square(40, 20)]
    answers = segmenter().predict_step(batch_of(*masks), 0)
    for answer, mask in zip(answers, masks, strict=True):
        assert np.array_equal(answer["mask"], mask)


def test_pictures_show_truth_and_answer():
    batch = batch_of(square(), square())
    module = segmenter()
    picture = module.draw(batch, module.predict_step(batch, 0))
    assert picture.dtype == np.uint8
    alone = module.draw({"image": batch["image"], "id": batch["id"]}, module.predict_step(batch, 0))
    assert picture.size > 1.5 * alone.size


def test_names_and_classes_must_agree():
    with pytest.raises(UserError, match="2 classes, but 3 class names"):
        segmenter(class_names=["a", "b", "c"])
    with pytest.raises(UserError, match="mean and std are needed"):
        segmenter(mean=None)
