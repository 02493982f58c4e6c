"""Hidden states between the layers of a transformers model."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from fastdecode.errors import UnsupportedModelError

LAYERS, NORMS = ("layers", "h"), ("norm", "ln_f")  # what families call their layers and the norm behind them


@contextmanager
def tapped(model: PreTrainedModel, taps: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """While this is open, every pass leaves the hidden states [B, N, width] before these layers; those before the layer behind the last
    are what the final norm takes.

    Raises:
        UnsupportedModelError: the model's layers are not where they are in the families we know.
    """
    hidden: dict[int, torch.Tensor] = {}
    hooks = []
    try:
        for tap in taps:

            def keep(module, args, kwargs, tap=tap):
                hidden[tap] = args[0] if args else kwargs["hidden_states"]

            hooks.append(_module_before(model, tap).register_forward_pre_hook(keep, with_kwargs=True))
        yield hidden
    finally:
        for hook in hooks:
            hook.remove()


def _module_before(model: PreTrainedModel, layer: int) -> nn.Module:
    body = model.base_model
    layers = next((getattr(body, name) for name in LAYERS if hasattr(body, name)), None)
    norm = next((getattr(body, name) for name in NORMS if hasattr(body, name)), None)
    if layers is None or norm is None:
        raise UnsupportedModelError(f"{type(model).__name__} keeps its layers elsewhere than in {' or '.join(LAYERS)}; drafts from its hidden states are not possible")
    return layers[layer] if layer < len(layers) else norm
