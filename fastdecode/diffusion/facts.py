"""What a masked-diffusion model has to be told about besides its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from fastdecode.targets.layouts import layout_of


@dataclass(frozen=True)
class Facts:
    """Special ids and conventions of a model.

    Attributes:
        mask: id that stands for a position without a token. eos: ids that end a text.
        shift: 1 where the output of position j - 1 proposes the token of j.
        block_length: of models whose tokens see no later block, else None.
        delimiters: ids of tokens that end a line.
        end_of_turn: ids that end a turn of a chat.
    """

    mask: int
    eos: tuple[int, ...]
    shift: int = 0
    block_length: int | None = None
    delimiters: tuple[int, ...] = ()
    end_of_turn: tuple[int, ...] = ()

    @classmethod
    def of_checkpoint(cls, name_or_path: str) -> "Facts":
        """Raises ValueError when it is no masked-diffusion checkpoint that is known."""
        layout, raw = layout_of(name_or_path)
        if layout is None:
            raise ValueError(f"{name_or_path} has model_type={raw.get('model_type')!r}, which is no masked-diffusion model that is known; use SpeculativeGenerator for causal models")
        mask = raw.get("mask_token_id")
        delimiters = tuple(raw.get("delimiter_token_ids", layout.delimiters))
        block = raw.get(*layout.block_length) if layout.block_length else None
        vocabulary = raw.get("embedding_size") or raw["vocab_size"]
        turn = tuple(i for i in _ids(raw.get("eot_token_id", layout.end_of_turn)) if i < vocabulary)
        return cls(layout.mask_id if mask is None else int(mask), _ids(raw.get("eos_token_id")), layout.shift, block, delimiters, turn)

    @classmethod
    def of_model(cls, config: PretrainedConfig | None, vocabulary: int, tokenizer, given: dict[str, Any]) -> "Facts":
        """From arguments, the model's configuration and the tokenizer, in this order."""
        first = lambda *values: next((v for v in values if v is not None), None)
        mask = first(given.get("mask_token_id"), getattr(config, "mask_token_id", None), getattr(tokenizer, "mask_token_id", None))
        if mask is None:
            raise ValueError("mask_token_id is missing: neither the model's configuration nor the tokenizer names a mask; pass mask_token_id=")
        if not isinstance(mask, int) or isinstance(mask, bool) or not 0 <= mask < vocabulary:
            raise ValueError(f"mask_token_id={mask!r} is not in the model's vocabulary 0 .. {vocabulary - 1}; check that tokenizer and model belong together")
        shift = given.get("shift", 0)
        if shift not in (0, 1) or isinstance(shift, bool):
            raise ValueError(f"shift={shift!r} must be 0, or 1 where the output of position j - 1 proposes the token of j")
        eos = first(given.get("eos_token_id"), getattr(config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None))
        turn = first(given.get("eot_token_id"), getattr(config, "eot_token_id", None), getattr(tokenizer, "eot_token_id", None))
        return cls(mask, _ids(eos), shift, given.get("block_length"), tuple(given.get("delimiters", ())), _ids(turn))


def _ids(eos: Any) -> tuple[int, ...]:
    return () if eos is None or eos == -1 else tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)
