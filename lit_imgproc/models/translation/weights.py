"""Where a translator starts: a published generator, or networks of an earlier run.

The published ones are those of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix
(``latest_net_G.pth``, ``horse2zebra.pth``). Their names become those of our networks so:

==========================================  ==============================
``model.N``, of residual generators         ``layers.N``
``model.N.conv_block.M``                    ``layers.N.layers.M``
``model.N``, of discriminators of patches   ``layers.N``
``net.N``, of discriminators of pixels      ``layers.N``
``model`` and n times ``.model.S``          level n of a U-Net, of which
``….model.0`` or ``.1``                     ``down.n.0``, the convolution
``….model.2``                               ``down.n.1``, the norm
``….model.3`` or ``.5``                     ``up.n.0``, the convolution
``….model.4`` or ``.6``                     ``up.n.1``, the norm
==========================================  ==============================

S is where a level holds the next one: 1 of the outermost, 3 of the others. The running statistics
that old instance norms carry are left out: ours, and those of today, have none.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from lit_imgproc.models.backbones import State, WeightsUnavailable
from lit_imgproc.models.translation.networks import UNetGenerator
from lit_imgproc.models.weights import fit_state, read_state, unprefixed

_UNET = {
    **dict.fromkeys("01", ("down", 0)),
    "2": ("down", 1),
    **dict.fromkeys("35", ("up", 0)),
    **dict.fromkeys("46", ("up", 1)),
}
"""Of a layer of a level, by its number there: the list of ours that it is in, and its place."""
_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def load_translator(networks: Mapping[str, nn.Module], source: str) -> None:
    """Load weights, in place.

    Args:
        networks: what may be loaded, by its name in the module. Of a checkpoint of such a module
            each takes its own; a file of one network is for the first.
        source: the file.

    Raises:
        WeightsUnavailable: published weights are asked for by ``pretrained``.
        UserError: a file that is missing, cannot be read or does not fit.
    """
    if source == "pretrained":
        raise WeightsUnavailable(
            "No library publishes weights of translators: give weights the file of a generator "
            "of the authors, such as latest_net_G.pth, or of a run of your own."
        )
    everything = read_state(Path(source))
    parts = {name: _part(everything, name) for name in networks}
    if not any(parts.values()):
        first = next(iter(networks))
        parts = {first: translated(networks[first], unprefixed(everything, networks[first]))}
    for name, state in parts.items():
        if state:
            fit_state(networks[name], state, source)


def translated(network: nn.Module, state: State) -> State:
    """A state dict under the names of our networks: see the table of this file.

    Args:
        network: a network of this family.
        state: of ours, which stays as it is; or published, without ``model.`` in front of it all.
    """
    own = network.state_dict()
    if not own.keys() & state.keys():
        rename = _of_unet if isinstance(network, UNetGenerator) else _of_layers
        state = {rename(name): value for name, value in state.items()}
    return {k: v for k, v in state.items() if k in own or not k.endswith(_RUNNING)}


def _of_layers(name: str) -> str:
    return "layers." + name.removeprefix("net.").replace("conv_block", "layers")


def _of_unet(name: str) -> str:
    *outer, last = name.split(".model.")
    number, _, rest = last.partition(".")
    place = _UNET.get(number)
    return f"{place[0]}.{len(outer)}.{place[1]}.{rest}" if place else name


def _part(everything: State, name: str) -> State:
    """What a checkpoint holds of the network of that name."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in everything.items() if k.startswith(prefix)}
