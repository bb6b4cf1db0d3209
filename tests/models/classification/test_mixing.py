import pytest
import torch
import torch.nn.functional as F

from lit_imgproc.models.classification.mixing import Mixing


def batch(seed=0):
    torch.manual_seed(seed)
    return torch.rand(6, 3, 16, 12), torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_soft_labels_sum_to_one(alphas):
    image, label = batch()
    mixed, soft = Mixing(*alphas, num_classes=4)(image, label)
    assert mixed.shape == image.shape
    assert soft.shape == (6, 4)
    torch.testing.assert_close(soft.sum(1), torch.ones(6))


def test_mixup_mixes_images_and_labels_with_one_share():
    image, label = batch()
    mixed, soft = Mixing(0.4, 0.0, num_classes=4)(image, label)
    share = soft[1, 1]  # image 0, of class 0, is mixed into image 1, of class 1
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * image + (1 - share) * image.roll(1, 0))
    one_hot = F.one_hot(label, 4).float()
    torch.testing.assert_close(soft, share * one_hot + (1 - share) * one_hot.roll(1, 0))


def test_loss_of_mixed_labels_is_the_mixed_loss():
    image, label = batch()
    _, soft = Mixing(0.4, 0.0, num_classes=4)(image, label)
    share = soft[1, 1]
    logits = torch.randn(6, 4)
    expected = share * F.cross_entropy(logits, label)
    expected += (1 - share) * F.cross_entropy(logits, label.roll(1))
    torch.testing.assert_close(F.cross_entropy(logits, soft), expected)


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_labels_are_the_share_of_pixels_kept(seed):
    torch.manual_seed(seed)
    image = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 16, 12)
    mixed, soft = Mixing(0.0, 1.0, num_classes=2)(image, torch.tensor([0, 1]))
    kept = (mixed == image).float().mean((1, 2, 3))
    torch.testing.assert_close(soft[[0, 1], [0, 1]], kept)


def test_alpha_near_zero_changes_nothing():
    image, label = batch()
    one_hot = F.one_hot(label, 4).float()
    mixing = Mixing(0.005, 0.0, num_classes=4)
    unmixed = 0
    for _ in range(50):  # Beta draws next to 0 or 1: each batch is all one image, whichever.
        mixed, soft = mixing(image, label)
        for x, y in ((image, one_hot), (image.roll(1, 0), one_hot.roll(1, 0))):
            unmixed += torch.allclose(mixed, x, atol=1e-3) and torch.allclose(soft, y, atol=1e-3)
    assert unmixed > 40


def test_each_batch_draws_one_of_the_two():
    mixing = Mixing(0.4, 1.0, num_classes=4)
    image, label = batch()
    untouched = [(mixing(image, label)[0] == image).any().item() for _ in range(20)]
    assert set(untouched) == {True, False}  # CutMix leaves pixels as they were, mixup none


@pytest.mark.parametrize("mixing", [Mixing(0.4, 1.0, 4, probability=0.0), Mixing(0.0, 0.0, 4)])
def test_unmixed_batches_have_labels_of_the_same_form(mixing):
    image, label = batch()
    same, soft = mixing(image, label)
    assert same is image
    torch.testing.assert_close(soft, F.one_hot(label, 4).float())
    multi_hot = torch.tensor([[1, 1, 0, 0]] * 6)
    assert mixing(image, multi_hot)[1].dtype == torch.float32


def test_multi_hot_labels_mix_too():
    image, _ = batch()
    labels = torch.eye(6, 4) + torch.eye(6, 4).roll(1, 1)
    mixed, soft = Mixing(0.4, 0.0, num_classes=4)(image, labels)
    share = (mixed[1] - image[0]).sum() / (image[1] - image[0]).sum()
    torch.testing.assert_close(soft, share * labels + (1 - share) * labels.roll(1, 0))


def test_draws_are_torchs():
    image, label = batch()
    mixing = Mixing(0.4, 1.0, num_classes=4)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(mixing(image, label))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_nothing_to_save():
    assert not Mixing(0.4, 1.0, num_classes=4).state_dict()
