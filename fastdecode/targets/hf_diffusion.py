"""A model of transformers as a masked-diffusion target: its own modules, our slots, attention in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from fastdecode import ops
from fastdecode.errors import UnsupportedModelError
from fastdecode.ops import VocabStats
from fastdecode.targets.active import ActiveRow
from fastdecode.targets.attention import attention_configs, running, running_step
from fastdecode.targets.base import check_model
from fastdecode.targets.slots import KVSlots, cache_keyword

NAME = "fastdecode_canvas"


@dataclass(frozen=True)
class CanvasStep:
    """Who sees what in one pass.

    Attributes:
        rows: int64 [b], row of the slots for each row of the batch.
        end: slots that anybody sees. mask: bool [b, 1, N, end], or None where all see all of them.
    """

    rows: torch.Tensor
    end: int
    mask: torch.Tensor | None


def attend_canvas(module, query, key, value, attention_mask, scaling=None, dropout=0.0, sliding_window=None, softcap=None, s_aux=None, **kwargs):
    """query [b, H, N, D]; key, value: the whole slots [rows, Hkv, S, D]. Returns [b, N, H, D]."""
    if sliding_window or softcap is not None or s_aux is not None:
        raise UnsupportedModelError(f"{type(module).__name__} has a sliding window, soft-capped logits or sinks, which no masked-diffusion model is known to have")
    step: CanvasStep = running_step()
    key, value = (t[step.rows, :, : step.end] for t in (key, value))
    out = scaled_dot_product_attention(query, key, value, attn_mask=step.mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend_canvas)


class HFDiffusionTarget:
    """Runs active sets through a transformers model whose body and head are `model.base_model` and its output embeddings.

    Args:
        model: in eval mode, on CPU or GPU. Its causal mask is left out, nothing else is changed.

    Raises:
        UnsupportedModelError: the model's attention cannot be replaced, or it changes logits behind its head.
    """

    def __init__(self, model: PreTrainedModel):
        check_model(model)
        config = model.config.get_text_config(decoder=True)
        if not getattr(model, "_supports_attention_backend", False) or model.get_output_embeddings() is None:
            raise UnsupportedModelError(f"{type(model).__name__} has no output embeddings or does not use the attention interface of transformers, so it cannot look both ways")
        if getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_scaling", None):
            raise UnsupportedModelError(f"{type(model).__name__} changes logits behind its head, which no masked-diffusion model is known to do")
        self.model, self.config = model, config
        self._configs = attention_configs(model)
        self._cache_keyword = cache_keyword(model.base_model)
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.max_positions = getattr(config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def new_slots(self, rows: int, length: int) -> KVSlots:
        return KVSlots(self.config.num_hidden_layers, rows, length)

    def copy_slots(self, slots: KVSlots, source: int, row: int, length: int) -> None:
        slots.lengths[source] = length
        slots.copy_row(source, row)

    def forward_active(self, slots: KVSlots, active: Sequence[ActiveRow], *, guidance: float = 0.0, ids=None, banned=None, temperature=None, key=None, credit=None) -> VocabStats:
        """A step of masked diffusion, see `DiffusionTarget`."""
        logits = self.logits_active(slots, active, guidance)
        move = lambda t: None if t is None else t.to(self.device)
        stats = ops.vocab_stats(logits, ids=move(ids), banned=move(banned), temperature=move(temperature), key=move(key), credit=credit)
        return VocabStats(stats.floats.cpu(), stats.ints.cpu(), None if stats.id_logits is None else stats.id_logits.cpu())

    @torch.inference_mode()
    def logits_active(self, slots: KVSlots, active: Sequence[ActiveRow], guidance: float = 0.0) -> torch.Tensor:
        """Short rows are padded with copies of their last position."""
        width = max(len(part.positions) for part in active)
        pad = lambda values: np.stack([np.concatenate([v, np.repeat(v[-1:], width - len(v))]) for v in values]).astype(np.int64)
        tokens, positions, ends = (torch.from_numpy(pad([getattr(part, name) for part in active])).to(self.device) for name in ("tokens", "positions", "ends"))
        rows, end = torch.tensor([part.row for part in active], device=self.device), int(ends.max())
        mask = None if bool((ends == end).all()) else (torch.arange(end, device=self.device) < ends[..., None])[:, None]
        slots.begin_positions(rows, positions)
        with running(self._configs, CanvasStep(rows, end, mask), NAME):
            hidden = self.model.base_model(input_ids=tokens, position_ids=positions, use_cache=True, **{self._cache_keyword: slots}).last_hidden_state
        batch = np.repeat(np.arange(len(active)), [len(part.wanted) for part in active])
        wanted = np.concatenate([part.wanted for part in active]).astype(np.int64)
        states = hidden[torch.from_numpy(batch).to(self.device), torch.from_numpy(wanted).to(self.device)]
        logits = self.model.get_output_embeddings()(guided(states, guidance) if guidance else states)
        return logits.float() if logits.dtype == torch.float64 else logits


def guided(states: torch.Tensor, guidance: float) -> torch.Tensor:
    """with + guidance * (with - without) of two halves; the head is linear, so that this is what becomes of the logits."""
    given, without = states.to(torch.promote_types(states.dtype, torch.float32)).chunk(2)
    return torch.lerp(given, without, -guidance).to(states.dtype)
