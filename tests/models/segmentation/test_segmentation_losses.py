"""The losses, against values known in closed form, their definitions and reference libraries."""

import math

import pytest
import torch
import torch.nn.functional as F

from lit_imgproc.errors import UserError
from lit_imgproc.models.segmentation.losses import SegmentationLoss

NAMES = ["cross_entropy", "dice", "focal", "tversky", "lovasz"]


def loss(name, **arguments):
    return SegmentationLoss({name: 1.0}, **arguments)


def sample(*shape, classes=4, seed=0, ignored=0.2, dtype=torch.float32):
    """Logits ``[B, K, *S]`` and a mask ``[B, *S]``."""
    torch.manual_seed(seed)
    batch, *space = shape
    logits = 2 * torch.randn(batch, classes, *space, dtype=dtype)
    mask = torch.randint(classes, shape)
    mask[torch.rand(shape) < ignored] = 255
    return logits, mask


def sure(mask, classes):
    """Logits of which the softmax is 1 at the classes of a mask, and 0 elsewhere."""
    return 1e4 * F.one_hot(mask, classes).movedim(-1, 1).float()


def chances(*rows):
    """Logits of two classes with the given probabilities of the second."""
    probability = torch.tensor(rows)[None]
    return torch.stack([1 - probability, probability], 1).log()


# Values known in closed form


def test_dice_of_squares_that_overlap_by_half():
    true, found = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    true[:, 0:2, 0:2], found[:, 0:2, 1:3] = 1, 1
    object_dice, background_dice = 0.5, 2 * 10 / 24
    expected = 1 - (object_dice + background_dice) / 2
    assert loss("dice")(sure(found, 2), true) == pytest.approx(expected)
    # And of the object alone, where the background is not asked.
    only = true.clone()
    only[true == 0] = 255
    assert loss("dice")(sure(found, 2), only) == pytest.approx(1 - 2 * 2 / (2 + 4))


def test_tversky_counts_what_is_too_much_and_what_is_missed():
    # Class 1: one right, two too much, one missed. Class 0: one right, one too much, two missed.
    true, found = torch.tensor([[[1, 1, 0, 0, 0]]]), torch.tensor([[[1, 0, 1, 1, 0]]])
    first, second = 1 / (1 + 0.2 * 1 + 0.6 * 2), 1 / (1 + 0.2 * 2 + 0.6 * 1)
    ours = loss("tversky", tversky_alpha=0.2, tversky_beta=0.6)
    assert ours(sure(found, 2), true) == pytest.approx(1 - (first + second) / 2)


def test_soft_dice_has_no_squares():
    logits, mask = chances([0.8, 0.6], [0.3, 0.0]), torch.tensor([[[1, 1], [0, 0]]])
    object_dice, background_dice = 2 * 1.4 / (1.7 + 2), 2 * 1.7 / (2.3 + 2)
    assert loss("dice")(logits, mask) == pytest.approx(1 - (object_dice + background_dice) / 2)


def test_focal_of_one_pixel():
    value = loss("focal", focal_gamma=1.5)(chances([0.3]), torch.tensor([[[1]]]))
    assert value == pytest.approx((1 - 0.3) ** 1.5 * -math.log(0.3))


def test_cross_entropy_of_no_idea():
    _, mask = sample(2, 5, 6, classes=7)
    assert loss("cross_entropy")(torch.zeros(2, 7, 5, 6), mask) == pytest.approx(math.log(7))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(3, 6, 5), (2, 3, 4, 5)])
def test_lovasz_of_hard_predictions_is_1_less_the_iou(seed, shape):
    _, mask = sample(*shape, seed=seed)
    _, found = sample(*shape, seed=seed + 100, ignored=0)
    mask[mask == 3] = 0  # found, but not there: no score of its own
    counted = mask != 255
    scores = []
    for k in range(3):
        true, said = (mask == k) & counted, (found == k) & counted
        scores.append(1 - (true & said).sum() / (true | said).sum())
    expected = torch.stack(scores).mean()
    torch.testing.assert_close(loss("lovasz")(sure(found, 4), mask), expected)


def extension(probability, truth):
    """The Lovász extension of 1 - IoU as it is defined, with sets."""
    pixels = range(len(truth))
    errors = [abs(float(truth[i]) - float(probability[i])) for i in pixels]
    there = {i for i in pixels if truth[i]}

    def jaccard_loss(wrong):
        """Where the pixels ``wrong`` are said to be what they are not."""
        said = {i for i in pixels if bool(truth[i]) != (i in wrong)}
        return 1 - len(there & said) / len(there | said)

    total, wrong, before = 0.0, set(), 0.0
    for i in sorted(pixels, key=lambda i: -errors[i]):
        wrong.add(i)
        now = jaccard_loss(wrong)
        total, before = total + errors[i] * (now - before), now
    return total


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_of_soft_predictions_is_the_extension(seed):
    logits, mask = sample(2, 4, 5, classes=3, seed=seed, dtype=torch.float64)
    counted = mask != 255
    probabilities = logits.softmax(1).movedim(1, -1)[counted]
    expected = [extension(probabilities[:, k], mask[counted] == k) for k in range(3)]
    assert loss("lovasz")(logits, mask).item() == pytest.approx(sum(expected) / 3)


def test_lovasz_gradients_keep_their_digits_among_many_pixels():
    # Increments of the IoU are about 1e-6 here: differences of float32 would be off by percents.
    logits, mask = sample(1, 700, 1000, classes=2, ignored=0)
    gradients = []
    for given in (logits, logits.double()):
        given.requires_grad_()
        loss("lovasz")(given, mask).backward()
        gradients.append(given.grad.double())
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert error < 1e-4


# What the losses are to each other, and to reference implementations


def test_tversky_of_halves_is_dice():
    logits, mask = sample(2, 7, 6)
    half = loss("tversky", tversky_alpha=0.5, tversky_beta=0.5)
    assert half(logits, mask) == loss("dice")(logits, mask)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 3.0, 1.0, 0.0])])
def test_focal_without_focus_is_cross_entropy(weights):
    logits, mask = sample(2, 7, 6)
    focal = loss("focal", focal_gamma=0.0, class_weights=weights)
    plain = loss("cross_entropy", class_weights=weights)
    assert focal(logits, mask) == plain(logits, mask)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 3.0, 1.0, 0.0])])
@pytest.mark.parametrize("shape", [(2, 7, 6), (2, 3, 4, 5)])
def test_cross_entropy_is_torchs(weights, shape):
    logits, mask = sample(*shape)
    torch.testing.assert_close(
        loss("cross_entropy", class_weights=weights)(logits, mask),
        F.cross_entropy(logits, mask, weight=weights, ignore_index=255),
    )


@pytest.mark.parametrize("shape", [(2, 7, 6), (2, 3, 4, 5)])
def test_dice_is_monais(shape):
    losses = pytest.importorskip("monai.losses")
    logits, mask = sample(*shape, ignored=0)
    theirs = losses.DiceLoss(
        to_onehot_y=True, softmax=True, batch=True, smooth_nr=0.0, smooth_dr=1e-8
    )
    torch.testing.assert_close(loss("dice")(logits, mask), theirs(logits, mask[:, None]))


def test_dice_with_ignored_pixels_is_monais():
    losses = pytest.importorskip("monai.losses")
    logits, mask = sample(2, 7, 6)
    theirs = losses.DiceLoss(
        to_onehot_y=True, softmax=True, batch=True, smooth_nr=0.0, smooth_dr=1e-8, ignore_index=255
    )
    torch.testing.assert_close(loss("dice")(logits, mask), theirs(logits, mask[:, None]))


def test_tversky_is_monais():
    losses = pytest.importorskip("monai.losses")
    logits, mask = sample(2, 7, 6, ignored=0)
    theirs = losses.TverskyLoss(
        to_onehot_y=True, softmax=True, batch=True, alpha=0.3, beta=0.7, smooth_nr=0, smooth_dr=1e-8
    )
    torch.testing.assert_close(loss("tversky")(logits, mask), theirs(logits, mask[:, None]))


@pytest.mark.parametrize("ours", ["dice", "tversky", "lovasz"])
@pytest.mark.parametrize("shape", [(2, 7, 6), (2, 3, 4, 5)])
def test_where_every_class_is_there_as_segmentation_models_pytorch(ours, shape):
    theirs = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, mask = sample(*shape)
    reference = {
        "dice": theirs.DiceLoss("multiclass", ignore_index=255),
        "tversky": theirs.TverskyLoss("multiclass", ignore_index=255, alpha=0.3, beta=0.7),
        "lovasz": theirs.LovaszLoss("multiclass", ignore_index=255),
    }[ours]
    torch.testing.assert_close(loss(ours)(logits, mask), reference(logits, mask))


# What is ignored, and what is not there


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 7, 6), (2, 3, 4, 5)])
def test_ignored_pixels_change_nothing(name, shape):
    logits, mask = sample(*shape)
    other = torch.where((mask == 255).unsqueeze(1), 100 * torch.randn_like(logits), logits)
    torch.testing.assert_close(loss(name)(other, mask), loss(name)(logits, mask))
    logits.requires_grad_()
    loss(name)(logits, mask).backward()
    assert (logits.grad.movedim(1, -1)[mask == 255] == 0).all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 7, 6), (2, 3, 4, 5)])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 3.0, 1.0, 0.0])])
def test_nothing_asked_is_no_loss(name, shape, weights):
    logits, mask = sample(*shape)
    logits.requires_grad_()
    value = loss(name, class_weights=weights)(logits, torch.full_like(mask, 255))
    value.backward()
    assert value == 0
    assert value.shape == ()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_weights_of_zero_everywhere_are_no_loss(name):
    logits, mask = sample(2, 7, 6)
    logits.requires_grad_()
    value = loss(name)(logits, mask, torch.zeros(2, 7, 6))
    value.backward()
    assert value == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_single_class_is_no_question(name):
    logits, mask = sample(2, 7, 6, classes=1)
    logits.requires_grad_()
    value = loss(name)(logits, mask)
    value.backward()
    assert value == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", ["dice", "tversky", "lovasz"])
def test_classes_that_are_not_there_do_not_dilute_regions(name):
    logits, mask = sample(2, 7, 6, classes=3)
    more = torch.cat([logits, torch.full((2, 18, 7, 6), -1e4)], 1)
    torch.testing.assert_close(loss(name)(more, mask), loss(name)(logits, mask))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_of_a_class_that_is_not_there_is_learned_from(name):
    mask = torch.zeros(1, 4, 4, dtype=torch.int64)
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss(name)(logits, mask).backward()
    assert (logits.grad[:, 1] > 0).all()
    assert (logits.grad[:, 0] < 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_all_right_is_no_loss(name):
    _, mask = sample(2, 7, 6, ignored=0)
    assert loss(name)(sure(mask, 4), mask) == pytest.approx(0, abs=1e-6)


# Gradients and precision


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 2)])
def test_gradients_are_those_of_the_value(name, shape):
    logits, mask = sample(*shape, classes=3, dtype=torch.float64)
    weight = torch.rand(shape, dtype=torch.float64)
    ours = loss(name, class_weights=torch.tensor([0.5, 1.0, 2.0]))
    assert torch.autograd.gradcheck(lambda x: ours(x, mask, weight), logits.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradients_are_finite_where_a_network_is_sure(name, right, gamma):
    _, mask = sample(2, 7, 6, ignored=0)
    logits = sure(mask if right else (mask + 1) % 4, 4).requires_grad_()
    value = loss(name, focal_gamma=gamma)(logits, mask)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    # 90,000 pixels: a sum of them is infinite in float16 and stays at 256 in bfloat16.
    logits, mask = sample(1, 300, 300)
    half, weight = logits.to(dtype).requires_grad_(), torch.rand(1, 300, 300)
    with torch.autocast("cpu", dtype):
        value = loss(name)(half, mask, weight)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(name)(half.detach().float(), mask, weight))
    value.backward()
    assert half.grad.isfinite().all()


# Weights


def test_parts_add_up_by_their_weights():
    logits, mask = sample(2, 7, 6)
    shares = {"cross_entropy": 0.5, "dice": 2.0, "lovasz": 1.5}
    both = SegmentationLoss(shares)
    parts = both.parts(logits, mask)
    assert list(parts) == list(shares)
    for name, share in shares.items():
        torch.testing.assert_close(parts[name], share * loss(name)(logits, mask))
    torch.testing.assert_close(both(logits, mask), sum(parts.values()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 3.0, 1.0, 0.0])])
def test_a_weight_map_of_one_number_is_none(name, weights):
    logits, mask = sample(2, 7, 6)
    ours = loss(name, class_weights=weights)
    for number in (1.0, 7.0):
        weighted = ours(logits, mask, torch.full((2, 7, 6), number))
        torch.testing.assert_close(weighted, ours(logits, mask))


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_a_weight_map_says_how_often_a_pixel_counts(name):
    logits, mask = sample(1, 2, 6, ignored=0)
    times = torch.tensor([[[1, 3, 0, 2, 1, 1], [0, 0, 5, 1, 2, 1]]])
    often = times.flatten()
    repeated = [x.flatten(-2).repeat_interleave(often, -1) for x in (logits, mask)]
    weights = torch.tensor([0.2, 3.0, 1.0, 0.5])
    ours = loss(name, class_weights=weights)
    torch.testing.assert_close(ours(logits, mask, times.float()), ours(*repeated))


def test_class_weights_are_of_a_device_and_not_of_a_checkpoint():
    ours = loss("cross_entropy", class_weights=torch.ones(3))
    assert not ours.state_dict()
    assert dict(ours.named_buffers()).keys() == {"class_weights"}


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({}, "loss: has no parts; give at least one of cross_entropy, dice"),
        ({"dice": 0.0}, r"loss\.dice: 0\.0 is not a weight"),
        ({"dice": -1.0}, r"loss\.dice: -1\.0 is not a weight"),
        ({"focal": math.nan}, r"loss\.focal: nan is not a weight"),
        ({"focal": math.inf}, r"loss\.focal: inf is not a weight"),
        ({"dise": 1.0, "focal": 1.0}, r"loss\.dise: there is no such part; allowed: cross_entropy"),
    ],
)
def test_parts_that_cannot_be(parts, told):
    with pytest.raises(UserError, match=told):
        SegmentationLoss(parts)
