import math
from functools import partial

import pytest
import torch
import torchvision
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_loss
from torchvision.ops import roi_align

from lit_imgproc.errors import UserError
from lit_imgproc.models.detection import networks, published
from lit_imgproc.models.detection.exchange import answers
from lit_imgproc.models.detection.networks import Padding, faster_rcnn, fcos, mask_rcnn, retinanet

SMALL = {"trunk": "test_efficientnet", "fpn_channels": 64}
TWO_STAGES = {**SMALL, "head_channels": 64}
ON_TIMM = {
    "faster_rcnn": partial(faster_rcnn, **TWO_STAGES),
    "mask_rcnn": partial(mask_rcnn, **TWO_STAGES, mask_channels=16),
    "retinanet": partial(retinanet, **SMALL),
    "fcos": partial(fcos, **SMALL),
}
LOSSES = {
    "faster_rcnn": {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"},
    "retinanet": {"classification", "bbox_regression"},
    "fcos": {"classification", "bbox_regression", "bbox_ctrness"},
}
LOSSES["mask_rcnn"] = LOSSES["faster_rcnn"] | {"loss_mask"}


def images(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def target(boxes, labels, size):
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
    }


# Published counts are of COCO's 90 numbers and the background, and of learned parameters: frozen
# norms have none.
COUNTS = {
    "fasterrcnn_resnet50_fpn": (True, 41_755_286),
    "fasterrcnn_resnet50_fpn_v2": (False, 43_712_278),
    "fasterrcnn_mobilenet_v3_large_fpn": (True, 19_386_354),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (True, 19_386_354),
    "maskrcnn_resnet50_fpn": (True, 44_401_393),
    "maskrcnn_resnet50_fpn_v2": (False, 46_359_409),
    "retinanet_resnet50_fpn": (True, 34_014_999),
    "retinanet_resnet50_fpn_v2": (False, 38_198_935),
    "fcos_resnet50_fpn": (True, 32_269_600),
    "ssd300_vgg16": (False, 35_641_826),
    "ssdlite320_mobilenet_v3_large": (False, 3_440_060),
}


@pytest.mark.parametrize("name", COUNTS)
def test_has_as_many_parameters_as_torchvision_says(name):
    frozen, count = COUNTS[name]
    with torch.device("meta"):
        network = getattr(published, name)(num_classes=90, frozen_norms=frozen)
    assert sum(p.numel() for p in network.parameters()) == count
    assert count == torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]


def test_every_published_network_is_counted():
    assert set(COUNTS) == set(published.TRUNKS)


def test_computes_what_torchvision_computes_with_its_own_normalization():
    torch.manual_seed(0)
    ours = published.fasterrcnn_mobilenet_v3_large_320_fpn(num_classes=3, score_thresh=0.0).eval()
    theirs = torchvision.models.get_model(
        "fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, weights_backbone=None,
        num_classes=4, box_score_thresh=0.0, min_size=64, max_size=96,
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    given = images((64, 96), (64, 80))
    mean, std = (torch.tensor(ours.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        mine, reference = ours([(one - mean) / std for one in given]), theirs(given)
    for one, other in zip(mine, reference, strict=True):
        assert len(one["boxes"]) == len(other["boxes"]) > 0
        torch.testing.assert_close(one["boxes"], other["boxes"])
        torch.testing.assert_close(one["scores"], other["scores"])


def test_what_torchvision_freezes_is_frozen():
    with torch.device("meta"):
        ours = published.fasterrcnn_resnet50_fpn(num_classes=3, frozen_stem=True, frozen_norms=True)
        norm = torchvision.ops.misc.FrozenBatchNorm2d
        trunk = torchvision.models.resnet50(weights=None, norm_layer=norm)
        theirs = _resnet_fpn_extractor(trunk, trainable_layers=3)
    learned = {name for name, p in ours.backbone.named_parameters() if p.requires_grad}
    assert learned == {name for name, p in theirs.named_parameters() if p.requires_grad}
    assert {"body.conv1.weight", "body.layer1.0.conv1.weight"}.isdisjoint(learned)


def test_frozen_stems_are_those_of_torchvision_s_default():
    with torch.device("meta"):
        vgg = published.ssd300_vgg16(num_classes=3, frozen_stem=True)
        mobile = published.fasterrcnn_mobilenet_v3_large_fpn(num_classes=3, frozen_stem=True)
    frozen = {name for name, p in vgg.named_parameters() if not p.requires_grad}
    # Four of five stages are learned: all from the first pooling on, which is number 4.
    assert frozen == {
        f"backbone.features.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    learned = [
        int(name.split(".")[2])
        for name, p in mobile.named_parameters()
        if name.startswith("backbone.body.") and p.requires_grad
    ]
    assert min(learned) == 7  # of six stages three are learned


def test_an_image_of_800_pixels_has_159882_anchors():
    made = networks.anchors(
        [[8.0 * s] for s in (4, 8, 16, 32, 64)], [0.5, 1, 2], (4, 8, 16, 32, 64)
    )
    levels = [torch.zeros(1, 1, *(math.ceil(800 / 2**k),) * 2) for k in range(2, 7)]
    (found,) = made(ImageList(torch.zeros(1, 3, 800, 800), [(800, 800)]), levels)
    assert len(found) == 159_882
    cells = made.cell_anchors[0].tolist()
    assert cells == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]


def test_default_anchors_are_those_of_torchvision():
    with torch.device("meta"):
        theirs = torchvision.models.get_model(
            "retinanet_resnet50_fpn", weights=None, weights_backbone=None
        )
    ours = retinanet(num_classes=3, **SMALL)
    sizes = [[float(s) for s in level] for level in ours.anchor_generator.sizes]
    for level, other in zip(sizes, theirs.anchor_generator.sizes, strict=True):
        assert level == pytest.approx(list(other), abs=1)  # torchvision rounds them
    assert faster_rcnn(num_classes=3, **TWO_STAGES).rpn.anchor_generator.sizes == (
        (32.0,), (64.0,), (128.0,), (256.0,), (512.0,),
    )  # fmt: skip


@pytest.mark.parametrize("name", ON_TIMM)
def test_has_the_losses_of_its_paper_and_they_are_finite(name):
    network = ON_TIMM[name](num_classes=2).train()
    objects = target([[4, 6, 40, 50], [10, 10, 30, 26]], [1, 2], (64, 64))
    nothing = target([], [], (64, 48))
    losses = network(images((64, 64), (64, 48)), [objects, nothing])
    assert set(losses) == LOSSES[name]
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(
        math.isfinite(p.grad.sum().item()) for p in network.parameters() if p.grad is not None
    )


@pytest.mark.parametrize("name", ON_TIMM)
def test_learns_where_no_image_has_an_object(name):
    network = ON_TIMM[name](num_classes=1).train()
    losses = network(images((64, 64)), [target([], [], (64, 64))])
    total = torch.stack(list(losses.values())).sum()
    assert math.isfinite(total.item())
    total.backward()


@pytest.mark.parametrize("name", ON_TIMM)
def test_answers_in_pixels_of_each_image(name):
    torch.manual_seed(0)
    network = ON_TIMM[name](num_classes=2).eval()
    heads = getattr(network, "roi_heads", network)
    heads.score_thresh = 0.0
    with torch.no_grad():
        found = network(images((64, 64), (48, 96)))
    for one, (height, width) in zip(found, [(64, 64), (48, 96)], strict=True):
        assert 0 < len(one["boxes"]) <= heads.detections_per_img
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert set(one["labels"].tolist()) <= (
            {0, 1, 2} if name in ("retinanet", "fcos") else {1, 2}
        )
        if name == "mask_rcnn":
            assert one["masks"].shape == (len(one["boxes"]), 1, height, width)


def test_masks_are_28_pixels_wide_before_they_are_laid_out():
    network = ON_TIMM["mask_rcnn"](num_classes=2)
    pooled = torch.zeros(5, 64, 14, 14)
    logits = network.roi_heads.mask_predictor(network.roi_heads.mask_head(pooled))
    assert logits.shape == (5, 3, 28, 28)


def test_padding_changes_no_pixel():
    given = images((30, 40), (33, 20))
    padded, _ = Padding()(given)
    assert padded.tensors.shape == (2, 3, 64, 64)
    assert padded.image_sizes == [(30, 40), (33, 20)]
    assert torch.equal(padded.tensors[0, :, :30, :40], given[0])
    assert padded.tensors[0, :, 30:].abs().sum() == 0


def test_frozen_norms_and_stages_stay():
    network = faster_rcnn(num_classes=1, frozen_to=4, frozen_norms=True, **TWO_STAGES).train()
    body = network.backbone.body
    before = {name: value.clone() for name, value in body.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    losses = network(images((64, 64)), [target([[4, 6, 40, 50]], [1], (64, 64))])
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    moved = {name for name, value in body.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert all("conv" in name for name in moved)  # no norm has moved
    assert not any(name.startswith(("conv_stem", "blocks.0", "blocks.1")) for name in moved)


def test_the_paper_s_own_level_needs_no_pyramid():
    network = faster_rcnn(
        "test_efficientnet", num_classes=2, strides=[16], fpn_channels=None, head_channels=64,
        anchor_sizes=[[32, 64]],
    )  # fmt: skip
    levels = network.backbone(torch.zeros(1, 3, 64, 64))
    assert {name: level.shape[-2:] for name, level in levels.items()} == {"0": (4, 4)}
    assert network.eval()(images((64, 64)))[0]["boxes"].shape[1] == 4


def test_a_trunk_with_channels_last_gives_levels_channels_first():
    with torch.device("meta"):
        network = faster_rcnn("swin_tiny_patch4_window7_224", num_classes=1)
        levels = network.backbone(torch.zeros(1, 3, 224, 224))
    assert [tuple(level.shape) for level in levels.values()] == [
        (1, 256, side, side) for side in (56, 28, 14, 7, 4)
    ]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: faster_rcnn("resnet51", 3), "timm has no model resnet51"),
        (lambda: faster_rcnn("vit_tiny_patch16_224", 3), "strides"),
        (lambda: faster_rcnn(num_classes=3, strides=[8, 4], **TWO_STAGES), "fine to coarse"),
        (lambda: faster_rcnn("test_efficientnet", 3, fpn_channels=None), "need a pyramid"),
        (lambda: faster_rcnn(num_classes=3, anchor_sizes=[[32]], **TWO_STAGES), "5 levels"),
        (lambda: fcos("test_efficientnet", 3, fpn_channels=40), "32 groups"),
        (
            lambda: faster_rcnn("resnet18", 3, strides=[2, 32], frozen_to=64),
            "no level of stride 64",
        ),
    ],
)
def test_what_cannot_be_made_is_said(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_published_networks_take_other_channels():
    network = published.ssdlite320_mobilenet_v3_large(num_classes=2, in_channels=5).eval()
    with torch.no_grad():
        network([torch.zeros(5, 64, 64)])
    with torch.device("meta"):
        network = published.retinanet_resnet50_fpn(num_classes=2, in_channels=1)
    assert network.get_parameter("backbone.body.conv1.weight").shape == (64, 1, 7, 7)


def test_thresholds_reach_both_kinds():
    given = {"num_classes": 2, "score_thresh": 0.3, "nms_thresh": 0.4, "detections_per_img": 7}
    with torch.device("meta"):
        for network in (
            published.fcos_resnet50_fpn(**given),
            published.fasterrcnn_resnet50_fpn(**given).roi_heads,
        ):
            assert network.score_thresh == 0.3
            assert network.nms_thresh == 0.4
            assert network.detections_per_img == 7


# What torchvision's parts are relied on for ------------------------------------------------------


def test_roi_align_of_a_constant_map_is_constant():
    regions = torch.tensor([[0, 0.3, 1.7, 9.2, 12.9], [0, 0.0, 0.0, 16.0, 16.0]])
    pooled = roi_align(torch.full((1, 2, 16, 16), 3.0), regions, 7, aligned=True)
    torch.testing.assert_close(pooled, torch.full((2, 2, 7, 7), 3.0))


def test_a_mask_is_learned_for_the_class_of_its_object_alone():
    logits = torch.zeros(1, 3, 28, 28, requires_grad=True)
    boxes = [torch.tensor([[0.0, 0.0, 28.0, 28.0]])]
    masks = [torch.ones(1, 28, 28)]
    loss = maskrcnn_loss(logits, boxes, masks, [torch.tensor([2])], [torch.tensor([0])])
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert (logits.grad[0, 2] < 0).all()
    assert logits.grad[0, :2].abs().sum() == 0


def test_masks_are_laid_out_in_their_boxes():
    found = [{"boxes": torch.tensor([[8.0, 4.0, 24.0, 20.0]]), "labels": torch.tensor([1]),
              "scores": torch.tensor([0.9]), "masks": torch.ones(1, 1, 28, 28)}]  # fmt: skip
    (laid_out,) = Padding().eval().postprocess(found, [(32, 40)], [(32, 40)])
    inside = answers([laid_out])[0]["masks"][0]
    expected = torch.zeros(32, 40, dtype=torch.bool)
    expected[4:20, 8:24] = True
    wrong = (inside != expected).nonzero()
    # torchvision lets a mask of ones fade over the pixel at the edge of its box.
    assert len(wrong) <= 4 * 17
    assert inside[5:19, 9:23].all()
    assert not inside[:3].any()
    assert not inside[:, 26:].any()
