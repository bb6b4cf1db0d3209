import pytest
import torch

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.stylegan2 import stylegan2_discriminator, stylegan2_generator
from lit_imgproc.models.gan.stylegan2_published import from_nvidia


def size_of(network):
    return sum(p.numel() for p in network.parameters())


def small_generator(**options):
    torch.manual_seed(0)
    return stylegan2_generator(
        **{
            "image_size": [16, 16],
            "in_channels": 3,
            "latent_dim": 8,
            "style_dim": 12,
            "channel_base": 64,
            "channel_max": 8,
            "mapping_layers": 2,
            **options,
        }
    )


def small_discriminator(**options):
    torch.manual_seed(0)
    shape = {"image_size": [16, 16], "in_channels": 3, "channel_base": 64, "channel_max": 8}
    return stylegan2_discriminator(**{**shape, **options})


@pytest.mark.parametrize(
    ("side", "base", "layers", "generator", "discriminator", "styles"),
    [
        (1024, 32768, 8, 30_370_060, 29_012_513, 18),  # config F
        (256, 16384, 8, 24_767_458, 24_001_089, 14),  # paper256
        (64, 16384, 2, 22_243_608, 23_407_361, 10),  # auto
        (32, 32768, 2, 19_947_539, 21_507_073, 8),  # the width of cifar
    ],
)
def test_counts_of_parameters_are_those_of_the_published_networks(
    side, base, layers, generator, discriminator, styles
):
    shape = {"image_size": [side, side], "in_channels": 3, "channel_base": base}
    with torch.device("meta"):
        made = stylegan2_generator(**shape, mapping_layers=layers)
        judge = stylegan2_discriminator(**shape)
    assert (size_of(made), size_of(judge)) == (generator, discriminator)
    assert made.num_styles == styles
    assert size_of(made.mapping) == layers * (512 * 512 + 512)


def test_skips_of_the_discriminator_are_three_convolutions_at_32_pixels():
    shape = {"image_size": [32, 32], "in_channels": 3}
    with torch.device("meta"):
        plain = stylegan2_discriminator(**shape, residual=False)
    assert size_of(plain) == 21_507_073 - 3 * 512 * 512


def nvidia_generator(side, widths, latent, style, layers, classes):
    """Names and shapes of the state dict of a generator of stylegan2-ada-pytorch."""
    names = {"mapping.w_avg": (style,)}
    if classes:
        names |= {"mapping.embed.weight": (style, classes), "mapping.embed.bias": (style,)}
    before = latent + (style if classes else 0)
    for i in range(layers):
        names |= {f"mapping.fc{i}.weight": (style, before), f"mapping.fc{i}.bias": (style,)}
        before = style
    names["synthesis.b4.const"] = (widths[4], 4, 4)
    resolution = 4
    while resolution <= side:
        block, width = f"synthesis.b{resolution}", widths[resolution]
        names[f"{block}.resample_filter"] = (4, 4)
        convs = {"conv1": width} if resolution == 4 else {"conv0": widths[resolution // 2]}
        for conv, narrow in {**convs, "conv1": width}.items():
            names |= {
                f"{block}.{conv}.weight": (width, narrow, 3, 3),
                f"{block}.{conv}.bias": (width,),
                f"{block}.{conv}.noise_strength": (),
                f"{block}.{conv}.noise_const": (resolution, resolution),
                f"{block}.{conv}.resample_filter": (4, 4),
                f"{block}.{conv}.affine.weight": (narrow, style),
                f"{block}.{conv}.affine.bias": (narrow,),
            }
        names |= {
            f"{block}.torgb.weight": (3, width, 1, 1),
            f"{block}.torgb.bias": (3,),
            f"{block}.torgb.affine.weight": (width, style),
            f"{block}.torgb.affine.bias": (width,),
        }
        resolution *= 2
    return {name: torch.randn(shape) for name, shape in names.items()}


def nvidia_discriminator(side, widths, layers, classes):
    names = {}
    resolution = side
    while resolution > 4:
        block, width, narrow = f"b{resolution}", widths[resolution], widths[resolution // 2]
        names[f"{block}.resample_filter"] = (4, 4)
        if resolution == side:
            names |= {
                f"{block}.fromrgb.weight": (width, 3, 1, 1),
                f"{block}.fromrgb.bias": (width,),
            }
            names[f"{block}.fromrgb.resample_filter"] = (4, 4)
        for conv, out in {"conv0": width, "conv1": narrow}.items():
            names |= {f"{block}.{conv}.weight": (out, width, 3, 3), f"{block}.{conv}.bias": (out,)}
            names[f"{block}.{conv}.resample_filter"] = (4, 4)
        names |= {
            f"{block}.skip.weight": (narrow, width, 1, 1),
            f"{block}.skip.resample_filter": (4, 4),
        }
        resolution //= 2
    width = widths[4]
    out = width if classes else 1
    names |= {
        "b4.conv.weight": (width, width + 1, 3, 3),
        "b4.conv.bias": (width,),
        "b4.conv.resample_filter": (4, 4),
        "b4.fc.weight": (width, width * 16),
        "b4.fc.bias": (width,),
        "b4.out.weight": (out, width),
        "b4.out.bias": (out,),
    }
    if classes:
        names |= {"mapping.embed.weight": (width, classes), "mapping.embed.bias": (width,)}
        for i in range(layers):
            names |= {f"mapping.fc{i}.weight": (width, width), f"mapping.fc{i}.bias": (width,)}
    return {name: torch.randn(shape) for name, shape in names.items()}


@pytest.mark.parametrize("classes", [0, 5])
def test_published_state_dicts_load_through_the_key_map(classes):
    widths = {4: 8, 8: 8, 16: 4}
    options = {"num_classes": classes or None, "conditional": bool(classes)}
    generator = small_generator(**options)
    state = nvidia_generator(16, widths, 8, 12, 2, classes)
    generator.load_state_dict(generator.from_published(state), strict=True)
    conv = generator.synthesis.blocks["16"].conv0
    assert torch.equal(conv.weight, state["synthesis.b16.conv0.weight"])
    assert torch.equal(conv.noise, state["synthesis.b16.conv0.noise_const"])
    assert torch.equal(generator.mapping.average, state["mapping.w_avg"])

    discriminator = small_discriminator(**options)
    state = nvidia_discriminator(16, widths, 8, classes)
    discriminator.load_state_dict(discriminator.from_published(state), strict=True)
    assert torch.equal(discriminator.from_image.bias, state["b16.fromrgb.bias"])
    assert torch.equal(discriminator.linear.weight, state["b4.fc.weight"])


def test_names_of_our_own_networks_stay():
    for network in (small_generator(), small_discriminator()):
        assert from_nvidia(network.state_dict()).keys() == network.state_dict().keys()


def test_images_have_the_size_that_was_asked_for():
    generator, discriminator = small_generator(in_channels=1), small_discriminator(in_channels=1)
    images = generator(torch.randn(3, 8))
    assert images.shape == (3, 1, 16, 16)
    assert discriminator(images).shape == (3,)
    assert (generator.latent_dim, generator.num_classes, generator.channels) == (8, None, 1)


def test_classes_change_images_and_logits():
    options = {"num_classes": 4, "conditional": True}
    generator, discriminator = small_generator(**options), small_discriminator(**options)
    latents = torch.randn(1, 8).expand(2, -1)
    labels = torch.tensor([0, 3])
    styles = generator.styles(latents, labels)
    assert not torch.allclose(styles[0], styles[1])
    images = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1)
    logits = discriminator(images, labels)
    assert not torch.allclose(logits[0], logits[1])
    with pytest.raises(UserError, match="needs the label of each image"):
        generator(latents)


def test_truncation_brings_styles_to_their_mean():
    generator = small_generator().eval()
    generator.mapping.average.normal_()
    latents = torch.randn(2, 8)
    whole = generator.styles(latents)
    half = generator.styles(latents, truncation=0.5)
    assert whole.shape == (2, generator.num_styles, 12)
    assert torch.allclose(half, (whole + generator.mapping.average) / 2, atol=1e-6)
    assert torch.allclose(
        generator.styles(latents, truncation=0), generator.mapping.average.expand(2, 6, 12)
    )
    partly = generator.styles(latents, truncation=0.5, cutoff=2)
    assert torch.equal(partly[:, :2], half[:, :2])
    assert torch.equal(partly[:, 2:], whole[:, 2:])


def test_the_mean_style_is_followed_in_training_alone():
    generator = small_generator()
    latents = torch.randn(16, 8)
    w = generator.mapping(latents, None)
    assert torch.allclose(generator.mapping.average, 0.005 * w.mean(0), atol=1e-7)
    before = generator.mapping.average.clone()
    generator.eval()(latents)
    assert torch.equal(generator.mapping.average, before)


def test_noise_is_random_constant_absent_or_given():
    generator = small_generator()
    synthesis = generator.synthesis
    styles = generator.styles(torch.randn(2, 8))
    bare = synthesis(styles, "none")
    assert torch.equal(synthesis(styles), bare)  # strengths start at 0
    for block in synthesis.blocks.values():
        for conv in block.convs():
            torch.nn.init.ones_(conv.noise_strength)
    assert torch.equal(synthesis(styles, "none"), bare)
    assert not torch.allclose(synthesis(styles), synthesis(styles))
    constant = synthesis(styles, "constant")
    assert torch.equal(constant, synthesis(styles, "constant"))
    assert not torch.allclose(constant, bare)
    maps = synthesis.noise_maps()
    assert [one.shape[-1] for one in maps] == [4, 8, 8, 16, 16]
    assert torch.equal(synthesis(styles, maps), constant)


def test_each_style_changes_what_comes_from_its_layer_on():
    generator = small_generator()
    styles = generator.styles(torch.randn(1, 8))
    images = generator.synthesis(styles, "none")
    for layer in range(generator.num_styles):
        changed = styles.clone()
        changed[:, layer] += 1
        assert not torch.allclose(generator.synthesis(changed, "none"), images)


@pytest.mark.parametrize("size", [[28, 28], [4, 4], [16, 32]])
def test_sizes_that_are_no_powers_of_two_are_refused(size):
    with pytest.raises(UserError, match="whose side is a power of two from 8 on, not"):
        small_generator(image_size=size)


def test_a_conditional_network_without_classes_is_refused():
    with pytest.raises(UserError, match="needs classes"):
        small_discriminator(conditional=True)
