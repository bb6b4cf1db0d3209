import math

import numpy as np
import pytest
import torch
from small_translators import Colour, Same, Undecided, fit, samples, trainer
from torch.utils.data import DataLoader, default_collate

from lit_imgproc.errors import UserError
from lit_imgproc.models.translation.networks import patch_discriminator, unet_generator
from lit_imgproc.models.translation.pix2pix import Pix2Pix
from lit_imgproc.optim import SGD, Adam

ADAM = Adam(lr=2e-3, betas=(0.5, 0.999))


def pix2pix(network, discriminator=None, **options):
    return Pix2Pix(
        network=network,
        discriminator=discriminator,
        adversarial_weight=float(discriminator is not None),
        **{"optimizer": SGD(lr=1e-9), **options},
    )


def small(**options):
    torch.manual_seed(0)
    return pix2pix(
        unet_generator([16, 16], width=8, norm="instance", **options),
        patch_discriminator(width=4, layers=1, norm="instance"),
        optimizer=ADAM,
    )


def floats(module, *data):
    return module.on_after_batch_transfer(default_collate(list(data)), 0)


def test_losses_of_known_networks():
    # Black for white, before a discriminator that says nothing.
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    data = [{"image": white, "target": white, "id": "0"}]
    logged = fit(pix2pix(Colour(-1), Undecided()), data, 1, batch_size=1).callback_metrics
    assert logged["train/discriminator_loss"] == pytest.approx(math.log(2))
    assert logged["train/adversarial_loss"] == pytest.approx(math.log(2))
    assert logged["train/l1"] == pytest.approx(1)  # of images in [0, 1]
    # ... and 2 of images in [-1, 1].
    assert logged["train/generator_loss"] == pytest.approx(math.log(2) + 200)
    logged = fit(pix2pix(Colour(-1), l1_weight=10.0), data, 1, batch_size=1).callback_metrics
    assert logged["train/generator_loss"] == pytest.approx(20)
    assert "train/discriminator_loss" not in logged


def test_the_discriminator_sees_pairs_in_the_range_of_networks():
    judge = Undecided()
    module = pix2pix(Colour(0.5), judge)
    fit(module, samples(1), 1, batch_size=1)
    image = samples(1)[0]["image"].float().div(255)[None]
    source, target, made = 2 * image - 1, 1 - 2 * image, torch.full_like(image, 0.5)
    real, first, second = judge.shown
    torch.testing.assert_close(real, torch.cat([source, target], 1))
    torch.testing.assert_close(first, torch.cat([source, made], 1))
    torch.testing.assert_close(second, first)


def test_each_player_moves_by_its_own_loss_alone():
    generator, judge = Colour(0.0), Undecided()
    before = judge.weight.item()
    module = pix2pix(generator, judge, optimizer=SGD(lr=0.1), l1_weight=0.0)
    grey = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    fit(module, [{"image": grey, "target": grey, "id": "0"}], 1, batch_size=1)
    # Of half of softplus(-w m) + softplus(w m') with the means 1 and 1/2 the slope at 0 is -1/8.
    assert judge.weight.item() - before == pytest.approx(0.1 / 8)
    # Then softplus(-w m'), of which the generator moves half of the channels.
    slope = -torch.sigmoid(torch.tensor(-0.0125 * 0.5)) * 0.0125 / 2
    assert generator.value.item() == pytest.approx(-0.1 * slope.item(), rel=1e-4)
    assert judge.weight.requires_grad
    assert generator.value.requires_grad


def test_it_learns_what_a_few_pairs_show():
    module = small()
    data = samples(2)
    first = fit(module, data, 1).callback_metrics["train/l1"]
    last = fit(module, data, 30).callback_metrics["train/l1"]
    assert last < 0.5 * first


def test_metrics_are_those_of_images_between_0_and_1():
    module = pix2pix(Same(), features="pixels")
    half = {"image": torch.full((3, 16, 16), 0.5), "target": torch.full((3, 16, 16), 0.6)}
    full = {"image": torch.full((3, 16, 16), 0.0), "target": torch.full((3, 16, 16), 0.2)}
    data = DataLoader([half | {"id": "0"}, full | {"id": "1"}], batch_size=1)
    (logged,) = trainer().test(module, data, verbose=False)
    assert logged["test/l1"] == pytest.approx(0.15)
    psnr = (-10 * math.log10(0.01) - 10 * math.log10(0.04)) / 2
    assert logged["test/psnr"] == pytest.approx(psnr, rel=1e-4)
    assert 0 < logged["test/ssim"] < 1
    assert logged["test/fid_pixels"] > 0
    (logged,) = trainer().validate(module, data, verbose=False)
    assert set(logged) >= {"val/l1", "val/psnr", "val/ssim", "val/fid_pixels"}


def test_predictions_are_of_the_size_of_the_file_and_repeat():
    module = small().eval()
    batch = floats(module, *samples(2))
    batch["geometry"] = [{"size": [16, 16]}, {"size": [20, 31]}]
    with torch.inference_mode():
        answers = module.predict_step(batch, 0)
        again = module.predict_step(batch, 0)
        made = module(batch["image"])
    assert [answer["id"] for answer in answers] == ["0", "1"]
    assert [answer["image"].shape for answer in answers] == [(16, 16, 3), (20, 31, 3)]
    assert all(answer["image"].dtype == np.uint8 for answer in answers)
    expected = (made[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.abs(answers[0]["image"].astype(int) - expected).max() <= 1
    for one, other in zip(answers, again, strict=True):
        assert np.array_equal(one["image"], other["image"])


def test_grey_images_keep_their_one_channel():
    module = pix2pix(unet_generator([16, 16], in_channels=1, out_channels=1, width=4)).eval()
    batch = floats(module, *samples(2, channels=1)) | {"geometry": [{"size": [20, 24]}] * 2}
    with torch.inference_mode():
        answers = module.predict_step(batch, 0)
        assert answers[0]["image"].shape == (20, 24, 1)
        assert module.draw(batch, answers).shape[2] == 3


def test_pictures_show_source_translation_and_target():
    module = small().eval()
    batch = floats(module, *samples(2))
    with torch.inference_mode():
        answers = module.predict_step(batch, 0)
        whole = module.draw(batch, answers)
        del batch["target"]
        without = module.draw(batch, answers)
    assert whole.dtype == np.uint8
    assert whole.shape[0] == without.shape[0]
    assert whole.shape[1] > without.shape[1]


def test_what_is_exported_takes_and_gives_images_between_0_and_1():
    module = small(noise_seed=None).eval()
    images = torch.rand(2, 3, 16, 16)
    program = torch.export.export(module.export_network(), (images,))
    torch.testing.assert_close(program.module()(images), module(images))
    noisy = small().eval()
    noisy.network.load_state_dict(module.network.state_dict())
    program = torch.export.export(noisy.export_network(), (images,))
    torch.testing.assert_close(program.module()(images), module(images))  # without the noise


def test_it_goes_on_exactly(tmp_path):
    data = samples(6)
    whole, first, second = small(), small(), small()
    fit(whole, data, epochs=2)
    fit(first, data, epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    resumed = fit(second, data, epochs=2, checkpoint=tmp_path / "last.ckpt")
    assert resumed.global_step == 6
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_weights_of_a_run_are_those_of_both_networks(tmp_path):
    module = small()
    fit(module, samples(2), 1).save_checkpoint(tmp_path / "last.ckpt")
    torch.manual_seed(1)
    other = Pix2Pix(
        network=unet_generator([16, 16], width=8, norm="instance"),
        discriminator=patch_discriminator(width=4, layers=1, norm="instance"),
        optimizer=ADAM,
        weights=str(tmp_path / "last.ckpt"),
    )
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_discriminator_that_has_no_say_is_refused():
    with pytest.raises(UserError, match="discriminator and adversarial_weight belong together"):
        Pix2Pix(network=Same(), optimizer=ADAM)
    with pytest.raises(UserError, match="set adversarial_weight to 0"):
        Pix2Pix(network=Same(), discriminator=Same(), adversarial_weight=0.0, optimizer=ADAM)
