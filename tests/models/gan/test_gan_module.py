"""GANs: whose turn it is, what is logged, samples by seeds, and that a small one learns."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.latents import latents_of
from lit_imgproc.models.gan.module import GAN
from lit_imgproc.models.gan.networks import DCGANDiscriminator, DCGANGenerator
from lit_imgproc.optim import Adam

NAMES = ["bright", "dark"]


def gan(*, conditional=False, width=8, size=8, norm="batch", lr=2e-3, **options):
    torch.manual_seed(0)
    told = {
        "image_size": [size, size],
        "in_channels": 1,
        "width": width,
        "conditional": conditional,
    }
    return GAN(
        network=DCGANGenerator(**told, latent_dim=8, num_classes=2),
        discriminator=DCGANDiscriminator(**told, norm=norm, num_classes=2),
        optimizer=Adam(lr=lr, betas=(0.5, 0.999)),
        features="pixels",
        class_names=NAMES,
        num_classes=2,
        **options,
    )


def batches(count=4, size=16, side=8):
    """Images of class 0 are bright, those of class 1 dark."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        label = torch.arange(size) % 2
        noise = torch.rand(size, 1, side, side, generator=generator) * 0.2
        made.append({"image": noise + 0.8 * (1 - label)[:, None, None, None], "label": label})
    return made


def fit(module, data, **options):
    loader = DataLoader(data, batch_size=None)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    return trainer


@pytest.mark.parametrize(
    ("objective", "norm", "more"),
    [("non_saturating", "batch", set()), ("hinge", "none", set()),
     ("wgan_gp", "layer", {"train/gradient_penalty"})],
)  # fmt: skip
def test_both_players_move_and_their_losses_are_logged(objective, norm, more):
    module = gan(objective=objective, norm=norm)
    before = {name: p.clone() for name, p in module.named_parameters()}
    trainer = fit(module, batches(2), max_epochs=1)
    assert trainer.global_step == 2
    # But for offsets: that of a hinge's head is pulled up by real images as much as down by fakes.
    unmoved = [n for n, p in module.named_parameters() if torch.equal(before[n], p)]
    assert all(name.endswith("bias") for name in unmoved)
    found = {name for name in trainer.callback_metrics if name.startswith("train/")}
    assert found == {"train/generator_loss", "train/discriminator_loss"} | more
    assert all(p.requires_grad for p in module.parameters())


def test_the_generator_rests_while_the_critic_takes_its_steps():
    module = gan(objective="wgan_gp", norm="layer", discriminator_steps=3)
    first = module.network.convs[0].weight.clone()
    assert fit(module, batches(2), max_epochs=1).global_step == 2
    assert torch.equal(module.network.convs[0].weight, first)
    fit(module, batches(3), max_epochs=1)
    assert not torch.equal(module.network.convs[0].weight, first)


def test_the_discriminator_may_have_an_optimizer_of_its_own():
    own = Adam(lr=1e-5)
    module = gan(discriminator_optimizer=own)
    assert module.optimizer_of("discriminator") is own
    assert module.optimizer_of("generator") is module.optimizer


def test_an_evaluation_compares_as_many_images_of_the_same_classes():
    module = gan(conditional=True)
    asked = []
    made = module.network.forward

    def watched(latents, labels):
        asked.append((latents, labels))
        return made(latents, labels)

    module.network.forward = watched
    data = batches(2, size=6)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (values,) = trainer.test(module, DataLoader(data, batch_size=None), verbose=False)
    assert set(values) == {
        "test/fid_pixels", "test/kid_pixels", "test/precision_pixels", "test/recall_pixels",
    }  # fmt: skip
    torch.testing.assert_close(
        torch.cat([latents for latents, _ in asked]), latents_of(range(12), 8)
    )
    assert torch.equal(asked[0][1], data[0]["label"])
    again = trainer.test(module, DataLoader(data, batch_size=None), verbose=False)
    assert again == [values]


def test_ranks_make_different_images(monkeypatch):
    module, seeds = gan(), []
    monkeypatch.setattr(
        "lit_imgproc.models.gan.module.latents_of",
        lambda given, dim: seeds.append(list(given)) or latents_of(given, dim),
    )
    monkeypatch.setattr(GAN, "global_rank", 1)
    module._trainer = type("Trainer", (), {"world_size": 2})()
    for batch in batches(2, size=3):
        module.eval().measure(batch)
    assert seeds == [[1, 3, 5], [7, 9, 11]]


def test_a_seed_makes_the_same_image_beside_any_others():
    module = gan().eval()
    images = module.generate([5, 6, 7])
    assert images.shape == (3, 1, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1
    torch.testing.assert_close(module.generate([6])[0], images[1])
    centre = module.generate([5, 6], truncation=0.0)
    torch.testing.assert_close(centre[0], centre[1])


def test_a_conditional_generator_makes_what_is_asked_or_the_classes_in_turn():
    module = gan(conditional=True).eval()
    turn = module.generate(range(4))
    torch.testing.assert_close(turn, module.generate(range(4), labels=[0, 1, 0, 1]))
    assert not torch.allclose(turn[0], module.generate([0], labels=[1])[0])
    with pytest.raises(UserError, match="the classes are 0 to 1"):
        module.generate([0], labels=[2])
    with pytest.raises(UserError, match="is told no classes"):
        gan().generate([0], labels=[1])


def test_an_interpolation_passes_through_the_seeds():
    module = gan(conditional=True).eval()
    images = module.interpolate([3, 4, 9], 5, labels=[0, 0, 1])
    assert images.shape == (11, 1, 8, 8)
    torch.testing.assert_close(images[::5], module.generate([3, 4, 9], labels=[0, 0, 1]))


def test_predictions_are_the_samples_of_the_first_seeds():
    module = gan(conditional=True).eval()
    batch = batches(1, size=5)[0]
    answers = module.predict_step(batch)
    assert [answer["id"] for answer in answers] == [f"seed000{i}" for i in range(5)]
    assert [answer["label"] for answer in answers] == ["bright", "dark"] * 2 + ["bright"]
    assert answers[0]["image"].shape == (8, 8, 1)
    assert answers[0]["image"].dtype == np.uint8
    picture = module.draw(batch, answers)
    assert picture.ndim == 3
    assert picture.dtype == np.uint8
    assert "label" not in gan().eval().predict_step({"image": batch["image"]})[0]


def test_players_that_do_not_agree_are_said():
    generator = DCGANGenerator([8, 8], conditional=True, num_classes=2)
    plain = DCGANDiscriminator([8, 8])
    adam = Adam(lr=1e-3)
    with pytest.raises(UserError, match="told 2 classes and the discriminator no classes"):
        GAN(network=generator, discriminator=plain, optimizer=adam, features="pixels")
    told = DCGANDiscriminator([8, 8], conditional=True, num_classes=2)
    with pytest.raises(UserError, match="told 2 classes, and the data have 5"):
        GAN(network=generator, discriminator=told, optimizer=adam, features="pixels", num_classes=5)


def test_batch_norm_and_a_gradient_penalty_are_refused_together():
    with pytest.raises(UserError, match="norm to layer or none"):
        gan(objective="wgan_gp", size=16)


def test_images_without_one_class_each_are_refused_by_a_conditional_generator():
    module = gan(conditional=True)
    for batch in ({}, {"label": torch.zeros(4, 3)}):
        with pytest.raises(UserError, match="one class each"):
            module.labels_of(batch)
    assert gan().labels_of({"label": torch.zeros(4)}) is None


def test_a_checkpoint_starts_both_players(tmp_path):
    path = tmp_path / "whole.ckpt"
    trained = gan()
    fit(trained, batches(2), max_epochs=1)
    torch.save({"state_dict": trained.state_dict()}, path)
    module = gan(weights=str(path))
    for name, player in trained.players().items():
        for key, value in player.state_dict().items():
            assert torch.equal(module.players()[name].state_dict()[key], value)


def test_a_conditional_generator_learns_which_class_is_bright():
    module = gan(conditional=True, norm="none", objective="hinge", lr=5e-3)
    fit(module, batches(10, size=32), max_epochs=8, limit_val_batches=0)
    module.eval()
    bright, dark = (module.generate(range(32), labels=[k] * 32).mean((1, 2, 3)) for k in (0, 1))
    assert bright.mean() > 0.75
    assert dark.mean() < 0.25
