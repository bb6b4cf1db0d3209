import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torchvision.ops import RoIPool, box_iou

from lit_imgproc.errors import UserError
from lit_imgproc.models.detection.fast_rcnn import (
    BOX_WEIGHTS,
    FastRCNN,
    best_of_each_class,
    losses,
    truncated_svd,
)
from lit_imgproc.models.detection.region_module import RegionDetector
from lit_imgproc.models.detection.regions import draw, match, usable
from lit_imgproc.optim import AdamW


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(**arguments):
    return FastRCNN("test_resnet", num_classes=2, head_channels=32, drop_rate=0.0, **arguments)


def scene(size=64):
    """An image with a bright disc-like square and a dark one, and regions on and around them."""
    image = torch.full((3, size, size), 0.5) + 0.02 * torch.randn(3, size, size)
    boxes = torch.tensor([[8.0, 8.0, 28.0, 28.0], [34.0, 30.0, 58.0, 56.0]])
    image[:, 8:28, 8:28] = 1.0
    image[:, 30:56, 34:58] = 0.0
    target = {"boxes": boxes, "labels": torch.tensor([1, 2])}
    moved = (boxes[:, None] + torch.tensor([[3.0, 2, 1, -2], [-3, 3, 2, 4]])).flatten(0, 1)
    corners = torch.rand(20, 2) * 40
    around = torch.cat([corners, corners + 8 + 16 * torch.rand(20, 2)], 1)
    return image, target, torch.cat([moved, around])


# Regions -----------------------------------------------------------------------------------------


def test_usable_regions_lie_in_the_image_and_have_an_area():
    boxes = torch.tensor([[-5.0, 2, 30, 9], [3, 3, 3.5, 9], [25, 1, 60, 2], [4, 4, 8, 8]])
    kept = usable(boxes, 10, 20)
    assert kept.tolist() == [[0, 2, 20, 9], [4, 4, 8, 8]]


def test_match_of_an_image_without_objects():
    overlap, index = match(torch.rand(4, 4), torch.zeros(0, 4))
    assert overlap.tolist() == [0.0] * 4
    assert index.tolist() == [0] * 4


def test_match_takes_the_object_that_overlaps_most():
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20]])
    overlap, index = match(torch.tensor([[0.0, 0, 10, 18], [0, 0, 10, 9]]), objects)
    assert index.tolist() == [1, 0]
    assert overlap.tolist() == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize(
    ("objects", "background", "expected"),
    [
        (100, 100, (16, 48)),
        (5, 100, (5, 59)),
        (100, 10, (16, 10)),
        (0, 100, (0, 64)),
        (3, 0, (3, 0)),
    ],
)
def test_a_quarter_of_what_is_drawn_are_objects(objects, background, expected):
    overlap = torch.cat([torch.full((objects,), 0.5), torch.full((background,), 0.4999)])
    found, rest = draw(overlap, 64, 0.25, 0.5, 0.1)
    assert (len(found), len(rest)) == expected
    assert (overlap[found] >= 0.5).all()
    assert (overlap[rest] < 0.5).all()
    assert len({*found.tolist(), *rest.tolist()}) == sum(expected)


def test_background_overlaps_an_object_by_a_tenth_at_least():
    overlap = torch.tensor([0.0999, 0.1, 0.3, 0.4999, 0.5, 1.0])
    found, rest = draw(overlap, 64, 0.25, 0.5, 0.1)
    assert sorted(found.tolist()) == [4, 5]
    assert sorted(rest.tolist()) == [1, 2, 3]


# The network -------------------------------------------------------------------------------------


def test_max_pool_of_a_constant_map_is_constant():
    pooled = small().roi_pool(torch.full((1, 4, 8, 8), 3.0), [torch.tensor([[5.0, 9, 90, 77]])])
    assert pooled.shape == (1, 4, 7, 7)
    assert (pooled == 3).all()


def test_regions_are_max_pooled_at_the_stride_of_the_trunk():
    network = small(stride=8)
    assert isinstance(network.roi_pool, RoIPool)
    features = torch.zeros(1, 1, 8, 8)
    features[0, 0, 3, 5] = 1  # of pixels 40 to 48 across, 24 to 32 down
    region = torch.tensor([[0.0, 0, 48, 48]])  # from cell 0 to cell 6, as the paper's code rounds
    pooled = network.roi_pool(features, [region])
    assert pooled[0, 0].argmax() == 3 * 7 + 5
    assert pooled.sum() == 1


def test_box_code_in_closed_form():
    coder = small().box_coder
    region, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[2.0, 3, 12, 30]])
    code = coder.encode_single(box, region)
    assert code[0].tolist() == pytest.approx([2.0, 3.25, 0.0, 1.5005231])
    assert torch.allclose(coder.decode_single(code, region).reshape(1, 4), box, atol=1e-5)
    assert BOX_WEIGHTS == (10, 10, 5, 5)


def test_multi_task_loss_in_closed_form():
    # Equal logits: the cross-entropy is ln 3. Of two objects one is 0.5 off in one number (smooth
    # L1: 0.125), the other 2 in one and 1 in another (1.5 + 0.5); the mean is over four regions.
    moves, codes = torch.full((4, 3, 4), 9.0), torch.zeros(4, 4)
    moves[0, 1], moves[1, 2] = torch.tensor([0.5, 0, 0, 0]), torch.tensor([2.0, 0, 1, 0])
    found = losses(torch.zeros(4, 3), moves, torch.tensor([1, 2, 0, 0]), codes)
    assert found["loss_classifier"].item() == pytest.approx(torch.log(torch.tensor(3.0)).item())
    assert found["loss_box_reg"].item() == pytest.approx((0.125 + 2.0) / 4)


def test_background_has_no_box_loss():
    moves = torch.randn(5, 3, 4, requires_grad=True)
    found = losses(torch.zeros(5, 3), moves, torch.zeros(5, dtype=torch.int64), torch.randn(5, 4))
    assert found["loss_box_reg"] == 0
    found["loss_box_reg"].backward()
    assert (moves.grad == 0).all()


def test_objects_join_the_regions_and_move_onto_themselves():
    network, (_, target, _) = small(), scene()
    regions, labels, codes = network.sample(torch.zeros(0, 4), target)
    order = labels.argsort()
    assert labels[order].tolist() == [1, 2]
    assert torch.equal(regions[order], target["boxes"])
    assert torch.allclose(codes, torch.zeros(2, 4), atol=1e-6)


def test_samples_of_an_image():
    network, (_, target, regions) = small(regions_per_image=8), scene()
    chosen, labels, codes = network.sample(regions, target)
    iou = box_iou(chosen, target["boxes"])
    best, which = iou.max(1)
    objects = labels > 0
    assert objects.sum() == 2
    assert (labels[objects] == target["labels"][which[objects]]).all()
    assert (best[objects] >= 0.5).all()
    assert ((best[~objects] >= 0.1) & (best[~objects] < 0.5)).all()
    moved = network.box_coder.decode_single(codes, chosen).reshape(-1, 4)
    assert torch.allclose(moved[objects], target["boxes"][which[objects]], atol=1e-3)


def test_images_without_objects_teach_the_background_only_where_all_of_it_is_taken():
    image, _, regions = scene()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for background_iou, trained in ((0.1, False), (0.0, True)):
        network = small(background_iou=background_iou)
        found = network([image], [nothing], [regions])
        assert found["loss_box_reg"] == 0
        assert (found["loss_classifier"] > 0) == trained
        sum(found.values()).backward()
        gradient = network.cls_score.weight.grad
        assert gradient is not None
        assert bool(gradient.any()) == trained


def test_evaluation_without_regions_finds_nothing():
    network = small().eval()
    image, _, regions = scene()
    with torch.no_grad():
        empty, found = network([image, image], None, [torch.zeros(0, 4), regions])
    assert empty["boxes"].shape == (0, 4)
    assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"])


def test_only_the_first_proposals_are_looked_at():
    image, _, regions = scene()
    network = small(max_proposals=3, box_score_thresh=0.0, box_nms_thresh=1.0).eval()
    with torch.no_grad():
        (found,) = network([image], None, [regions])
    assert len(found["boxes"]) == 3 * 2


def test_padding_changes_nothing():
    network, (image, _, regions) = small(box_score_thresh=0.0).eval(), scene()
    larger = torch.zeros(3, 96, 80)
    with torch.no_grad():
        (alone,) = network([image], None, [regions])
        beside, _ = network([image, larger], None, [regions, regions])
    # The trunk sees zeros beyond the image either way, but for its own padding after each layer.
    assert beside["boxes"].shape == alone["boxes"].shape
    assert torch.isfinite(beside["boxes"]).all()
    assert (beside["boxes"][:, 2:] <= 64).all()


def test_non_maximum_suppression_of_each_class_by_itself():
    # Both boxes overlap by 0.5 / 1.5: more than 0.3, less than 0.4.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 5, 10, 15]])[:, None].expand(-1, 2, -1)
    scores = torch.tensor([[0.9, 0.2], [0.8, 0.01]])
    found = best_of_each_class(boxes, scores, 0.05, 0.3, 100)
    assert found["labels"].tolist() == [1, 2]
    assert found["scores"].tolist() == pytest.approx([0.9, 0.2])
    assert len(best_of_each_class(boxes, scores, 0.05, 0.4, 100)["labels"]) == 3
    assert best_of_each_class(boxes, scores, 0.05, 0.4, 2)["scores"].tolist() == pytest.approx(
        [0.9, 0.8]
    )


# Truncated SVD -----------------------------------------------------------------------------------


def test_svd_of_full_rank_is_the_layer():
    layer, x = nn.Linear(12, 7), torch.randn(5, 12)
    assert torch.allclose(truncated_svd(layer, 7)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_svd_is_off_by_the_first_singular_value_that_is_left_out(rank):
    layer = nn.Linear(12, 7)
    first, second = truncated_svd(layer, rank)
    error = second.weight @ first.weight - layer.weight
    left_out = torch.linalg.svdvals(layer.weight)[rank:]
    assert torch.linalg.matrix_norm(error, 2).item() == pytest.approx(left_out[0].item(), rel=1e-4)
    assert error.norm().item() == pytest.approx(left_out.norm().item(), rel=1e-4)
    assert first.weight.shape, second.weight.shape == ((rank, 12), (7, rank))


def test_evaluation_is_compressed_and_follows_the_weights():
    image, _, regions = scene()
    plain = small(box_score_thresh=0.0).eval()
    full = small(box_score_thresh=0.0, svd_ranks=[32, 32]).eval()
    full.load_state_dict(plain.state_dict())
    low = small(box_score_thresh=0.0, svd_ranks=[1, 1]).eval()
    low.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        (expected,), (same,), (other,) = (n([image], None, [regions]) for n in (plain, full, low))
        assert torch.allclose(expected["scores"], same["scores"], atol=1e-5)
        assert not torch.allclose(expected["scores"][:5], other["scores"][:5], atol=1e-5)
    with torch.no_grad():
        for network in (plain, full):
            network.fc7.weight.mul_(3)
            network.fc7.bias.add_(1)
        (expected,), (same,) = plain([image], None, [regions]), full([image], None, [regions])
    assert torch.allclose(expected["scores"], same["scores"], atol=1e-5)
    assert full.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(full.train().fully_connected()[0], nn.Linear)


def test_a_rank_that_a_layer_does_not_have():
    with pytest.raises(UserError, match="33"):
        small(svd_ranks=[33, 1])


def test_vgg16_of_the_paper():
    network = FastRCNN("vgg16", num_classes=20, frozen_to=2)
    assert network.fc6.weight.shape == (4096, 512 * 7 * 7)
    assert network.roi_pool.spatial_scale == 1 / 16
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert [n for n in frozen if n.endswith("weight")] == [
        f"backbone.body.features_{k}.weight" for k in (0, 2, 5, 7)
    ]  # conv1 and conv2: training begins at conv3_1


# The module --------------------------------------------------------------------------------------


def batch_of(count=2):
    scenes = [scene() for _ in range(count)]
    return {
        "image": torch.stack([image for image, _, _ in scenes]).clamp(0, 1),
        "boxes": [target["boxes"] for _, target, _ in scenes],
        "labels": [target["labels"] - 1 for _, target, _ in scenes],
        "iscrowd": [torch.zeros(2, dtype=torch.int64) for _ in scenes],
        "area": [torch.tensor([400.0, 624.0]) for _ in scenes],
        "proposals": [regions for _, _, regions in scenes],
        "id": [str(k) for k in range(count)],
    }


def module_of(network, lr=2e-3):
    return RegionDetector(
        network=network,
        num_classes=2,
        optimizer=AdamW(lr=lr),
        mean=[0.5] * 3,
        std=[0.25] * 3,
        class_names=["bright", "dark"],
    )


def quiet_trainer(**options):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def loader(batch, times=1):
    return torch.utils.data.DataLoader([batch] * times, batch_size=None)


def test_it_learns_two_images_by_heart():
    batch = batch_of()
    module = module_of(small(stride=8, background_iou=0.0))
    trainer = quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(module, loader(batch, 60))
    (measured,) = trainer.validate(module, loader(batch), verbose=False)
    assert measured["val/map_50"] > 0.95


def test_two_steps_a_checkpoint_and_a_prediction(tmp_path):
    batch = batch_of()
    module = module_of(small(svd_ranks=[8, 8]))
    trainer = quiet_trainer(max_steps=2)
    trainer.fit(module, loader(batch, 2))
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    again = module_of(small(svd_ranks=[8, 8]))
    state = torch.load(tmp_path / "state.ckpt", weights_only=True)
    again.load_state_dict(state["state_dict"])
    with torch.no_grad():
        said = module.eval().predict_step(batch, 0)
        assert again.eval().predict_step(batch, 0) == said
    assert [answer["id"] for answer in said] == ["0", "1"]
    assert {"boxes", "labels", "scores"} < said[0].keys()


def test_images_without_proposals_are_searched(monkeypatch):
    asked = []

    def search(image, *, most):
        asked.append((image.shape, image.dtype.name, most))
        return scene()[2].numpy()

    monkeypatch.setattr("lit_imgproc.models.detection.region_module.selective_search", search)
    batch = batch_of()
    del batch["proposals"]
    module = module_of(small(max_proposals=50)).eval()
    with torch.no_grad():
        assert len(module.predict_step(batch, 0)) == 2
    assert asked == [((64, 64, 3), "uint8", 50)] * 2


def test_views_of_an_image_have_proposals_of_their_own(monkeypatch):
    monkeypatch.setattr(
        "lit_imgproc.models.detection.region_module.selective_search",
        lambda image, most: scene()[2].numpy(),
    )
    module = RegionDetector(
        network=small(),
        num_classes=2,
        optimizer=AdamW(lr=1e-3),
        mean=[0.5] * 3,
        std=[0.25] * 3,
        test_time_augmentation="hflip",
    ).eval()
    with torch.no_grad():
        assert len(module.detect(batch_of())) == 2
