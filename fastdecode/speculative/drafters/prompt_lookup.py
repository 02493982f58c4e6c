from __future__ import annotations

from typing import Sequence

import numpy as np

from fastdecode import _C
from fastdecode.speculative.drafters.base import Budget
from fastdecode.speculative.tree import Draft


class PromptLookupDrafter:
    """Continues the text as it went on after an earlier occurrence of its last tokens (prompt lookup decoding).

    Args:
        max_ngram: longest suffix that is looked up, in tokens.
        num_tokens: tokens taken from each occurrence.
        branches: occurrences that are merged into the tree; 1 gives the chain of transformers' own rule.
    """

    name = "prompt_lookup"

    def __init__(self, max_ngram: int = 3, num_tokens: int = 10, branches: int = 2):
        for name, value in (("max_ngram", max_ngram), ("num_tokens", num_tokens), ("branches", branches)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} must be a positive integer")
        self.max_ngram, self.num_tokens, self.branches = max_ngram, num_tokens, branches

    def begin(self, requests: Sequence) -> list[np.ndarray]:
        return [np.asarray(r.prompt, np.int32) for r in requests]

    def propose(self, state, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        return [
            Draft(*_C.prompt_lookup(state[r], self.max_ngram, min(self.num_tokens, b.depth), self.branches, b.nodes)) if min(b.depth, b.nodes) > 0 else Draft.empty()
            for r, b in zip(rows, budgets)
        ]

    def observe(self, state, row: int, tokens: Sequence[int]) -> None:
        state[row] = np.concatenate([state[row], np.asarray(tokens, np.int32)])

    def end(self, state, row: int) -> None:
        state[row] = np.empty(0, np.int32)
