"""What an explanation runs in, and what is left of it afterwards."""

import pytest
import torch
from torch import nn

from lit_imgproc.explain.cam import grad_cam, hires_cam, score_cam
from lit_imgproc.explain.undisturbed import undisturbed


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = self.activation(self.norm(self.features(x)))
        return self.head(self.dropout(x.mean((2, 3))))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def modes(network):
    return {name: layer.training for name, layer in network.named_modules()}


def mixed(network):
    """Some layers frozen within a network in training."""
    network.train()
    network.norm.eval()
    network.features.eval()
    return modes(network)


def test_everything_is_in_eval_mode_meanwhile_and_as_before_afterwards(network):
    before = mixed(network)
    assert len(set(before.values())) == 2
    with undisturbed(network):
        assert not any(modes(network).values())
    assert modes(network) == before


def test_a_parent_in_eval_mode_may_have_a_child_in_training(network):
    network.eval()
    network.dropout.train()
    before = modes(network)
    with undisturbed(network):
        assert not network.dropout.training
    assert modes(network) == before


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
def test_all_is_restored_after_an_exception(network, failure):
    before = mixed(network)
    with (
        pytest.raises(failure),
        torch.autocast("cpu", torch.bfloat16),
        undisturbed(network),
    ):
        raise failure
    assert modes(network) == before
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_what_is_around_it_is_switched_off_and_on_again(network, images):
    network.eval()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert network(images).dtype == torch.bfloat16
        with undisturbed(network):
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_grad_enabled()
            answer = network(images)
            assert answer.dtype == torch.float32
            assert not answer.is_inference()
            assert not answer.requires_grad
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
    with torch.no_grad(), undisturbed(network):
        pass
    assert torch.is_grad_enabled()


def test_a_module_without_weights_is_undisturbed_too(images):
    with undisturbed(nn.ReLU()) as nothing:
        assert nothing is None


def test_statistics_of_a_network_in_training_stay(network, images):
    network.train()
    mean, state = network.norm.running_mean.clone(), torch.get_rng_state()
    with undisturbed(network):
        first, second = network(images), network(images)
    assert first.equal(second)  # no dropout
    assert network.norm.running_mean.equal(mean)
    assert torch.get_rng_state().equal(state)


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("method", [grad_cam, hires_cam, score_cam])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])  # which take no C compiler
def test_a_compiled_network_has_the_map_of_the_plain_one(network, images, method, backend):
    class Module(nn.Module):
        """A network within a module, as the families have it."""

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x)

    module = Module().eval()

    def explained():
        return method(lambda x: module(x)[:, 1], images, network.activation)

    expected = explained()
    assert expected.max() > 0
    network.compile(backend=backend)
    module.train()
    with torch.no_grad():
        network.eval()(images)  # compiled without a hook
    network.train()
    for _ in range(2):  # a hook that is left over would show
        with undisturbed(module):
            torch.testing.assert_close(explained(), expected)
    assert module.training
    assert network.training
    assert not network.activation._forward_hooks


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_network_is_compiled_again_afterwards(network, images):
    ran = []

    def backend(graph, inputs):
        def run(*values):
            ran.append(len(values))
            return graph(*values)

        return run

    network.eval().compile(backend=backend)
    with torch.no_grad():
        expected = network(images)
        assert len(ran) == 1
        with undisturbed(network):
            torch.testing.assert_close(network(images), expected)
        assert len(ran) == 1
        torch.testing.assert_close(network(images), expected)
        assert len(ran) == 2
