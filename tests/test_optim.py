import math

import pytest
import torch
from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.optim import (
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    OneCycle,
    Poly,
    RMSprop,
    Step,
    parameter_groups,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


def rates(schedule, steps, *, total, per_epoch, lr=1.0):
    """The learning rates that an optimizer really has, step by step."""
    optimizer = SGD(lr=lr).build([nn.Parameter(torch.zeros(1))])
    scheduler = schedule.build(optimizer, total, per_epoch)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


# Optimizers


PAIRS = [
    (SGD(lr=0.1, momentum=0.9, weight_decay=0.01), torch.optim.SGD, {"momentum": 0.9}),
    (
        SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    (Adam(lr=0.1, betas=(0.8, 0.9), weight_decay=0.01), torch.optim.Adam, {"betas": (0.8, 0.9)}),
    (AdamW(lr=0.1, eps=1e-3, weight_decay=0.01), torch.optim.AdamW, {"eps": 1e-3}),
    (
        RMSprop(lr=0.1, momentum=0.9, alpha=0.9, eps=1.0, weight_decay=0.01),
        torch.optim.RMSprop,
        {"momentum": 0.9, "alpha": 0.9, "eps": 1.0},
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS)
def test_moves_as_torchs_own(ours, theirs, arguments):
    # No norm after a layer with a bias: its gradient is noise round zero, which Adam blows up.
    mine, reference = (nn.Sequential(*list(network())[:1], *list(network())[2:]) for _ in "ab")
    built = ours.build(mine.parameters())
    plain = theirs(reference.parameters(), lr=0.1, weight_decay=0.01, foreach=False, **arguments)
    images = torch.randn(5, 3, 8, 8)
    for _ in range(3):
        for net, optimizer in ((mine, built), (reference, plain)):
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()
    for a, b in zip(mine.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), Adam(lr=0.1), AdamW(lr=0.1)])
def test_fused_and_yet_clippable_under_mixed_precision(optimizer):
    built = optimizer.build(network().parameters())
    assert built.defaults["fused"]
    assert not built._step_supports_amp_scaling  # what Lightning asks before it clips


def test_sgd_updates_sharded_parameters(tmp_path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        sharded = nn.Linear(3, 2)
        before = sharded.weight.detach().clone()
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        optimizer = SGD(lr=0.5).build(parameter_groups(sharded, lr=0.5, weight_decay=0.0))
        sharded(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        torch.testing.assert_close(sharded.weight.full_tensor(), before - 0.5)
    finally:
        distributed.destroy_process_group()


def test_what_a_group_sets_wins():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    built = AdamW(lr=0.1).build([{"params": [a], "lr": 0.3, "weight_decay": 0.0}, {"params": [b]}])
    assert [(g["lr"], g["weight_decay"]) for g in built.param_groups] == [(0.3, 0.0), (0.1, 0.01)]


def test_nesterov_needs_momentum():
    with pytest.raises(UserError, match="momentum"):
        SGD(lr=0.1, momentum=0.0, nesterov=True)


# Parameter groups


def test_norms_and_biases_do_not_decay():
    net = network()
    groups = {g["name"]: g for g in parameter_groups(net, lr=0.1, weight_decay=0.05)}
    decay, spared = groups["layer0/decay"], groups["layer0/no_decay"]
    assert [id(p) for p in decay["params"]] == [id(net[0].weight), id(net[3].weight)]
    assert [id(p) for p in spared["params"]] == [
        id(p) for p in (net[0].bias, net[1].weight, net[1].bias, net[3].bias)
    ]
    assert (decay["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)


def test_what_the_network_spares_does_not_decay():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
            self.head = nn.Linear(2, 2)

        def no_weight_decay(self):
            return {"pos_embed"}

    net = Tokens()
    spared, decay = parameter_groups(net, lr=0.1, weight_decay=0.05)
    assert [id(p) for p in decay["params"]] == [id(net.head.weight)]
    assert [id(p) for p in spared["params"]] == [id(net.pos_embed), id(net.head.bias)]


def test_frozen_parameters_are_left_out():
    net = network()
    net[0].requires_grad_(False)
    groups = parameter_groups(net, lr=0.1, weight_decay=0.05)
    assert sum(len(g["params"]) for g in groups) == 4


def test_layer_decay_lowers_the_rate_towards_the_stem():
    net = network()
    layers = [["0.weight", "0.bias"], ["1.weight", "1.bias"], ["3.weight", "3.bias"]]
    groups = parameter_groups(net, lr=0.1, weight_decay=0.05, layer_groups=layers, layer_decay=0.5)
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(rate) == 6
    for factor, module in ((0.25, net[0]), (0.5, net[1]), (1.0, net[3])):
        assert [rate[id(p)] for p in module.parameters()] == pytest.approx([0.1 * factor] * 2)


def test_layer_groups_must_be_whole():
    for layers in ([["0.weight"]], [[n for n, _ in network().named_parameters()], ["0.weight"]]):
        with pytest.raises(ValueError, match="exactly once"):
            parameter_groups(
                network(), lr=0.1, weight_decay=0.0, layer_groups=layers, layer_decay=0.5
            )


# Schedules


def test_cosine_values():
    expected = [1, 0.9755, 0.9045, 0.7939, 0.6545, 0.5, 0.3455, 0.2061, 0.0955, 0.0245, 0, 0]
    assert rates(Cosine(), 12, total=10, per_epoch=5) == pytest.approx(expected, abs=5e-5)


def test_cosine_after_warmup_to_a_final_rate():
    schedule = Cosine(warmup_epochs=0.5, warmup_start=0.2, final=0.1)
    seen = rates(schedule, 15, total=14, per_epoch=8, lr=2.0)
    assert seen[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert seen[9] == pytest.approx(2 * (0.1 + 0.9 / 2))  # half way down
    assert seen[14] == pytest.approx(0.2)


def test_cosine_is_torchs():
    optimizer = SGD(lr=0.3).build([nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=17, eta_min=0.03)
    expected = []
    for _ in range(17):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(Cosine(final=0.1), 17, total=17, per_epoch=3, lr=0.3) == pytest.approx(expected)


def test_poly_is_torchs():
    optimizer = SGD(lr=0.02).build([nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=17, power=0.9)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(Poly(), 20, total=17, per_epoch=3, lr=0.02) == pytest.approx(expected)


def test_poly_after_warmup():
    schedule = Poly(warmup_epochs=0.5, warmup_start=0.2, power=2)
    seen = rates(schedule, 15, total=14, per_epoch=8, lr=2.0)
    assert seen[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert seen[9] == pytest.approx(2 * 0.5**2)  # half way down
    assert seen[14] == 0


@pytest.mark.parametrize(("total", "pct_start"), [(100, 0.3), (37, 0.25), (10, 0.5)])
def test_one_cycle_is_torchs(total, pct_start):
    optimizer = SGD(lr=0.4).build([nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total, pct_start=pct_start, div_factor=10.0, final_div_factor=100.0
    )
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < total:
            theirs.step()
    ours = OneCycle(pct_start=pct_start, div_factor=10.0, final_div_factor=100.0)
    assert rates(ours, total, total=total, per_epoch=5, lr=0.4) == pytest.approx(expected)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_one_cycle_of_few_steps_stays_in_range(total):
    factors = [OneCycle().factor(step, total, 1) for step in range(total + 2)]
    assert all(0 < factor <= 1 for factor in factors)


def test_one_cycle_keeps_its_last_rate():
    assert OneCycle().factor(500, 100, 10) == pytest.approx(1 / 25 / 1e4)


def test_step_falls_at_its_milestones():
    seen = rates(Step(milestones=(1, 2.5), gamma=0.1), 12, total=12, per_epoch=4)
    assert seen == pytest.approx([1] * 4 + [0.1] * 6 + [0.01] * 2)


def test_step_falls_every_so_often():
    seen = rates(Step(every=1.5, gamma=0.5), 7, total=7, per_epoch=2)
    assert seen == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25])


def test_step_milestones_count_from_the_start_of_training():
    seen = rates(Step(milestones=(2,), warmup_epochs=1, warmup_start=0.0), 6, total=6, per_epoch=2)
    assert seen == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1])


@pytest.mark.parametrize("arguments", [{}, {"milestones": (1,), "every": 2.0}])
def test_step_takes_exactly_one_way(arguments):
    with pytest.raises(UserError, match="either milestones"):
        Step(**arguments)


def test_constant_after_its_warmup():
    seen = rates(Constant(warmup_epochs=1, warmup_start=0.5), 4, total=4, per_epoch=2)
    assert seen == pytest.approx([0.5, 0.75, 1, 1])


def test_a_schedule_keeps_the_ratio_of_layer_rates():
    net = network()
    layers = [["0.weight", "0.bias", "1.weight", "1.bias"], ["3.weight", "3.bias"]]
    groups = parameter_groups(net, lr=1.0, weight_decay=0.0, layer_groups=layers, layer_decay=0.5)
    optimizer = SGD(lr=1.0).build(groups)
    scheduler = Cosine().build(optimizer, 4, 1)
    optimizer.step()
    scheduler.step()
    factor = (1 + math.cos(math.pi / 4)) / 2
    seen = [g["lr"] for g in optimizer.param_groups]
    assert seen == pytest.approx([0.5 * factor] * 2 + [factor] * 2)


def test_a_scheduler_resumes_where_it_was(tmp_path):
    def build():
        optimizer = SGD(lr=1.0).build([nn.Parameter(torch.zeros(1))])
        return optimizer, Cosine(warmup_epochs=1).build(optimizer, 20, 5)

    optimizer, scheduler = build()
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state.pt")
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    again = build()
    for part, state in zip(again, states, strict=True):
        part.load_state_dict(state)
    optimizer.step()
    scheduler.step()
    again[0].step()
    again[1].step()
    assert again[0].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
