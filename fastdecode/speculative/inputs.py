"""Everything that `generate` accepts as a prompt, turned into lists of token ids."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def token_ids(inputs: Any, tokenizer, vocab_size: int) -> tuple[list[list[int]], bool]:
    """Prompts as token ids, and whether the caller passed a batch (and so expects a list back).

    Accepts text, chat messages (a list of {"role", "content"}), token ids (list or integer tensor [L] or [1, L]), lists of any
    of these, an integer tensor [B, L], or a tokenizer's output with input_ids and attention_mask.

    Raises:
        TypeError: none of these. ValueError: an empty prompt, an id outside the vocabulary, text without a tokenizer.
    """
    prompts, batched = _prompts(inputs, tokenizer)
    if not prompts:
        raise ValueError("inputs is empty; pass at least one prompt")
    for i, prompt in enumerate(prompts):
        where = f"inputs[{i}]" if batched else "inputs"
        if not prompt:
            raise ValueError(f"{where} has no tokens; pass at least one token, e.g. the model's BOS token")
        bad = next((t for t in prompt if not 0 <= t < vocab_size), None)
        if bad is not None:
            raise ValueError(f"{where} holds token id {bad}, the model's vocabulary is 0 .. {vocab_size - 1}; check that the tokenizer belongs to the model")
    return prompts, batched


def _prompts(inputs: Any, tokenizer) -> tuple[list[list[int]], bool]:
    if isinstance(inputs, Mapping):
        return _from_encoding(inputs)
    if isinstance(inputs, torch.Tensor):
        return _from_tensor(inputs)
    if not isinstance(inputs, (list, tuple)) or _is_chat(inputs) or (inputs and _is_int(inputs[0])):
        return [_single(inputs, tokenizer, "inputs")], False
    return [_single(x, tokenizer, f"inputs[{i}]") for i, x in enumerate(inputs)], True


def _single(value: Any, tokenizer, where: str) -> list[int]:
    if isinstance(value, str):
        if not value:
            raise ValueError(f"{where} is an empty string; pass at least one token of text")
        return known(_encode(_require(tokenizer, where), value), tokenizer, where, value)
    if _is_chat(value):
        ids = _require(tokenizer, where).apply_chat_template(list(value), add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        return known(_plain(ids), tokenizer, where, *(str(m.get("content")) for m in value))
    if isinstance(value, torch.Tensor):
        rows, _ = _from_tensor(value)
        if len(rows) != 1:
            raise ValueError(f"{where} is a tensor of shape {list(value.shape)}; inside a list use [L] or [1, L]")
        return rows[0]
    if isinstance(value, (list, tuple)):
        wrong = next((t for t in value if not _is_int(t)), None)
        if wrong is not None:
            raise TypeError(f"{where} mixes in {type(wrong).__name__} {wrong!r}; a prompt is text, chat messages or integer token ids")
        return [int(t) for t in value]
    if isinstance(value, Mapping):
        raise TypeError(f"{where} is a mapping with keys {sorted(value)}; a chat message has 'role' and 'content', and a chat holds nothing else")
    raise TypeError(f"{where} is {type(value).__name__}; a prompt is text, chat messages, token ids, or a list of these")


def _from_tensor(ids: torch.Tensor) -> tuple[list[list[int]], bool]:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"inputs has dtype {ids.dtype}, expected integer token ids")
    if ids.dim() not in (1, 2):
        raise ValueError(f"inputs has shape {list(ids.shape)}, expected [L] or [B, L]")
    rows = (ids[None] if ids.dim() == 1 else ids).tolist()
    return rows, len(rows) != 1


def _from_encoding(encoding: Mapping) -> tuple[list[list[int]], bool]:
    if "input_ids" not in encoding:
        raise TypeError(f"inputs is a mapping with keys {sorted(encoding)}, expected a tokenizer's output with input_ids")
    rows, batched = _prompts(encoding["input_ids"], None)
    mask = encoding.get("attention_mask")
    if mask is None:
        return rows, batched
    masks, _ = _prompts(mask, None)
    if [len(r) for r in rows] != [len(m) for m in masks]:
        raise ValueError("attention_mask and input_ids have different shapes")
    return [[t for t, keep in zip(r, m) if keep] for r, m in zip(rows, masks)], batched


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) or type(value).__module__ == "numpy" and "int" in type(value).__name__


def _is_chat(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(m, Mapping) and "role" in m for m in value)


def known(ids: list[int], tokenizer, where: str, *texts: str) -> list[int]:
    """The ids, unless a part of the text got lost in an unknown token that stands for nothing else."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or unknown not in ids or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return ids
    if any(tokenizer.unk_token in text for text in texts):
        return ids
    lost = next((word for text in texts for word in text.split() if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]), None)
    raise ValueError(f"{where} has text that the tokenizer cannot write{f', first in {lost!r}' if lost else ''}; remove it, or pass token ids to have it replaced by {tokenizer.unk_token}")


def _require(tokenizer, where: str):
    if tokenizer is None:
        raise ValueError(f"{where} is text, but the generator has no tokenizer; construct it with tokenizer=... or pass token ids")
    return tokenizer


def _encode(tokenizer, text: str) -> list[int]:
    """As `tokenizer(text)` does. Called so, a compiled tokenizer hands even a single text to its pool of threads, which may have to wake up
    first: that can take longer than a pass of a small model."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    usual = isinstance(tokenizer, PreTrainedTokenizerFast) and type(tokenizer).__call__ is PreTrainedTokenizerBase.__call__ and not tokenizer.split_special_tokens
    if usual and backend.truncation is None and backend.padding is None:
        return backend.encode(text).ids
    return _plain(tokenizer(text)["input_ids"])


def _plain(ids: Sequence) -> list[int]:
    return list(ids[0]) if ids and isinstance(ids[0], (list, tuple)) else list(ids)
