"""The attention function that transformers models call while the engine runs a step.

Registered under a name that has no mask builder, so models hand over no mask; visibility comes from the running step.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any, Iterator, Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from fastdecode import ops
from fastdecode.errors import UnsupportedModelError
from fastdecode.speculative.tree import DraftTree

NAME = "fastdecode"
_current = threading.local()


@dataclass
class Step:
    """Who sees what in one forward pass.

    Attributes:
        rows: int32 [b], cache row of each batch row.
        lengths: int32 [b], committed tokens P of each.
        tree: the draft tree (node i sits in slot P + i); None for a causal chunk of new tokens.
        window_masks: masks of causal chunks, by window, made once per step and shared by the layers.
    """

    rows: torch.Tensor
    lengths: torch.Tensor
    tree: DraftTree | None
    window_masks: dict[int, torch.Tensor | None]


def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, sliding_window=None, softcap=None, s_aux=None, **kwargs):
    """query [b, H, N, D]; key, value: the whole slots [rows, Hkv, S, D]. Returns [b, N, H, D]."""
    if softcap is not None or s_aux is not None:
        raise UnsupportedModelError(f"{type(module).__name__} uses {'soft-capped logits' if softcap is not None else 'attention sinks'}, which tree attention does not implement; use model.generate for this model")
    step: Step = _current.step
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window or 0
    if step.tree is None:
        return _attend_chunk(step, query, key, value, scaling, window), None
    tree = step.tree
    out = ops.tree_attention(query, key, value, rows=step.rows, lengths=step.lengths, ancestors=tree.ancestors, depth=tree.depth, scaling=scaling, window=window)
    return out, None


def _attend_chunk(step: Step, query, key, value, scaling: float, window: int) -> torch.Tensor:
    """A causal chunk behind each row's prefix, by torch's own kernels."""
    width, end = query.shape[2], int(step.lengths.max()) + query.shape[2]
    key, value = (t[step.rows.long(), :, :end] for t in (key, value))  # [b, Hkv, end, D]
    if window not in step.window_masks:
        step.window_masks[window] = _chunk_mask(step.lengths, width, end, window)
    mask = step.window_masks[window]
    grouped = query.shape[1] != key.shape[1]
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous()


def _chunk_mask(lengths: torch.Tensor, width: int, end: int, window: int) -> torch.Tensor | None:
    """Bool [b, 1, N, end]; None where plain causal attention says the same."""
    if not lengths.any() and (window == 0 or window >= end):
        return None
    position = lengths.long()[:, None] + torch.arange(width, device=lengths.device)  # [b, N]
    slot = torch.arange(end, device=lengths.device)
    visible = slot <= position[..., None]  # [b, N, end]
    if window:
        visible &= slot > position[..., None] - window
    return visible[:, None]


def attention_configs(model: PreTrainedModel) -> list[PretrainedConfig]:
    """Every distinct configuration object that a module of the model looks its attention up in."""
    found = [m.config for m in model.modules() if isinstance(getattr(m, "config", None), PretrainedConfig)]
    return list({id(c): c for c in found}.values())


@contextlib.contextmanager
def running(configs: Sequence[PretrainedConfig], step: Any, name: str = NAME) -> Iterator[None]:
    """Routes attention through the function registered as `name` for one forward pass and puts the user's choice back afterwards.

    `configs` are the configuration objects that the model's modules read (see `attention_configs`).
    """
    before = [(c, c._attn_implementation_internal) for c in configs]
    _current.step = step
    try:
        for config, _ in before:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, chosen in before:
            config._attn_implementation_internal = chosen
        del _current.step


def running_step() -> Any:
    """What the forward pass of this thread was started with."""
    return _current.step


AttentionInterface.register(NAME, attend)
