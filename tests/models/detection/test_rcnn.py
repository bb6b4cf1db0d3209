import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_imgproc import checkpoints, load_recipe
from lit_imgproc.callbacks.ema import EMA
from lit_imgproc.callbacks.seeding import StepSeed
from lit_imgproc.errors import UserError
from lit_imgproc.models.classification.networks import alexnet
from lit_imgproc.models.classification.networks import test_efficientnet as small_efficientnet
from lit_imgproc.models.classification.networks import test_resnet as small_resnet
from lit_imgproc.models.detection.rcnn import RegionCNN
from lit_imgproc.models.detection.rcnn_fit import Fitted, Study
from lit_imgproc.models.detection.rcnn_module import RCNN
from lit_imgproc.models.detection.ridge import ridge
from lit_imgproc.models.detection.svm import ABSENT, fit_svms
from lit_imgproc.models.detection.warping import warp
from lit_imgproc.optim import AdamW

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# Warping -----------------------------------------------------------------------------------------


def test_a_box_inside_is_warped_with_its_context():
    # One number for each place: 16 of 227 pixels on each side are around the box, so that the box
    # itself, 39 pixels wide and 78 high, takes 195 pixels each way: scales of 5 and 2.5.
    image = torch.stack(torch.meshgrid(torch.arange(200.0), torch.arange(300.0), indexing="ij"))
    (square,) = warp(image, torch.tensor([[100.0, 60, 139, 138]]), 227, 16)
    assert square.shape == (2, 227, 227)
    places = torch.arange(227.0) + 0.5
    down = 60 + (places - 16) * 78 / 195 - 0.5  # pixel k has its centre at k + 0.5
    across = 100 + (places - 16) * 39 / 195 - 0.5
    assert torch.allclose(square[0], down[:, None].expand(227, 227), atol=1e-3)
    assert torch.allclose(square[1], across.expand(227, 227), atol=1e-3)


def test_the_context_of_a_box_at_the_border_is_the_mean():
    image = torch.ones(1, 50, 80)
    boxes = torch.tensor([[0.0, 0, 30, 20], [50, 30, 80, 50], [0, 0, 80, 50]])
    first, last, all_of_it = warp(image, boxes, 227, 16)[:, 0]
    assert (first[:16] == 0).all()
    assert (first[:, :16] == 0).all()
    assert torch.allclose(first[16:, 16:], torch.ones(211, 211))
    assert (last[-16:] == 0).all()
    assert (last[:, -16:] == 0).all()
    assert torch.allclose(last[:-16, :-16], torch.ones(211, 211))
    assert all_of_it.count_nonzero() == 195**2


def test_without_context_the_whole_image_is_the_whole_square():
    image = torch.rand(3, 24, 24)
    (square,) = warp(image, torch.tensor([[0.0, 0, 24, 24]]), 24, 0)
    assert torch.allclose(square, image, atol=1e-5)


# SVMs --------------------------------------------------------------------------------------------


def clusters(*centres, count=60, spread=0.3):
    generator = np.random.default_rng(0)
    return [
        (np.array(c) + spread * generator.standard_normal((count, len(c)))).astype(np.float32)
        for c in centres
    ]


def test_svms_tell_each_class_from_what_is_negative():
    first, second, rest = clusters([4, 0], [0, 4], [-4, -4])
    negative = np.zeros((180, 2), bool)
    negative[60:, 0] = negative[:60, 1] = negative[120:, 1] = True
    weight, bias, figures = fit_svms(
        [first, second], [(np.concatenate([first, second, rest]), negative)], cost=1.0
    )
    for k, (own, other) in enumerate(((first, second), (second, first))):
        assert (own @ weight[k] + bias[k] > 0).all()
        assert (other @ weight[k] + bias[k] < 0).all()
        assert (rest @ weight[k] + bias[k] < 0).all()
    assert figures["accuracy"] == 1


def test_regions_in_between_are_not_learned_from():
    positive, negative, between = clusters([4, 0], [-4, 0], [-4, 6])
    images = [
        (np.concatenate([negative, between]), np.repeat([[True], [False]], 60, axis=0)),
    ]
    weight, bias, _ = fit_svms([positive], images, cost=1.0)
    alone, bias_alone, _ = fit_svms([positive], [(negative, np.ones((60, 1), bool))], cost=1.0)
    assert np.array_equal(weight, alone)
    assert np.array_equal(bias, bias_alone)


def test_mining_finds_planted_false_positives():
    # The first image has easy negatives only; those of later images look like the objects but for
    # the second number, of which the first SVM knows nothing.
    positive, easy, hard = clusters([4, 2], [-4, 2], [4, -2])
    images = [(easy, np.ones((60, 1), bool)), (hard, np.ones((60, 1), bool))]
    naive, naive_bias, _ = fit_svms([positive], images[:1], cost=1.0)
    assert (hard @ naive[0] + naive_bias[0] > 0).mean() > 0.9
    weight, bias, figures = fit_svms([positive], images, cost=1.0)
    assert (hard @ weight[0] + bias[0] < 0).all()
    assert (positive @ weight[0] + bias[0] > 0).all()
    assert 0 < figures["negatives"] < 120  # the easy ones were let go


def test_mining_learns_anew_amid_the_pass():
    positive, easy, hard = clusters([4, 2], [-4, 2], [4, -2])
    seen = []

    def images():
        for features in (easy, hard, hard):
            yield features, np.ones((60, 1), bool)
            seen.append(len(features))

    weight, bias, _ = fit_svms([positive], images(), cost=1.0, retrain_after=10)
    assert seen == [60] * 3  # each image is looked at once
    assert (hard @ weight[0] + bias[0] < 0).all()


def test_a_class_without_objects_is_never_found():
    positive, negative = clusters([4, 0], [-4, 0])
    nothing = np.zeros((0, 2), np.float32)
    weight, bias, figures = fit_svms(
        [nothing, positive], [(negative, np.ones((60, 2), bool))], cost=1.0
    )
    assert bias[0] == ABSENT
    assert (weight[0] == 0).all()
    assert figures["accuracy"] == 1


def test_one_class_without_any_negative_is_everything():
    (positive,) = clusters([4, 0])
    weight, bias, _ = fit_svms([positive], [(positive, np.zeros((60, 1), bool))], cost=1.0)
    assert (positive @ weight[0] + bias[0] > 0).all()


def test_no_objects_at_all():
    nothing = np.zeros((0, 2), np.float32)
    _, bias, figures = fit_svms([nothing], [], cost=1.0)
    assert bias[0] == ABSENT
    assert figures == {"accuracy": 0.0, "negatives": 0.0}


# Regression --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 200])  # fewer rows than columns, and more
def test_ridge_agrees_with_the_closed_form(count):
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((count, 50)), generator.standard_normal((count, 4))
    rows = np.arange(0, count, 2)
    weight, offset = ridge(x.astype(np.float32), rows, y[rows], 3.0)
    own, aim = x[rows] - x[rows].mean(0), y[rows] - y[rows].mean(0)
    expected = np.linalg.solve(own.T @ own + 3 * np.eye(50), own.T @ aim).T
    assert np.allclose(weight, expected, atol=1e-4)
    assert np.allclose(offset, y[rows].mean(0) - weight @ x[rows].mean(0), atol=1e-4)


@pytest.mark.parametrize("count", [30, 3000])  # in one piece, and in several
def test_ridge_recovers_a_linear_map_and_a_constant(count):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((count, 12))
    true = generator.standard_normal((4, 12))
    weight, offset = ridge(x, np.arange(count), x @ true.T + [1, 2, 3, 4], 1e-6)
    assert np.allclose(weight, true, atol=1e-4)
    assert np.allclose(offset, [1, 2, 3, 4], atol=1e-4)
    weight, offset = ridge(x, np.arange(count), np.tile([1.0, 2, 3, 4], (count, 1)), 1000)
    assert np.allclose(weight, 0, atol=1e-6)
    assert np.allclose(offset, [1, 2, 3, 4])


def test_ridge_of_nothing():
    weight, offset = ridge(np.zeros((0, 5)), np.zeros(0, np.int64), np.zeros((0, 4)), 1.0)
    assert weight.shape == (4, 5)
    assert not weight.any()
    assert not offset.any()


def test_a_known_shift_of_all_boxes_is_learned():
    fitted = Fitted(num_classes=2, features=3, cells=8)
    code = torch.tensor([0.2, -0.1, 0.05, 0.3])
    vectors = torch.tensor([[5.0, 0, 0], [0, 5, 0]]).half().repeat(20, 1)
    study = Study(
        features=torch.tensor([[0.0, 0, 5]]).half().repeat(30, 1),
        overlap=torch.zeros(30, 2),
        maps=torch.randn(40, 8).half(),
        codes=code.repeat(40, 1),
        labels=torch.tensor([0, 1]).repeat(20),
    )
    figures = fitted.fit(
        [(vectors, torch.tensor([0, 1]).repeat(20))], [study, study], svm_cost=1.0, box_ridge=1000.0
    )
    assert fitted.done
    assert figures == {"svm_accuracy": 1.0, "svm_negatives": pytest.approx(0, abs=120)} | {
        "moved_regions": 80.0
    }
    moves = fitted.box_weight @ torch.randn(8) + fitted.box_bias
    assert torch.allclose(moves, code.expand(2, 4), atol=1e-4)
    margins = F.linear(vectors.float(), fitted.svm_weight, fitted.svm_bias)
    assert ((margins > 0) == torch.eye(2, dtype=torch.bool).repeat(20, 1)).all()


# The network -------------------------------------------------------------------------------------


def small(trunk=small_resnet, **arguments):
    arguments = {"crop_size": 32, "context": 2, "regions": 24, "svm_cost": 0.01} | arguments
    return RegionCNN(trunk(num_classes=7), 2, **arguments)


def scene(size=64):
    """An image with a bright square and a dark one, and regions on and around them."""
    image = torch.full((3, size, size), 0.5) + 0.02 * torch.randn(3, size, size)
    boxes = torch.tensor([[8.0, 8.0, 28.0, 28.0], [34.0, 30.0, 58.0, 56.0]])
    image[:, 8:28, 8:28] = 1.0
    image[:, 30:56, 34:58] = 0.0
    target = {"boxes": boxes, "labels": torch.tensor([1, 2])}
    moved = (boxes[:, None] + torch.tensor([[3.0, 2, 1, -2], [-3, 3, 2, 4]])).flatten(0, 1)
    corners = torch.rand(20, 2) * 40
    around = torch.cat([corners, corners + 8 + 16 * torch.rand(20, 2)], 1)
    return image.clamp(0, 1), target, torch.cat([moved, around])


@pytest.mark.parametrize("trunk", [small_resnet, small_efficientnet])
def test_what_is_seen_of_a_square_is_what_the_trunk_computes(trunk):
    network = small(trunk).eval()
    crops = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        vectors, logits, maps = network.look(crops)
        assert torch.equal(network.trunk(crops), logits)
        head = network.trunk.get_submodule(network.head)
        assert torch.allclose(head(vectors), logits)
        features = network.trunk.forward_features(crops)
    assert logits.shape == (3, 3)
    assert torch.equal(maps, features.flatten(1))


def test_the_last_pooling_of_alexnet_moves_boxes():
    trunk = alexnet(num_classes=2)
    network = RegionCNN(trunk, 2).eval()
    crops = torch.randn(2, 3, 227, 227)
    with torch.no_grad():
        vectors, _, maps = network.look(crops)
        pooled = trunk.features(crops)
        assert torch.equal(maps, pooled.flatten(1))
        assert torch.equal(vectors, trunk.classifier[:6](pooled.flatten(1)))
    assert network.fitted.box_weight.shape == (2, 4, 9216)
    assert network.fitted.svm_weight.shape == (2, 4096)


def test_samples_are_a_quarter_objects_and_match_their_labels():
    network = small(regions=16)
    image, target, regions = scene()
    twice = [regions, regions[:0]]
    crops, labels = network.sample([image, image], twice, [target, target])
    assert len(crops) == len(labels) == 16
    assert (labels > 0).sum() == 4
    whole = network.warp(image, target["boxes"])
    for crop, label in zip(crops, labels, strict=True):
        if label:  # an object itself, or a region that overlaps it by half
            assert (crop - whole[label - 1]).abs().mean() < 0.2


def test_images_without_objects_and_batches_without_regions():
    network, (image, _, regions) = small(), scene()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    found = network([image], [nothing], [regions])
    assert found["loss_classifier"] > 0
    found = network([image], [nothing], [regions[:0]])
    assert found["loss_classifier"] == 0
    found["loss_classifier"].backward()


def test_softmax_stands_in_until_svms_are_fitted():
    network, (image, _, regions) = small(box_score_thresh=0.0).eval(), scene()
    with torch.no_grad():
        (found,) = network([image], None, [regions])
        _, logits, _ = network.look_at(image, regions)
    assert found["scores"].max() == logits.softmax(1)[:, 1:].max()
    assert all(any(torch.equal(box, own) for own in regions) for box in found["boxes"])


def test_svms_and_moves_are_used_when_they_are_fitted():
    network, (image, target, regions) = small().eval(), scene()
    batch = [(image, target, regions)]
    figures = network.fit(
        [network.objects(i, t) for i, t, _ in batch],
        [network.study(i, r, t) for i, t, r in batch],
    )
    assert figures["moved_regions"] > 0
    with torch.no_grad():
        (found,) = network([image], None, [regions])
        vectors, _, maps = network.look_at(image, regions)
    fitted = network.fitted
    margins = vectors @ fitted.svm_weight.T + fitted.svm_bias
    assert found["scores"].max().item() == pytest.approx(margins.max().sigmoid().item(), abs=1e-5)
    best, label = divmod(int(margins.argmax()), 2)
    left, top, right, bottom = regions[best].tolist()
    dx, dy, dw, dh = (fitted.box_weight[label] @ maps[best] + fitted.box_bias[label]).tolist()
    width, height = right - left, bottom - top
    x, y = left + width / 2 + dx * width, top + height / 2 + dy * height
    width, height = width * np.exp(dw), height * np.exp(dh)
    box = torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    assert torch.allclose(found["boxes"][0], box.clamp(0, 64).float(), atol=1e-2)


def test_studies_tell_negatives_and_what_is_moved():
    network, (image, target, _) = small().eval(), scene()
    # IoU with the first object: 1, 0.8, 0.25, 0.
    regions = torch.tensor([[8.0, 8, 28, 28], [8, 8, 24, 28], [8, 8, 13, 28], [0, 0, 5, 5]])
    study = network.study(image, regions, target)
    assert study.overlap[:, 0].tolist() == pytest.approx([1, 0.8, 0.25, 0])
    assert study.overlap[:, 1].tolist() == [0] * 4
    assert study.labels.tolist() == [0, 0]
    assert study.codes[1].tolist() == pytest.approx([0.125, 0, np.log(1.25), 0], abs=1e-6)
    assert study.features.dtype == study.maps.dtype == torch.float16
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    study = network.study(image, regions, nothing)
    assert (study.overlap == 0).all()
    assert study.codes.shape == (0, 4)


def test_no_regions_nothing_found():
    network = small().eval()
    with torch.no_grad():
        (found,) = network([scene()[0]], None, [torch.zeros(0, 4)])
    assert found["boxes"].shape == (0, 4)


def test_more_context_than_square():
    with pytest.raises(UserError, match="leaves nothing"):
        small(context=16)


def test_a_trunk_whose_last_layer_is_not_linear():
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3))
    trunk.pretrained_cfg = {"classifier": "0", "first_conv": "0"}
    with pytest.raises(UserError, match="not linear"):
        RegionCNN(trunk, 2)


# The module --------------------------------------------------------------------------------------


class Scenes(pl.LightningDataModule):
    """Eight scenes, of which training sees batches of four."""

    batch_size = 4
    on_error = "stop"

    def __init__(self):
        super().__init__()
        self.scenes = [scene() for _ in range(8)]

    def splits(self):
        return {"train": 8, "val": 8}

    def batch(self, split, indices):
        image, target, regions = zip(*(self.scenes[i] for i in indices), strict=True)
        return {
            "image": torch.stack(image),
            "boxes": [one["boxes"] for one in target],
            "labels": [one["labels"] - 1 for one in target],
            "iscrowd": [torch.zeros(2, dtype=torch.int64) for _ in target],
            "area": [torch.tensor([400.0, 624.0]) for _ in target],
            "proposals": list(regions),
            "id": [str(i) for i in indices],
        }

    def train_dataloader(self):
        batches = [self.batch("train", range(k, k + 4)) for k in (0, 4)]
        return torch.utils.data.DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


def module_of(network=None, lr=2e-3):
    return RCNN(
        network=network or small(box_ridge=1.0),
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
        num_sanity_val_steps=0,
        **options,
    )


class Seen(pl.Callback):
    """Whether SVMs were there at each validation."""

    def __init__(self):
        self.at_validation = []

    def on_validation_start(self, trainer, pl_module):
        self.at_validation.append(bool(pl_module.network.fitted.done))


def test_all_stages_learn_eight_images_by_heart():
    module, data, seen = module_of(), Scenes(), Seen()
    trainer = quiet_trainer(max_epochs=12, check_val_every_n_epoch=12, callbacks=[seen])
    trainer.fit(module, data)
    assert seen.at_validation == [True]
    assert trainer.callback_metrics["val/map_50"] > 0.95
    assert trainer.callback_metrics["train/svm_accuracy"] > 0.95
    assert trainer.callback_metrics["train/moved_regions"] > 8
    assert all(layer.training for layer in module.network.modules())
    # Moving boxes made them better than the regions that were proposed.
    with torch.no_grad():
        module.eval()
        batch = data.batch("train", range(8))
        moved = module.detect(batch)
        module.network.fitted.box_weight.zero_()
        module.network.fitted.box_bias.zero_()
        as_they_were = module.detect(batch)
    assert distance(moved, batch) < distance(as_they_were, batch)


def distance(found, batch):
    """How far the best detection of each class is from its object, in pixels."""
    away = []
    for one, boxes in zip(found, batch["boxes"], strict=True):
        for k, box in enumerate(boxes):
            own = one["boxes"][one["labels"] == k]
            away.append((own[0] - box).abs().mean() if len(own) else 64.0)
    return float(torch.tensor(away).mean())


def test_svms_are_fitted_before_each_validation_and_let_go_by_training():
    module, data, seen = module_of(), Scenes(), Seen()
    quiet_trainer(max_epochs=3, check_val_every_n_epoch=2, callbacks=[seen]).fit(module, data)
    assert seen.at_validation == [True]
    assert module.network.fitted.done  # at the end of the last epoch, too
    batch = module.on_after_batch_transfer(data.batch("train", [0]), 0)
    module.log = module.log_dict = lambda *_, **__: None
    module.training_step(batch, 0)
    assert not module.network.fitted.done


def test_steps_may_end_a_training_amid_an_epoch():
    module = module_of()
    quiet_trainer(max_steps=3).fit(module, Scenes())
    assert module.network.fitted.done


def test_a_checkpoint_holds_the_svms_and_predicts_the_same(tmp_path):
    module, data = module_of(), Scenes()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    again = module_of()
    again.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True)["state_dict"])
    batch = data.batch("val", range(4))
    with torch.no_grad():
        said = module.eval().predict_step(batch, 0)
        assert again.eval().predict_step(batch, 0) == said
    assert again.network.fitted.done


def test_a_training_that_goes_on_ends_with_the_same_svms(tmp_path):
    data, state = Scenes(), tmp_path / "state.ckpt"

    def trained(epochs, checkpoint=None):
        torch.manual_seed(0)
        module = module_of()
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[StepSeed(0)])
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        return trainer, module.state_dict()

    _, straight = trained(2)
    trainer, _ = trained(1)
    trainer.save_checkpoint(state)
    _, resumed = trained(2, state)
    assert straight["network.fitted.done"]
    assert straight["network.fitted.svm_weight"].any()
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_two_ranks_fit_what_one_does(store):
    options = (
        "model.network.frozen_norms=true", "model.optimizer={name: sgd, lr: 1e-9, momentum: 0}",
        "data.aspect_grouping=false", "data.resize=squash", "trainer.limit_train_batches=3",
        f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}",
    )  # fmt: skip
    runs = [
        load_recipe("detection/rcnn_bccd", *options, *more, toy=True).train()
        for more in (["data.batch_size=4"], ["data.batch_size=2", "trainer.devices=2"])
    ]
    one, two = (checkpoints.read(run.last_checkpoint())["state_dict"] for run in runs)
    fitted = [name for name in one if name.startswith("network.fitted.")]
    assert one["network.fitted.done"]
    assert one["network.fitted.svm_weight"].any()
    for name in fitted:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


def test_it_needs_a_datamodule_and_no_average():
    loader = Scenes().train_dataloader()
    with pytest.raises(UserError, match="datamodule"):
        quiet_trainer(max_epochs=1).fit(module_of(), loader)
    with pytest.raises(UserError, match="ema"):
        quiet_trainer(max_epochs=1, callbacks=[EMA()]).fit(module_of(), Scenes())
