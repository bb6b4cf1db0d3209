"""State dicts of StyleGAN2 as NVIDIA publishes them."""

import re
from collections.abc import Mapping

from torch import Tensor

_NVIDIA = (
    (r"^synthesis\.b(\d+)\.", r"synthesis.blocks.\1."),
    (r"^synthesis\.blocks\.4\.const$", "synthesis.constant"),
    (r"^b(\d+)\.fromrgb\.", "from_image."),
    (r"^b4\.fc\.", "linear."),
    (r"^b4\.", ""),
    (r"^b(\d+)\.", r"blocks.\1."),
    (r"\.torgb\.", ".to_image."),
    (r"\.noise_const$", ".noise"),
    (r"^mapping\.fc(\d+)\.", r"mapping.layers.\1."),
    (r"^mapping\.w_avg$", "mapping.average"),
)


def from_nvidia(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state dict of a network of stylegan2-ada-pytorch.

    It is what ``G_ema.state_dict()`` or ``D.state_dict()`` of one of its pickles gives, opened with
    that repository at hand. The names, there and here:

    ========================================  =============================================
    ``mapping.w_avg``                         ``mapping.average``
    ``mapping.fcI``                           ``mapping.layers.I``
    ``synthesis.b4.const``                    ``synthesis.constant``
    ``synthesis.bR.convI``                    ``synthesis.blocks.R.convI``
    ``synthesis.bR.torgb``                    ``synthesis.blocks.R.to_image``
    ``….noise_const``                         ``….noise``
    ``bR.fromrgb``                            ``from_image``
    ``bR.convI``, ``bR.skip``                 ``blocks.R.convI``, ``blocks.R.skip``
    ``b4.conv``, ``b4.fc``, ``b4.out``        ``conv``, ``linear``, ``out``
    ``….resample_filter``                     none: it is the same for all
    ========================================  =============================================

    Names of networks here stay as they are.
    """
    renamed = {}
    for name, value in state.items():
        if not name.endswith("resample_filter"):
            for pattern, replacement in _NVIDIA:
                name = re.sub(pattern, replacement, name)
            renamed[name] = value
    return renamed
