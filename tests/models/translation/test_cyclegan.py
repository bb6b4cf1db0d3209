import numpy as np
import pytest
import torch
from small_translators import Colour, Same, Undecided, fit, samples, trainer
from torch.utils.data import DataLoader, default_collate

from lit_imgproc.models.translation.cyclegan import CycleGAN
from lit_imgproc.models.translation.networks import patch_discriminator, resnet_generator
from lit_imgproc.optim import SGD, Adam

ADAM = Adam(lr=2e-3, betas=(0.5, 0.999))


def cyclegan(network, discriminator, **options):
    return CycleGAN(
        network=network, discriminator=discriminator, **{"optimizer": SGD(lr=1e-9), **options}
    )


def small(**options):
    torch.manual_seed(0)
    return cyclegan(
        resnet_generator(width=4, blocks=1),
        patch_discriminator(conditional=False, width=4, layers=1, norm="instance"),
        **{"optimizer": ADAM, "pool_size": 3, **options},
    )


def floats(module, *data):
    return module.on_after_batch_transfer(default_collate(list(data)), 0)


@pytest.fixture
def same(monkeypatch):
    """Two generators that leave images alone."""
    monkeypatch.setattr("lit_imgproc.models.translation.cyclegan.initialise", lambda layer: None)
    return cyclegan(Same(), Undecided())


def test_losses_of_generators_that_do_nothing(same):
    logged = fit(same, samples(2), 1).callback_metrics
    assert logged["train/cycle_loss"] == 0
    assert logged["train/identity_loss"] == 0
    # Logits of 0 are 1 away from real, in both directions, and half of that is of discriminators.
    assert logged["train/adversarial_loss"] == pytest.approx(2)
    assert logged["train/generator_loss"] == pytest.approx(2)
    assert logged["train/discriminator_loss"] == pytest.approx(1)


def test_losses_of_generators_that_make_one_colour():
    # A is white, B black, and all that is made is grey: it comes back half of the range away.
    white = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    data = [{"image": white, "target": 0 * white, "id": "0"}]
    module = cyclegan(Colour(0), Undecided(), identity_weight=0.25)
    logged = fit(module, data, 1, batch_size=1).callback_metrics
    assert logged["train/cycle_loss"] == pytest.approx(10 * (1 + 1))
    assert logged["train/identity_loss"] == pytest.approx(0.25 * 10 * (1 + 1))
    assert logged["train/generator_loss"] == pytest.approx(27)
    without = cyclegan(Colour(0), Undecided(), identity_weight=0.0)
    logged = fit(without, data, 1, batch_size=1).callback_metrics
    assert "train/identity_loss" not in logged
    assert logged["train/generator_loss"] == pytest.approx(22)


def test_each_discriminator_judges_its_own_kind():
    module = cyclegan(Colour(0.5), Undecided())
    fit(module, samples(1), 1, batch_size=1)
    a = samples(1)[0]["image"].float().div(127.5)[None] - 1
    for judge, real in ((module.discriminator, -a), (module.backward_discriminator, a)):
        for_generator, of_real, of_made = judge.shown
        torch.testing.assert_close(of_real, real, rtol=0, atol=1e-5)
        torch.testing.assert_close(for_generator, torch.full_like(a, 0.5))
        torch.testing.assert_close(of_made, for_generator)


def test_the_second_direction_has_weights_of_its_own():
    module = small()
    for one, other in (
        (module.network, module.backward_network),
        (module.discriminator, module.backward_discriminator),
    ):
        assert type(one) is type(other)
        pairs = list(zip(one.parameters(), other.parameters(), strict=True))
        assert all(a.shape == b.shape for a, b in pairs)
        assert not any(torch.equal(a, b) for a, b in pairs if a.ndim == 4)
    players = module.players()
    assert list(players) == ["generators", "discriminators"]
    assert sum(1 for player in players.values() for _ in player.parameters()) == sum(
        1 for _ in module.parameters()
    )


def test_all_four_networks_learn():
    module = small()
    before = {name: value.clone() for name, value in module.named_parameters()}
    first = fit(module, samples(4), 1).callback_metrics["train/cycle_loss"]
    last = fit(module, samples(4), 20).callback_metrics["train/cycle_loss"]
    assert last < 0.7 * first
    assert not any(torch.equal(value, before[name]) for name, value in module.named_parameters())


def test_errors_of_known_networks(same):
    bright = torch.full((2, 3, 8, 8), 0.75)
    data = [{"image": image, "target": 1 - image, "id": "0"} for image in bright]
    (logged,) = trainer().test(same, DataLoader(data, batch_size=2), verbose=False)
    assert set(logged.values()) == {0.0}
    module = cyclegan(Colour(-1), Undecided(), features="pixels")
    (logged,) = trainer().validate(module, DataLoader(data, batch_size=1), verbose=False)
    assert logged["val/cycle_error_forward"] == pytest.approx(0.75)
    assert logged["val/cycle_error_backward"] == pytest.approx(0.25)
    assert logged["val/cycle_error"] == pytest.approx(0.5)
    assert logged["val/change"] == pytest.approx(0.5)
    assert "val/fid_pixels" in logged


def test_direction_says_which_way_is_gone():
    module = small().eval()
    images = torch.rand(1, 3, 16, 16)
    there = module.network(2 * images - 1).add(1).div(2)
    back = module.backward_network(2 * images - 1).add(1).div(2)
    torch.testing.assert_close(module(images), there)
    torch.testing.assert_close(module.export_network()(images), there)
    module.direction = "backward"
    torch.testing.assert_close(module(images), back)
    torch.testing.assert_close(module.export_network()(images), back)


def test_predictions_and_pictures():
    module = small().eval()
    batch = floats(module, *samples(2)) | {"geometry": [{"size": [20, 31]}] * 2}
    with torch.inference_mode():
        answers = module.predict_step(batch, 0)
        both = module.draw(batch, answers)
        alone = module.draw({"image": batch["image"], "id": batch["id"]}, answers)
    assert answers[1]["id"] == "1"
    assert answers[0]["image"].shape == (20, 31, 3)
    assert both.dtype == alone.dtype == np.uint8
    assert both.size > alone.size


def test_it_goes_on_exactly_with_its_pools(tmp_path):
    data = samples(6)
    whole, first, second = small(), small(), small()
    fit(whole, data, epochs=2)
    fit(first, data, epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    assert [len(pool.images) for pool in first.pools] == [3, 3]
    fit(second, data, epochs=2, checkpoint=tmp_path / "last.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    for one, other in zip(whole.pools, second.pools, strict=True):
        assert torch.equal(torch.stack(one.images), torch.stack(other.images))
    # Which the pools have a part in.
    for pool in first.pools:
        pool.images.clear()
    fit(first, data, epochs=1)
    assert any(
        not torch.equal(value, whole.state_dict()[name])
        for name, value in first.state_dict().items()
    )


def test_weights_of_a_run_and_of_published_generators(tmp_path):
    module = small()
    fit(module, samples(2), 1).save_checkpoint(tmp_path / "last.ckpt")
    other = cyclegan(
        resnet_generator(width=4, blocks=1),
        patch_discriminator(conditional=False, width=4, layers=1, norm="instance"),
        weights=str(tmp_path / "last.ckpt"),
    )
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    for letter in "AB":
        state = resnet_generator(width=4, blocks=1).state_dict()
        published = {name.replace("layers.", "model.", 1): v for name, v in state.items()}
        published = {name.replace("layers", "conv_block"): v for name, v in published.items()}
        torch.save(published, tmp_path / f"latest_net_G_{letter}.pth")
    both = small(
        weights=str(tmp_path / "latest_net_G_A.pth"),
        backward_weights=str(tmp_path / "latest_net_G_B.pth"),
    )
    last = torch.load(tmp_path / "latest_net_G_A.pth")["model.1.weight"]
    assert torch.equal(both.network.layers[1].weight, last)
    last = torch.load(tmp_path / "latest_net_G_B.pth")["model.1.weight"]
    assert torch.equal(both.backward_network.layers[1].weight, last)
