"""A module as an explanation needs it, and as it was before afterwards."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run a module in eval mode, uncompiled, without autocast, and outside of inference mode.

    No gradients are wanted but where an explanation switches them on. Afterwards every layer is in
    the mode that it was in. A compiled network runs as it is written meanwhile: its compiled code
    does not call hooks that came later.
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    device = next((p.device.type for p in module.parameters()), "cpu")
    with contextlib.ExitStack() as stack:
        if any(layer._compiled_call_impl is not None for layer, _ in modes):
            # Asked first: the compiler takes seconds to import.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device, enabled=False))
        try:
            module.eval()
            yield
        finally:
            for layer, training in modes:
                layer.training = training
