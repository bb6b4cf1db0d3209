"""The score of one box, which explanations differentiate."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

from lit_imgproc.explain.cam import grad_cam
from lit_imgproc.models.detection.attribution import BoxTarget, matched_score, object_target
from lit_imgproc.models.detection.networks import Padding

ANCHORS = {"rpn_anchor_generator": AnchorGenerator(((16,),), ((1.0,),))}
SQUARE = BoxTarget(1, (24, 16, 40, 32))
"""The anchor that :func:`scene` has an object of class 1 in."""


class Cells(nn.Module):
    """A trunk that averages cells of 4x4 pixels."""

    out_channels = 3

    def __init__(self, channels=3):
        super().__init__()
        self.out_channels = channels
        self.mix = nn.Conv2d(3, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(4)

    def forward(self, images):
        return self.pool(self.mix(images))


class Means(nn.Module):
    """Of each channel over a region."""

    def forward(self, regions):
        return regions.mean((2, 3))


class Brightness(nn.Module):
    """Class k is sure where channel k - 1 is bright; boxes stay where the regions are."""

    def forward(self, means):
        background = means.new_full((len(means), 1), 3.0)
        return torch.cat([background, 6 * means], 1), means.new_zeros(len(means), 4 * 4)


def by_hand(**settings):
    """A Faster R-CNN whose answers are known: squares of 16 pixels, one class a channel."""
    network = FasterRCNN(
        Cells(), **ANCHORS, rpn_nms_thresh=1.0, box_nms_thresh=1.0, box_head=Means(),
        box_predictor=Brightness(), box_roi_pool=MultiScaleRoIAlign(["0"], 4, 2), **settings,
    )  # fmt: skip
    network.transform = Padding(4)
    nn.init.zeros_(network.rpn.head.bbox_pred.weight)
    nn.init.dirac_(network.backbone.mix.weight)
    return network.eval()


def scene(bright=1.0):
    """``[1, 3, 64, 64]``, with a square in channel 1.

    It is a cell larger than the anchor: torchvision reads regions half a cell to the lower right.
    """
    image = torch.zeros(1, 3, 64, 64)
    image[0, 1, 16:36, 24:44] = bright
    return image


def look_with(network):
    """As the detector looks: labels from 0."""

    def look(images):
        found = network([image.contiguous() for image in images])
        return [one | {"labels": one["labels"] - 1} for one in found]

    return look


def score_of(network, target=None):
    return matched_score(network, look_with(network), target)


def gradient(score, images):
    images = images.clone().requires_grad_()
    values = score(images)
    (found,) = torch.autograd.grad(values.sum(), images)
    return values.detach(), found


class Told(nn.Module):
    """A network that finds what it is told to."""

    score_thresh, detections_per_img = 0.5, 10


def told(boxes, labels, scores):
    found = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores, requires_grad=True),
    }
    return found, lambda images: [found for _ in images]


def test_the_greatest_product_of_score_and_iou_counts():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10], [20, 20, 30, 30]]
    found, look = told(boxes, [0, 0, 1, 0], [0.5, 0.9, 1.0, 1.0])
    images = torch.zeros(2, 3, 32, 32)
    first = matched_score(Told(), look, BoxTarget(0, (0, 0, 10, 10)))(images)
    torch.testing.assert_close(first, torch.full((2,), 0.72))  # 0.9 * 0.8 > 0.5 * 1
    first[0].backward()
    torch.testing.assert_close(found["scores"].grad, torch.tensor([0.0, 0.8, 0.0, 0.0]))
    other = matched_score(Told(), look, BoxTarget(1, (0, 0, 10, 5)))(images)
    torch.testing.assert_close(other, torch.full((2,), 0.5))
    best = matched_score(Told(), look)(images)
    torch.testing.assert_close(best, torch.ones(2))


@pytest.mark.parametrize("target", [None, BoxTarget(0, (0, 0, 9, 9))])
def test_where_nothing_is_found_the_score_is_zero_and_so_is_its_gradient(target):
    found, look = told([], [], [])
    score = matched_score(Told(), look, target)(torch.zeros(1, 3, 8, 8))
    assert score.tolist() == [0]
    score.sum().backward()
    assert found["scores"].grad.shape == (0,)


def test_an_object_without_any_area_is_no_object_and_not_nan():
    """An untrained network finds such boxes, and may be surest of one."""
    found, look = told([[4, 4, 4, 9], [0, 0, 9, 9]], [0, 1], [0.9, 0.5])
    score = matched_score(Told(), look, BoxTarget(0, (4, 4, 4, 9)))(torch.zeros(1, 3, 8, 8))
    assert score.tolist() == [0]
    score.sum().backward()
    assert found["scores"].grad.tolist() == [0, 0]


def test_each_image_can_have_a_target_of_its_own():
    _, look = told([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1], [0.5, 0.25])
    targets = [BoxTarget(1, (20, 20, 30, 30)), BoxTarget(0, (0, 0, 10, 5))]
    scores = matched_score(Told(), look, targets)(torch.zeros(2, 3, 32, 32))
    torch.testing.assert_close(scores, torch.tensor([0.25, 0.25]))


def test_what_is_explained_is_the_surest_object_of_what_is_asked_for():
    found, _ = told([[0, 0, 9, 9], [0, 0, 9, 6], [20, 20, 30, 30]], [1, 0, 2], [0.9, 0.8, 0.7])
    assert object_target(found) == BoxTarget(1, [0, 0, 9, 9])
    assert object_target(found, 2) == BoxTarget(2, [20, 20, 30, 30])
    assert object_target(found, 3) is None
    # Of a box, what overlaps it most, or what is said to be there.
    assert object_target(found, box=(0, 0, 9, 5)) == BoxTarget(0, (0, 0, 9, 5))
    assert object_target(found, 3, (0, 0, 9, 5)) == BoxTarget(3, (0, 0, 9, 5))
    assert object_target(found, box=(40, 40, 50, 50)) is None
    assert object_target(told([], [], [])[0]) is None
    assert object_target(told([], [], [])[0], box=(0, 0, 9, 5)) is None


def test_a_box_of_no_area_or_of_another_class_is_not_met():
    _, look = told([[0, 0, 0, 0], [0, 0, 9, 9]], [0, 1], [1.0, 1.0])
    images = torch.zeros(1, 3, 8, 8)
    assert matched_score(Told(), look, BoxTarget(0, (0, 0, 9, 9)))(images).tolist() == [0]
    assert matched_score(Told(), look, BoxTarget(7, (0, 0, 9, 9)))(images).tolist() == [0]


def test_the_score_is_the_probability_of_the_class_in_the_box():
    network = by_hand()
    logits = torch.tensor([3.0, 0.0, 6.0, 0.0])
    expected = logits.softmax(0)[2]
    torch.testing.assert_close(score_of(network, SQUARE)(scene())[0], expected)
    torch.testing.assert_close(score_of(network)(scene())[0], expected)


def test_pixels_of_the_box_matter_and_others_do_not():
    _, found = gradient(score_of(by_hand(), SQUARE), scene())
    assert (found[0, 1, 16:36, 24:44] > 0).all()
    found[0, :, 16:36, 24:44] = 0
    assert not found.any()


def test_each_image_has_a_score_of_its_own():
    images = torch.cat([scene(), scene(0.5), torch.zeros(1, 3, 64, 64)])
    score = score_of(by_hand(), SQUARE)
    values, found = gradient(score, images)
    alone = torch.cat([score(image[None]) for image in images])
    torch.testing.assert_close(values, alone)
    assert values[0] > values[1] > values[2]
    assert (found.abs().sum((1, 2, 3)) > 0).all()


def test_a_box_that_is_not_found_any_more_still_has_a_gradient():
    network = by_hand(box_score_thresh=0.9)
    faint = scene(0.3)
    assert len(network(list(faint))[0]["scores"]) == 0
    value, found = gradient(score_of(network, SQUARE), faint)
    assert 0 < value < 0.9
    assert found.abs().sum() > 0


def test_a_network_without_any_proposal_scores_zero_without_nan():
    network = by_hand()
    network.rpn.min_size = 1000.0
    value, found = gradient(score_of(network), scene())
    assert value.tolist() == [0]
    assert not found.any()


def test_grad_cam_points_at_the_object():
    network = by_hand()
    with torch.inference_mode():
        (heat,) = grad_cam(score_of(network, SQUARE), scene(), network.backbone)
    assert heat[16:36, 24:44].sum() > 0.7 * heat.sum() > 0
    network.rpn.min_size = 1000.0
    assert not grad_cam(score_of(network), scene(), network.backbone).any()


def faster(**settings):
    return FasterRCNN(Cells(16), 4, **ANCHORS, **settings)


def mask(**settings):
    return MaskRCNN(Cells(16), 4, **ANCHORS, **settings)


def retina():
    return RetinaNet(Cells(16), 4, anchor_generator=AnchorGenerator(((16,),), ((1.0,),)))


def fcos():
    return FCOS(Cells(32), 4, anchor_generator=AnchorGenerator(((4,),), ((1.0,),)))


def ssd():
    trunk = Cells(16)
    trunk.out_channels = [16]
    return SSD(trunk, DefaultBoxGenerator([[2]], scales=[0.2, 0.3]), (64, 64), 4)


@pytest.mark.parametrize("build", [faster, mask, retina, fcos, ssd])
def test_every_kind_of_network_has_a_gradient_and_stays_as_it_was(build):
    torch.manual_seed(0)
    network = build()
    network.transform = Padding(4)
    network.eval()
    heads = getattr(network, "roi_heads", network)
    names = ("score_thresh", "detections_per_img", "mask_roi_pool", "topk_candidates")
    before = {name: getattr(heads, name, None) for name in names}
    images = torch.rand(2, 3, 64, 64)
    for target in (None, SQUARE):
        values, found = gradient(score_of(network, target), images)
        assert values.shape == (2,)
        assert ((values > 0) & (values <= 1)).all()
        assert found.isfinite().all()
        assert (found.abs().sum((1, 2, 3)) > 0).all()
    assert {name: getattr(heads, name, None) for name in names} == before


def test_masks_are_not_made_for_a_score_and_are_made_afterwards():
    network = mask(box_score_thresh=0.0, box_detections_per_img=5)
    network.transform = Padding(4)
    network.eval()
    called = []
    network.roi_heads.mask_head.register_forward_hook(lambda *_: called.append(1))
    score_of(network)(scene())
    assert not called
    assert network(list(scene()))[0]["masks"].shape[1:] == (1, 64, 64)


def test_the_network_stays_as_it_was_where_looking_fails():
    network = Told()

    def look(images):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        matched_score(network, look)(torch.zeros(1, 3, 8, 8))
    assert (network.score_thresh, network.detections_per_img) == (0.5, 10)
