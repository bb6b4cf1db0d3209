"""Where a vision transformer looks: its attention, followed from the answer back to the patches.

For networks whose blocks all attend over one grid of patches, as ViT, DeiT, BEiT and EVA do, of
timm or of torchvision.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lit_imgproc.errors import UserError


def attention_rollout(
    score: Callable[[Tensor], Tensor], images: Tensor, network: nn.Module
) -> Tensor:
    """Follow the attention of all blocks, half of it staying where it is (arXiv 2005.00928).

    A block is the mean of its heads' attention and of the identity, which stands for the residual
    connection; the blocks are multiplied. The map says what the network looks at, whatever the
    score is of. It may be called under ``torch.inference_mode``.

    Args:
        score: images to one score an image ``[B]``; it must run ``network`` exactly once.
        images: ``[B, C, H, W]``, as ``score`` takes them.
        network: a vision transformer, in eval mode.

    Returns:
        Maps float32 ``[B, H, W]``, zero or above: the share of each patch in the class token that
        the network answers from, or in the mean of its patches, bilinear from their grid to the
        images' size.

    Raises:
        UserError: the network does not attend over one grid of patches, or the score does not run
            it.
    """
    attentions: list[_Attention] = []
    with torch.inference_mode(False), torch.no_grad(), _recording(network, images, attentions):
        score(images.clone())
    identity = _identity(attentions)
    rollout = identity
    for attention in attentions:
        mixed = 0.5 * attention.probabilities.float().mean(1) + 0.5 * identity
        rollout = mixed / mixed.sum(-1, keepdim=True) @ rollout
    return _maps(rollout, images, network)


def attention_gradient(
    score: Callable[[Tensor], Tensor], images: Tensor, network: nn.Module
) -> Tensor:
    """Follow the attention that raises a score, by the rule of Chefer et al. (arXiv 2103.15679).

    Attention is weighed by the gradient of the score, head by head, and counts where that is above
    zero; block by block it adds to the relevance of each token. Parameters get no gradients. It
    may be called under ``torch.inference_mode``.

    Args:
        score: images to one score an image ``[B]``; it must run ``network`` exactly once.
        images: ``[B, C, H, W]``, as ``score`` takes them.
        network: a vision transformer, in eval mode.

    Returns:
        Maps float32 ``[B, H, W]``, zero or above, not scaled: the relevance of each patch, bilinear
        from their grid to the images' size.

    Raises:
        UserError: the network does not attend over one grid of patches, or the score does not run
            it.
    """
    attentions: list[_Attention] = []
    with torch.inference_mode(False), torch.enable_grad():
        # The images want a gradient so that a frozen network has a graph too.
        with _recording(network, images, attentions):
            scores = score(images.clone().requires_grad_())
        edges = [attention.edge for attention in attentions if attention.edge is not None]
        gradients = torch.autograd.grad(scores.sum(), edges)
    # What the rule adds to the identity that it starts from: what a token is to itself before any
    # attention is the same for all, and beside it small relevances would lose their digits.
    relevance = torch.zeros_like(_identity(attentions))
    for attention, gradient in zip(attentions, gradients, strict=True):
        probabilities = attention.probabilities.detach().float()
        weighed = (gradient.view_as(probabilities).float() * probabilities).relu().mean(1)
        relevance = relevance + weighed @ relevance + weighed
    return _maps(relevance, images, network)


@dataclass(frozen=True)
class _Attention:
    """What one block attends to.

    Attributes:
        probabilities: ``[B, heads, N, N]``: what each token (row) takes of each (column).
        edge: where its gradient arrives; None where no gradients are wanted.
    """

    probabilities: Tensor
    edge: GradientEdge | None


@contextlib.contextmanager
def _recording(network: nn.Module, images: Tensor, found: list[_Attention]) -> Iterator[None]:
    """Collect the attention of each block, in the order in which they run.

    Fused kernels never make the probabilities. timm's layers are switched to the way in which they
    do, and hand them to their dropout; torch's ``MultiheadAttention`` is asked for them.

    Raises:
        UserError: as the methods do.
    """

    def record(probabilities: Tensor, edge: GradientEdge | None) -> None:
        tokens = (found[0].probabilities if found else probabilities).shape[-1]
        batch, *_, rows, columns = probabilities.shape
        # Windows lie in the batch; a downsampled grid has fewer columns than rows, or than before.
        if (batch, rows, columns) != (len(images), tokens, tokens):
            raise _unsuited(network)
        found.append(_Attention(probabilities, edge))

    def of_timm(layer: nn.Module, args: Any, output: Tensor) -> None:
        record(output, get_gradient_edge(output) if torch.is_grad_enabled() else None)

    def ask(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    def of_torch(layer: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> Any:
        attended, probabilities = output
        # They are a view of what the values were multiplied by; the gradient arrives at the latter.
        view: Any = probabilities.grad_fn
        record(probabilities, GradientEdge(*view.next_functions[0]) if view else None)
        return attended, probabilities.mean(1)  # as `average_attn_weights` is by default

    layers: list[Any] = [layer for layer in network.modules() if _attends(layer)]
    pooled = getattr(network, "attn_pool", None) is not None  # by an attention of its own
    if not layers or pooled or _prefix(network) is None:
        raise _unsuited(network)
    with contextlib.ExitStack() as stack:
        for layer in layers:
            if isinstance(layer, nn.MultiheadAttention):
                hook = layer.register_forward_pre_hook(ask, with_kwargs=True)
                stack.callback(hook.remove)
                stack.callback(layer.register_forward_hook(of_torch).remove)
                continue
            stack.callback(layer.attn_drop.register_forward_hook(of_timm).remove)
            if getattr(layer, "fused_attn", False):
                stack.callback(setattr, layer, "fused_attn", True)
                layer.fused_attn = False
        yield
    if not found:
        raise UserError(f"no attention of {type(network).__name__} took part in the score")


def _attends(layer: nn.Module) -> bool:
    """Whether it is an attention of torch's, or one that hands its probabilities to a dropout."""
    dropout = getattr(layer, "attn_drop", None)
    return isinstance(layer, nn.MultiheadAttention) or isinstance(dropout, nn.Module)


def _identity(attentions: list[_Attention]) -> Tensor:
    """Each token as it is: ``[N, N]``."""
    probabilities = attentions[0].probabilities
    return torch.eye(probabilities.shape[-1], device=probabilities.device)


def _maps(relevance: Tensor, images: Tensor, network: nn.Module) -> Tensor:
    """What the network answers from, as maps: ``[B, N, N]`` to ``[B, H, W]``."""
    prefix = _prefix(network) or 0
    patches = relevance.shape[-1] - prefix
    grid = _grid(network, images, patches)
    if math.prod(grid) != patches:  # as where channels attend
        raise _unsuited(network)
    if prefix == 0 or getattr(network, "global_pool", "token") != "token":
        answer = relevance[:, prefix:].mean(1)
    else:
        # A distilled DeiT answers from its class token and its distillation token alike.
        answer = relevance[:, : 2 if hasattr(network, "dist_token") else 1].mean(1)
    return F.interpolate(
        answer[:, prefix:].reshape(-1, 1, *grid),
        size=images.shape[-2:],
        mode="bilinear",
        align_corners=False,
    ).squeeze(1)


def _prefix(network: nn.Module) -> int | None:
    """How many tokens come before those of the patches; None for what does not say so."""
    prefix: int | None = getattr(network, "num_prefix_tokens", None)
    return 1 if prefix is None and hasattr(network, "class_token") else prefix  # torchvision's


def _grid(network: nn.Module, images: Tensor, patches: int) -> tuple[int, int]:
    """The rows and columns of the patches that images are cut into, which may not be square."""
    high, wide = images.shape[-2:]
    embed: Any = getattr(network, "patch_embed", None)
    if hasattr(embed, "dynamic_feat_size"):
        # Not `grid_size`: networks with `dynamic_img_size` take images of other sizes too.
        height, width = embed.dynamic_feat_size((high, wide))
        return int(height), int(width)
    height = round(math.sqrt(patches * high / wide))
    return height, patches // max(1, height)


def _unsuited(network: nn.Module) -> UserError:
    return UserError(
        f"{type(network).__name__} cannot be explained by its attention, which takes a transformer "
        "whose blocks all attend over one grid of patches and whose answer comes from a class "
        "token or from the mean of the patches, such as ViT, DeiT or EVA: use a class activation "
        "map instead, such as grad_cam, hires_cam or layer_cam"
    )
