import pytest
import torch

from lit_imgproc.errors import UserError
from lit_imgproc.models.gan import projection
from lit_imgproc.models.gan.projection import VGGDistance, correlation, project
from lit_imgproc.models.gan.stylegan2 import stylegan2_generator


def generator(**options):
    torch.manual_seed(0)
    network = stylegan2_generator(
        **{
            "image_size": [16, 16],
            "in_channels": 3,
            "latent_dim": 8,
            "style_dim": 8,
            "channel_base": 128,
            "channel_max": 16,
            "mapping_layers": 1,
            **options,
        }
    )
    for block in network.synthesis.blocks.values():
        block.to_image.weight.data *= 0.2  # images within [-1, 1]
    return network.eval()


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(projection, "SAMPLES", 500)


def squared(a, b):
    return (a - b).square().mean((1, 2, 3))


def made(network, seed=3, labels=None):
    latents = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        images = network.synthesis(network.styles(latents, labels), "constant")
    return ((images[0] + 1) / 2).clamp(0, 1)


def test_a_generated_image_is_found_again():
    network = generator()
    image = made(network)
    found = project(network, image, squared, steps=60)
    assert found.distances.shape == (60,)
    assert found.distances[-1] < found.distances[0] / 10
    assert squared(found.image[None], image[None]).item() < found.distances[0] / 10
    assert found.styles.shape == (1, network.num_styles, 8)
    with torch.no_grad():
        again = network.synthesis(found.styles, found.noise)
    assert torch.allclose(((again[0] + 1) / 2).clamp(0, 1), found.image, atol=1e-5)


def test_the_generator_stays_as_it_is_and_the_search_is_reproducible():
    network = generator(num_classes=3, conditional=True)
    labels = torch.tensor([2])
    image = made(network, labels=labels)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = project(network, image, squared, steps=5, labels=labels)
    torch.manual_seed(99)
    second = project(network, image, squared, steps=5, labels=labels)
    assert torch.equal(first.distances, second.distances)
    assert all(torch.equal(value, before[k]) for k, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_noise_maps_stay_normal():
    found = project(generator(), torch.rand(3, 16, 16), squared, steps=20)
    for one in found.noise:
        assert one.mean().item() == pytest.approx(0, abs=1e-5)
        assert one.square().mean().item() == pytest.approx(1, abs=1e-4)


def test_correlation_is_known_of_a_constant_and_a_chequerboard():
    ones = torch.ones(1, 1, 32, 32)
    assert correlation(ones).item() == pytest.approx(2 * 3)  # at 32, 16 and 8 pixels
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)[None, None]
    assert correlation(board).item() == pytest.approx(2)  # gone at 16 pixels
    torch.manual_seed(0)
    assert correlation(torch.randn(1, 1, 64, 64)) < 0.1


def test_the_perceptual_distance_is_0_at_the_same_image_and_grows():
    distance = VGGDistance("vgg_random")
    torch.manual_seed(0)
    image, noise = torch.rand(1, 1, 16, 16), torch.randn(1, 1, 16, 16)
    assert distance(image, image).item() == 0
    near = distance(image, image + 0.01 * noise)
    far = distance(image, image + 0.2 * noise)
    assert 0 < near.item() < far.item()


@pytest.mark.slow
def test_a_generated_image_is_found_by_its_features():
    network = generator()
    image = made(network)
    found = project(network, image, VGGDistance("vgg_random"), steps=60)
    assert found.distances[-1] < found.distances[0] / 2


def test_an_image_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"generator makes \[3, 16, 16\]: resize it"):
        project(generator(), torch.rand(3, 8, 8), squared)
