import pytest
import torch

from lit_imgproc.models.style_transfer.losses import (
    content_loss,
    gram,
    statistics_loss,
    style_loss,
    total_variation,
)
from lit_imgproc.models.style_transfer.networks import (
    Statistics,
    adaptive_instance_norm,
    channel_statistics,
)


def test_the_gram_matrix_of_ones_is_one_over_the_channels():
    torch.testing.assert_close(gram(torch.ones(1, 2, 4, 4)), torch.full((1, 2, 2), 0.5))


def test_the_gram_matrix_is_that_of_a_loop_over_pixels():
    features = torch.randn(2, 3, 4, 5)
    by_hand = torch.stack(
        [
            sum(torch.outer(image[:, y, x], image[:, y, x]) for y in range(4) for x in range(5))
            for image in features
        ]
    ) / (3 * 4 * 5)
    torch.testing.assert_close(gram(features), by_hand)


def test_a_gram_matrix_does_not_depend_on_where_things_are_or_how_many_there_are():
    features = torch.randn(1, 3, 4, 4)
    shuffled = features.flatten(2)[:, :, torch.randperm(16)].view_as(features)
    torch.testing.assert_close(gram(shuffled), gram(features))
    torch.testing.assert_close(gram(features.repeat(1, 1, 2, 3)), gram(features))


def test_style_loss_of_the_style_itself_is_nothing_and_of_nothing_is_one():
    features = torch.randn(1, 3, 4, 4)
    target = {"relu1_1": gram(features)[0]}
    assert style_loss({"relu1_1": features}, target, {"relu1_1": 1.0}) < 1e-12
    blank = {"relu1_1": torch.zeros(1, 3, 4, 4)}
    assert style_loss(blank, target, {"relu1_1": 1.0}) == pytest.approx(1)
    assert style_loss(blank, target, {"relu1_1": 0.3}) == pytest.approx(0.3)


def test_twice_the_activations_are_nine_times_the_style_loss():
    features = torch.randn(2, 3, 4, 4)
    one = gram(features[:1])[0]
    loss = style_loss({"a": 2 * features[:1]}, {"a": one}, {"a": 1.0})  # a gram is squared: 4 - 1
    assert float(loss) == pytest.approx(9, rel=1e-5)


def test_content_loss_is_relative_to_the_content():
    content = torch.randn(2, 3, 4, 4)
    assert content_loss({"a": content}, {"a": content}) == 0
    assert float(content_loss({"a": 3 * content}, {"a": content})) == pytest.approx(4)
    scaled = content_loss({"a": 3e3 * content, "b": content}, {"a": 1e3 * content})
    assert float(scaled) == pytest.approx(4)


def test_total_variation_of_a_constant_is_nothing_and_of_a_chequered_image_all_there_can_be():
    assert total_variation(torch.full((1, 3, 5, 6), 0.7)) == 0
    board = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    assert total_variation(board.float().expand(2, 3, 6, 6)) == 2


def test_adain_gives_features_the_statistics_of_the_style():
    content, style = torch.randn(2, 4, 6, 6) * 3 + 1, torch.randn(2, 4, 9, 5) * 0.5 - 2
    wanted = channel_statistics(style)
    styled = adaptive_instance_norm(content, wanted)
    found = channel_statistics(styled)
    torch.testing.assert_close(found.mean, wanted.mean)
    torch.testing.assert_close(found.std, wanted.std, rtol=1e-4, atol=1e-4)
    assert statistics_loss({"a": styled}, {"a": wanted}) < 1e-8
    torch.testing.assert_close(
        adaptive_instance_norm(content, channel_statistics(content)), content
    )


def test_statistics_loss_counts_means_and_deviations_alike():
    wanted = Statistics(torch.full((1, 2, 1, 1), 2.0), torch.full((1, 2, 1, 1), 3.0))
    constant = torch.full((1, 2, 4, 4), 2.0)  # of the right mean, with a deviation of almost 0
    assert float(statistics_loss({"a": constant}, {"a": wanted})) == pytest.approx(1, rel=1e-2)
