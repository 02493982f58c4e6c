"""From prompts and templates to the canvases of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Sequence

import numpy as np
import torch

from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.facts import Facts
from fastdecode.diffusion.options import Call
from fastdecode.ops.unmask_commit import MASKED
from fastdecode.speculative.inputs import known
from fastdecode.speculative.request import request_word

MAX_GAPS = 256


@dataclass(frozen=True)
class Gap:
    """A place in a template with this many tokens to be filled in."""

    tokens: int

    def __post_init__(self):
        if not isinstance(self.tokens, int) or isinstance(self.tokens, bool) or self.tokens < 1:
            raise ValueError(f"Gap({self.tokens!r}): a gap has a positive number of tokens")


class Batch(NamedTuple):
    """Canvases, which are views of rows 0, 1, ... of tokens and changed, int32 [B, L]."""

    canvases: list[Canvas]
    tokens: torch.Tensor
    changed: torch.Tensor


@dataclass(frozen=True)
class BatchMaker:
    """Attributes: what the model is, the most positions it has, its tokenizer, and what a mask is in given text, as for `DiffusionGenerator`."""

    facts: Facts
    max_positions: int | None
    tokenizer: object
    mask_in_text: str

    def of_prompts(self, prompts: Sequence[list[int]], call: Call) -> Batch:
        """A canvas behind each prompt, `call.copies` times."""
        copies, rows = {}, []
        for i, prompt in enumerate(prompts):
            size = call.canvas(len(prompt))
            self._check_room(len(prompt), size)
            if self.mask_in_text == "error" and self.facts.mask in prompt:
                raise ValueError(f"inputs[{i}] holds the mask, token {self.facts.mask}: given text has no open positions; remove it, or open positions with infill()")
            for _ in range(call.copies):
                copies[tuple(prompt)] = copies.get(tuple(prompt), -1) + 1
                key = (call.seed, request_word(prompt, copies[tuple(prompt)]) if call.drawn else 0)
                rows.append((prompt + [self.facts.mask] * size, [-1] * len(prompt) + [MASKED] * size, len(prompt), key))
        return self._batch(rows)

    def of_template(self, template: Sequence[str | Gap], call: Call) -> Batch:
        """One canvas whose gaps are open, and nothing else."""
        tokens, changed = self._template(template)
        return self._batch([(tokens, changed, changed.index(MASKED), (call.seed, request_word(tokens, 0)))])

    def _check_room(self, given: int, open_positions: int) -> None:
        """Before anything of that size is made."""
        limit = self.max_positions
        if limit is not None and given + open_positions > limit:
            raise ValueError(f"a prompt with its canvas has {given + open_positions} positions, the model has {limit}; shorten the prompt or set max_new_tokens to at most {max(0, limit - given)}")

    def _batch(self, rows: list[tuple[list[int], list[int], int, tuple[int, int]]]) -> Batch:
        longest = max(len(tokens) for tokens, *_ in rows)
        tokens = np.array([ids + [self.facts.mask] * (longest - len(ids)) for ids, *_ in rows], np.int32)
        changed = np.array([at + [-1] * (longest - len(at)) for _, at, *_ in rows], np.int32)
        canvases = []
        for row, (ids, _, prompt, key) in enumerate(rows):
            size = len(ids)
            canvas = Canvas(row, tokens[row, :size], changed[row, :size], prompt, size, self.facts.shift, key, self.facts.block_length)
            canvas.stats.prompt_tokens = prompt
            canvases.append(canvas)
        return Batch(canvases, torch.from_numpy(tokens), torch.from_numpy(changed))

    def _template(self, template: Sequence[str | Gap]) -> tuple[list[int], list[int]]:
        if self.tokenizer is None:
            raise ValueError("infill() takes text and the generator has no tokenizer; construct it with tokenizer=...")
        if not isinstance(template, (list, tuple)) or not all(isinstance(part, (str, Gap)) for part in template):
            raise TypeError(f"template={template!r} must be a list of strings and Gap(n)")
        gaps = sum(isinstance(part, Gap) for part in template)
        if not 1 <= gaps <= MAX_GAPS:
            raise ValueError(f"template has {gaps} gaps, expected 1 to {MAX_GAPS}; put Gap(n) where text is missing")
        self._check_room(0, sum(part.tokens for part in template if isinstance(part, Gap)))
        tokens, changed = [], []
        for part in template:
            ids = [self.facts.mask] * part.tokens if isinstance(part, Gap) else known(list(self.tokenizer(part, add_special_tokens=not tokens)["input_ids"]), self.tokenizer, "template", part)
            if isinstance(part, str) and self.mask_in_text == "error" and self.facts.mask in ids:
                raise ValueError(f"template holds the mask inside text {part!r}; only Gap(n) opens positions")
            tokens += ids
            changed += [MASKED if isinstance(part, Gap) else -1] * len(ids)
        self._check_room(len(tokens), 0)
        if self.facts.shift and changed[0] == MASKED:
            raise ValueError("template begins with a gap: this model proposes a token from the position before it; begin with text")
        return tokens, changed
