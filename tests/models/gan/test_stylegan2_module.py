import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from lit_imgproc import optim
from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.networks import DCGANDiscriminator, DCGANGenerator
from lit_imgproc.models.gan.stylegan2 import stylegan2_discriminator, stylegan2_generator
from lit_imgproc.models.gan.stylegan2_module import StyleGAN2
from lit_imgproc.models.gan.weights import load_players

SHAPE = {"image_size": [8, 8], "in_channels": 3, "channel_base": 64, "channel_max": 8}
LATENT = {"latent_dim": 8, "style_dim": 8, "mapping_layers": 2}


def stylegan2(*, classes=None, **options):
    torch.manual_seed(0)
    shape = {**SHAPE, "num_classes": classes, "conditional": classes is not None}
    return StyleGAN2(
        **{
            "network": stylegan2_generator(**shape, **LATENT),
            "discriminator": stylegan2_discriminator(**shape, mapping_layers=2),
            "optimizer": optim.Adam(lr=2.5e-3, betas=(0.0, 0.99)),
            "features": "pixels",
            **options,
        }
    )


def batches(count=8, size=4, classes=3):
    torch.manual_seed(1)
    return [
        {"image": torch.rand(size, 3, 8, 8), "label": torch.randint(classes, (size,))}
        for _ in range(count)
    ]


def fit(module, data):
    """Train for an epoch; what was logged in each step."""
    logged = [{} for _ in data]
    log = module.log

    def recorded(name, value, **options):
        logged[module.trainer.global_step][name] = value.clone()
        log(name, value, **options)

    module.log = recorded
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=None))
    module.log = log
    return logged


@pytest.mark.parametrize("classes", [None, 3])
def test_every_part_moves_in_its_own_steps_and_is_logged(classes):
    module = stylegan2(classes=classes, r1_interval=4, path_interval=2, augmentation=["blit"])
    before = {k: v.clone() for k, v in module.state_dict().items()}
    logged = fit(module, batches())
    for name in ("discriminator_loss", "generator_loss", "real_sign"):
        assert all(f"train/{name}" in step for step in logged)
    steps = {
        name: [i for i, step in enumerate(logged) if f"train/{name}" in step]
        for name in ("r1", "path_length", "augment_probability")
    }
    assert steps == {"r1": [0, 4], "path_length": [0, 2, 4, 6], "augment_probability": [3, 7]}
    after = module.state_dict()
    for part in (
        "network.synthesis.constant",
        "network.mapping.layers.0.weight",
        "network.mapping.average",
        "discriminator.out.weight",
        "path_length.mean",
    ):
        assert not torch.equal(before[part], after[part]), part


def test_what_is_left_out_neither_moves_nor_corrects():
    adam = optim.Adam(lr=2.5e-3, betas=(0.0, 0.99))
    module = stylegan2(r1_gamma=0, path_weight=0)
    logged = fit(module, batches(2))
    assert set(logged[0]) == {"train/discriminator_loss", "train/generator_loss"}
    assert module.optimizer_of("generator") == module.optimizer_of("discriminator") == adam
    whole = stylegan2()
    assert whole.optimizer_of("generator").lr == pytest.approx(2.5e-3 * 4 / 5)
    assert whole.optimizer_of("discriminator").lr == pytest.approx(2.5e-3 * 16 / 17)
    assert whole.optimizer_of("discriminator").betas == (0.0, 0.99 ** (16 / 17))


def test_regularisers_are_weighed_by_their_intervals(monkeypatch):
    module = stylegan2(r1_gamma=6.0, r1_interval=5, path_weight=3.0, path_interval=7)
    descended = {}
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    monkeypatch.setattr(module, "descend", lambda player, loss: descended.update({player: loss}))
    weights = torch.randn(3, 8, 8)
    monkeypatch.setattr(module, "logits", lambda images, _: (images * weights).sum((1, 2, 3)))
    module.r1_turn(torch.rand(4, 3, 8, 8), None)
    wanted = 6 / 2 * weights.square().sum() * 5
    assert descended["discriminator"].item() == pytest.approx(wanted.item(), rel=1e-5)
    penalty = module.path_length_turn(4, None)
    assert descended["generator"].item() == pytest.approx(penalty.item() * 3 * 7, rel=1e-5)


def test_the_probability_of_augmentations_follows_the_real_logits(monkeypatch):
    module = stylegan2(augmentation=["blit"], augment_images=1000)
    monkeypatch.setattr(module.augmentation, "observe", _observing(module.augmentation, 1.0))
    fit(module, batches(8, size=4))
    assert module.augmentation.probability.item() == pytest.approx(2 * 4 * 4 / 1000)
    monkeypatch.setattr(module.augmentation, "observe", _observing(module.augmentation, 0.0))
    fit(module, batches(4, size=4))
    assert module.augmentation.probability.item() == pytest.approx(4 * 4 / 1000)


def _observing(pipe, logit):
    return lambda logits: type(pipe).observe(pipe, torch.full_like(logits, logit))


def test_styles_are_mixed_from_some_layer_on():
    module = stylegan2(mixing=1.0).train()
    latents = torch.randn(64, 8)
    own = module.network.styles(latents)
    mixed = module.mixed_styles(latents, None)
    kept = (mixed == own).all(2)
    assert kept[:, 0].all()
    assert not kept[:, -1].any()
    assert (kept[:, :-1].int() >= kept[:, 1:].int()).all()  # never back
    assert 0 < kept[:, 2].float().mean() < 1
    module.mixing = 0.0
    assert torch.equal(module.mixed_styles(latents, None), own)


def test_the_discriminator_learns_to_tell_and_gradients_reach_the_generator():
    module = stylegan2(r1_gamma=0.1, optimizer=optim.Adam(lr=1e-2, betas=(0.0, 0.99)))
    real = torch.zeros(4, 3, 8, 8)
    real[:, 0] = 1.0
    logged = fit(module, [{"image": real}] * 30)
    assert all(torch.isfinite(value) for step in logged for value in step.values())
    made = module.eval().generate(range(16))
    red, rest = made[:, 0].mean().item(), made[:, 1:].mean().item()
    assert red > rest + 0.3


def test_the_same_step_from_the_same_state_is_the_same():
    ends = []
    for _ in range(2):
        module = stylegan2(augmentation=["blit", "geometric", "colour"])
        module.augmentation.probability.fill_(0.5)
        torch.manual_seed(5)
        fit(module, batches(3))
        ends.append(module.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


# What can be made ---------------------------------------------------------------------------------


def test_a_seed_makes_the_same_image_beside_any_other():
    module = stylegan2().eval()
    images = module.generate([3, 5])
    assert images.shape == (2, 3, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.allclose(module.generate([5])[0], images[1], atol=1e-6)
    module.network.mapping.average.normal_()
    ordinary = module.generate([3, 5], truncation=0.0)
    assert torch.allclose(ordinary[0], ordinary[1], atol=1e-6)


def test_interpolation_passes_the_seeds_and_is_even_in_w():
    module = stylegan2().eval()
    frames = module.interpolate([1, 2, 9], steps=4)
    assert frames.shape == (9, 3, 8, 8)
    assert torch.allclose(frames[::4], module.generate([1, 2, 9]), atol=1e-6)
    with torch.no_grad():
        between = module.render(module.styles_of([1, 2]).mean(0, keepdim=True))
    assert torch.allclose(frames[2], between[0], atol=1e-5)


def test_a_grid_takes_some_layers_from_its_columns():
    module = stylegan2(classes=3).eval()
    whole = range(module.network.num_styles)
    labels = [0, 1, 2, 2, 1]
    rows = module.generate([0, 1], labels=labels[:2])
    columns = module.generate([2, 3, 4], labels=labels[2:])
    assert module.mix([0, 1], [2, 3, 4], [], labels=labels).shape == (2, 3, 3, 8, 8)
    none = module.mix([0, 1], [2, 3, 4], [], labels=labels)
    every = module.mix([0, 1], [2, 3, 4], whole, labels=labels)
    some = module.mix([0, 1], [2, 3, 4], [0, 1], labels=labels)
    for row in range(2):
        for column in range(3):
            assert torch.allclose(none[row, column], rows[row], atol=1e-5)
            assert torch.allclose(every[row, column], columns[column], atol=1e-5)
            assert not torch.allclose(some[row, column], rows[row], atol=1e-4)
    with pytest.raises(UserError, match="those of this network are 0 to 3"):
        module.mix([0], [1], [4], labels=[0, 0])


def test_it_draws_what_it_predicts():
    module = stylegan2(classes=3).eval()
    batch = batches(1)[0]
    output = module.predict_step(batch)
    assert [answer["image"].shape for answer in output] == [(8, 8, 3)] * 4
    assert module.draw(batch, output).shape[2] == 3


# Where it starts ----------------------------------------------------------------------------------


def test_a_published_state_dict_goes_to_the_player_that_it_fits(tmp_path):
    theirs = stylegan2()
    state = {
        name.replace("synthesis.blocks.", "synthesis.b")
        .replace("synthesis.constant", "synthesis.b4.const")
        .replace("mapping.layers.", "mapping.fc")
        .replace("mapping.average", "mapping.w_avg")
        .replace("to_image", "torgb")
        .replace(".noise", ".noise_const")
        .replace("noise_const_strength", "noise_strength"): value + 1
        for name, value in theirs.network.state_dict().items()
    }
    torch.save(state, tmp_path / "G_ema.pt")
    ours = stylegan2(weights=str(tmp_path / "G_ema.pt"))
    for name, value in ours.network.state_dict().items():
        assert torch.equal(value, theirs.network.state_dict()[name] + 1), name
    players = {"generator": ours.network, "discriminator": ours.discriminator}
    assert load_players(players, str(tmp_path / "G_ema.pt")) == ("generator",)


def test_networks_of_other_systems_are_refused():
    with pytest.raises(UserError, match="networks of its own"):
        stylegan2(network=DCGANGenerator([8, 8]), discriminator=DCGANDiscriminator([8, 8]))
