import cv2
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lit_imgproc.callbacks.ema import EMA
from lit_imgproc.errors import UserError
from lit_imgproc.models.style_transfer.losses import gram
from lit_imgproc.models.style_transfer.module import AdaIN, StyleTransfer, read_picture
from lit_imgproc.models.style_transfer.networks import adain_decoder, johnson
from lit_imgproc.optim import Adam

COMMON = {"filters": "vgg_random"}
LAYERS = {"style_layers": {"relu1_1": 1.0, "relu2_1": 1.0}, "content_layers": ["relu2_1"]}


def stylizer(style="stripes", **more):
    torch.manual_seed(0)
    options = {"optimizer": Adam(lr=1e-2), "style_size": 32, **COMMON, **LAYERS, **more}
    return StyleTransfer(network=johnson(4), style=style, **options)


def any_stylizer(**more):
    torch.manual_seed(0)
    return AdaIN(network=adain_decoder(4), **{"optimizer": Adam(lr=2e-3), **COMMON, **more})


def samples(count=4, side=32):
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 2, 4, 4, 3), np.uint8)
    big = [[cv2.resize(one, (side, side)) for one in pair] for pair in coarse]
    return [
        {"id": str(k), "image": torch.tensor(image).permute(2, 0, 1),
         "target": torch.tensor(target).permute(2, 0, 1)}
        for k, (image, target) in enumerate(big)
    ]  # fmt: skip


class Seeded(pl.Callback):
    """As recipes do: the random numbers of a step depend on nothing but its number."""

    def on_train_batch_start(self, trainer, *args):
        torch.manual_seed(trainer.global_step)


class Save(pl.Callback):
    """Saves the state at the end of the first epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, *args):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def fit(module, epochs, folder, checkpoint=None, callbacks=()):
    """Two steps an epoch."""
    loader = DataLoader(samples(), batch_size=2)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[*callbacks],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, loader, loader, ckpt_path=checkpoint)
    return trainer


def losses_of(module):
    batch = torch.utils.data.default_collate(samples())
    with torch.no_grad():
        return module.losses(module.on_after_batch_transfer(batch, 0))


def test_a_network_of_one_style_learns_it(tmp_path):
    module = stylizer(content_weight=0.1)
    module.on_fit_start()
    before = losses_of(module)
    trainer = fit(module, 15, tmp_path)
    after = losses_of(module)
    assert after["style_loss"] < 0.6 * before["style_loss"]
    sums = [0.1 * one["content_loss"] + 2 * one["style_loss"] for one in (before, after)]
    assert sums[1] < 0.6 * sums[0]
    logged = {f"{split}/{name}" for split in ("train", "val")
              for name in ("loss", "content_loss", "style_loss", "tv")}  # fmt: skip
    assert logged <= trainer.callback_metrics.keys()


def test_a_network_of_any_style_learns_to_decode(tmp_path):
    module = any_stylizer()
    before = losses_of(module)
    trainer = fit(module, 5, tmp_path)
    after = losses_of(module)
    assert after["content_loss"] < 0.9 * before["content_loss"]
    assert after["style_loss"] < 0.9 * before["style_loss"]
    assert "val/content_loss" in trainer.callback_metrics


def test_the_loss_is_the_weighted_sum_of_its_parts(tmp_path):
    module = stylizer(content_weight=2, style_weight=3, tv_weight=0.5)
    trainer = fit(module, 1, tmp_path)
    got = trainer.callback_metrics
    expected = 2 * got["val/content_loss"] + 3 * got["val/style_loss"] + 0.5 * got["val/tv"]
    torch.testing.assert_close(got["val/loss"], expected)


def test_the_checkpoint_knows_the_style_and_not_vgg(tmp_path):
    path = tmp_path / "style.png"
    random = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    cv2.imwrite(str(path), random)
    module = stylizer(str(path))
    fit(module, 1, tmp_path).save_checkpoint(tmp_path / "one.ckpt")
    path.unlink()
    state = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    others = {name for name in state if not name.startswith(("network.", "normalization."))}
    assert others == {"style_relu1_1", "style_relu2_1"}
    again = stylizer(str(path))  # which needs no picture
    again.load_state_dict(state)
    again.on_test_start()
    for name, own in again.grams.items():
        assert own.any()
        assert own.equal(module.grams[name])
    fit(again, 2, tmp_path, checkpoint=tmp_path / "one.ckpt")  # nor does a fit that goes on


def test_grams_are_those_of_the_picture(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "style.png"), pixels)
    picture = read_picture(str(tmp_path / "style.png"), 32)
    assert picture.shape == (3, 32, 48)
    whole = read_picture(str(tmp_path / "style.png"), 64)
    assert (
        whole.mul(255).round().byte().permute(1, 2, 0).flip(2).numpy().tolist() == pixels.tolist()
    )
    module = stylizer(str(tmp_path / "style.png"))
    module.on_fit_start()
    seen = module.features(picture[None])
    torch.testing.assert_close(module.grams["relu2_1"], gram(seen["relu2_1"])[0])


def test_a_picture_that_is_not_there_is_named_when_the_fit_begins(tmp_path):
    with pytest.raises(UserError, match=r"no picture gone\.jpg of the style: give model\.style"):
        fit(stylizer("gone.jpg"), 1, tmp_path)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        stylizer(str(tmp_path / "text.jpg")).on_fit_start()


@pytest.mark.parametrize("make", [stylizer, any_stylizer])
def test_it_goes_on_exactly_and_averages(make, tmp_path):
    whole, second = make(), make()
    path = tmp_path / "first.ckpt"
    fit(whole, 2, tmp_path, callbacks=[Seeded(), EMA(decay=0.9), Save(path)])
    fit(second, 2, tmp_path, checkpoint=path, callbacks=[Seeded(), EMA(decay=0.9)])
    for name, value in whole.state_dict().items():
        assert value.equal(second.state_dict()[name]), name


def test_predictions_have_the_size_of_the_file(tmp_path):
    module = stylizer().eval()
    batch = module.on_after_batch_transfer(torch.utils.data.default_collate(samples(2)), 0)
    batch["geometry"] = [{"size": [40, 50]}, {"size": [32, 32]}]
    with torch.no_grad():
        answers = module.predict_step(batch, 0)
        made = module(batch["image"])
    assert [answer["id"] for answer in answers] == ["0", "1"]
    assert answers[0]["image"].shape == (40, 50, 3)
    expected = (made[1].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(answers[1]["image"], expected)
    assert module.draw(batch, answers).dtype == np.uint8


def test_any_style_is_asked_for_where_there_is_none():
    module = any_stylizer()
    with pytest.raises(UserError, match="--style a picture"):
        module.predict_step({"image": torch.rand(1, 3, 32, 32), "id": ["a"]}, 0)


def test_without_strength_the_style_does_not_matter_and_with_it_it_does():
    module = any_stylizer().eval()
    image, one, other = torch.rand(3, 1, 3, 32, 32)
    with torch.no_grad():
        features = module.encode(image)
        made = {
            alpha: [
                module.decode(features, module.style_of([s], [1.0]), alpha) for s in (one, other)
            ]
            for alpha in (0.0, 1.0)
        }
        plain = module.network(features)
    torch.testing.assert_close(made[0.0][0], plain)
    torch.testing.assert_close(made[0.0][1], plain)
    assert not torch.allclose(made[1.0][0], made[1.0][1], rtol=1e-3)


def test_a_mixture_of_styles_is_a_mixture_of_features():
    module = any_stylizer()
    image, one, other = torch.rand(3, 1, 3, 32, 32)
    features = module.encode(image)
    identity = module.network
    module.network = torch.nn.Identity()
    each = [module.decode(features, module.style_of([s], [1.0]), 1.0) for s in (one, other)]
    mixed = module.decode(features, module.style_of([one, other], [0.3, 0.7]), 1.0)
    torch.testing.assert_close(mixed, 0.3 * each[0] + 0.7 * each[1], rtol=1e-4, atol=1e-4)
    module.network = identity


def test_images_of_any_size_are_redrawn():
    image = torch.rand(1, 3, 45, 61)
    with torch.no_grad():
        assert stylizer().eval()(image).shape == image.shape
        assert any_stylizer().eval()(image, torch.rand(1, 3, 40, 33)).shape == image.shape
