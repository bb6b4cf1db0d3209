"""Where the players of a GAN start: both of them in an earlier run, or one as it is published."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from lit_imgproc.errors import UserError
from lit_imgproc.models.weights import COUNTER, read_state, unprefixed


def load_players(players: Mapping[str, nn.Module], source: str) -> tuple[str, ...]:
    """Load weights into the players of a GAN, in place.

    Args:
        players: the networks ``generator`` and ``discriminator``. One with a method
            ``from_published`` also takes weights as another implementation published them; that
            method gives them their names here.
        source: a file. A checkpoint of this package has both players; other files have one,
            which is the one that they fit.

    Returns:
        The names of the players whose weights were loaded.

    Raises:
        UserError: a file that is missing, cannot be read or fits neither; or ``pretrained``, of
            which there is none.
    """
    if source == "pretrained":
        raise UserError(
            "nobody publishes weights of GANs that could be fetched by name: give model.weights a "
            "file, or run:ID of an earlier run"
        )
    state = read_state(Path(source))
    prefixes = {"generator": "network.", "discriminator": "discriminator."}
    if all(any(name.startswith(prefix) for name in state) for prefix in prefixes.values()):
        parts = {name: _part(state, prefix) for name, prefix in prefixes.items()}
        loaded = [name for name, part in parts.items() if _load(players[name], part)]
        if len(loaded) == len(parts):
            return tuple(loaded)
    else:
        for name, player in players.items():
            if _load(player, unprefixed(_renamed(player, state), player)):
                return (name,)
    raise UserError(
        f"The weights of {source} are not those of this generator and discriminator: build both as "
        "they were, with the same image_size, width, latent_dim and classes."
    )


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _load(player: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Load a network from a state dict that has all it needs; whether it has."""
    own = player.state_dict()
    needed = {k: v.shape for k, v in own.items() if k in state or not k.endswith(COUNTER)}
    if not needed.items() <= {k: v.shape for k, v in state.items()}.items():
        return False
    player.load_state_dict({k: state[k] for k in needed}, strict=False)
    return True


def _renamed(player: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names of a player, where it knows how others call them."""
    if not hasattr(player, "from_published"):
        return state
    return cast("dict[str, Tensor]", cast(Any, player).from_published(state))
