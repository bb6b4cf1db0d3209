"""Weights of style transfer as they are published, under the names that they have here.

- ``mosaic.pth``, ``candy.pth``, … of pytorch/examples (fast_neural_style), for
  :func:`~lit_imgproc.models.style_transfer.networks.johnson`: each convolution lies in a module
  with its padding, so ``res1.conv1.conv2d.weight`` is ``res1.conv1.weight`` here. Files of
  torch 0.3 have running statistics of instance norms (``in1.running_mean``), which were never used.
- ``decoder.pth`` of naoto0804/pytorch-AdaIN, for
  :func:`~lit_imgproc.models.style_transfer.networks.adain_decoder`: one sequence in which paddings
  are layers too, so the numbers differ and the order of the convolutions is the same. It was
  trained on features of a VGG-19 that was normalized to a mean activation of 1, and decodes those
  of other filters after some more training only.
"""

import re

from torch import nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.backbones import State
from lit_imgproc.models.style_transfer.networks import AdaINDecoder
from lit_imgproc.models.weights import fit_state, read_weights

_UNUSED = re.compile(r"in\d+\.(running_mean|running_var|num_batches_tracked)$")
_NUMBERED = re.compile(r"\d+\.(weight|bias)$")


def load_stylizer(network: nn.Module, source: str) -> None:
    """Load weights into a network of style transfer, in place.

    Args:
        network: Johnson's, or AdaIN's decoder.
        source: a file, published or of an earlier run.

    Raises:
        UserError: ``pretrained``, or a file that is missing, cannot be read or does not fit.
    """
    if source == "pretrained":
        raise UserError(
            "weights=pretrained: no library brings weights of style transfer; give the file, such "
            "as mosaic.pth of pytorch/examples"
        )
    state, _ = read_weights(network, source)
    fit_state(network, _renamed(state, network), source)


def _renamed(state: State, network: nn.Module) -> State:
    if not isinstance(network, AdaINDecoder):
        return {
            name.replace(".conv2d.", "."): value
            for name, value in state.items()
            if not _UNUSED.search(name)
        }
    if len(state) != len(network.state_dict()) or not all(map(_NUMBERED.match, state)):
        return state
    in_order = sorted(state, key=lambda name: (int(name.split(".")[0]), name.endswith("bias")))
    return {own: state[name] for own, name in zip(network.state_dict(), in_order, strict=True)}
