from __future__ import annotations

from pathlib import Path
from typing import Iterable, Sequence

import numpy as np
from safetensors.numpy import load_file, save_file

from fastdecode import _C
from fastdecode.speculative.drafters.base import Budget
from fastdecode.speculative.tree import Draft

STEP = 0.04  # weight of an occurrence
WINDOW = 16  # tokens at the end of the text whose trigrams gain weight in every round


class AdaptiveTrigramDrafter:
    """Searches what followed the last two tokens in all texts so far, the latest counting most (ADED, arXiv:2407.12021).

    A map from pairs of tokens to their successors gains weight with every round, from the last tokens of the text and from what the
    model held most probable; a search with upper confidence bounds over it makes the tree.

    Args:
        corpus: documents as token ids to begin with.
        path: file with an earlier map, see `save`.
        iterations: of a search (150 take less than 0.1 ms).
        max_pairs: pairs that are remembered; the oldest make room.
        shared: whether all requests use one map, or each begins anew with what is given here.
    """

    name = "adaptive_trigram"

    def __init__(self, corpus: Iterable[Sequence[int]] = (), path: str | Path | None = None, iterations: int = 150, max_pairs: int = 1 << 18, shared: bool = True):
        for name, value in (("iterations", iterations), ("max_pairs", max_pairs)):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 24:
                raise ValueError(f"{name}={value!r} must be an integer from 1 to 2**24")
        if not isinstance(shared, bool):
            raise ValueError(f"shared={shared!r} must be True or False")
        self.iterations, self.max_pairs, self.shared = iterations, max_pairs, shared
        self.map = _C.TrigramPredictor(iterations, max_pairs)
        for document in corpus:
            self.map.learn(np.asarray(document, np.int32))
        if path is not None:
            self._load(Path(path))

    def save(self, path: str | Path) -> None:
        """Writes the map as a safetensors file."""
        rows, weights = self.map.dump()
        save_file({"trigrams": rows.reshape(-1, 3), "weights": weights}, str(path))

    def _load(self, path: Path) -> None:
        tensors = load_file(path)
        rows, weights = tensors.get("trigrams"), tensors.get("weights")
        if rows is None or weights is None or rows.shape != (len(weights), 3) or rows.dtype != np.int32 or weights.dtype != np.float32 or not np.all((weights > 0) & (weights < 100)) or (rows < 0).any():
            raise ValueError(f"path={str(path)!r} does not hold trigrams as AdaptiveTrigramDrafter.save writes them")
        self.map.add(rows, weights)

    def begin(self, requests: Sequence) -> list:
        state = [(self.map if self.shared else self._copy(), request) for request in requests]
        for trigrams, request in state:
            trigrams.learn(np.asarray(request.prompt, np.int32))
        return state

    def _copy(self):
        trigrams = _C.TrigramPredictor(self.iterations, self.max_pairs)
        trigrams.add(*self.map.dump())
        return trigrams

    def propose(self, state, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        return [self._propose(*state[r], b) for r, b in zip(rows, budgets)]

    def _propose(self, trigrams, request, budget: Budget) -> Draft:
        text = (request.prompt[-WINDOW:] + request.tokens)[-WINDOW:]
        if len(text) < 2 or budget.nodes == 0 or budget.depth == 0:
            return Draft.empty()
        return Draft(*trigrams.propose(text[-2], text[-1], budget.nodes, budget.depth, budget.min_score, len(request.tokens)))

    def observe(self, state, row: int, tokens: Sequence[int]) -> None:
        trigrams, request = state[row]
        trigrams.learn(np.asarray((request.prompt[-WINDOW:] + request.tokens)[-WINDOW:], np.int32))

    def learn(self, state, row: int, contexts, candidates) -> None:
        """What the target holds most probable counts as if it had been written once."""
        rows = np.concatenate([np.column_stack([contexts.numpy(), column]) for column in candidates.numpy().T]).astype(np.int32)
        rows = rows[rows[:, 2] >= 0]
        state[row][0].add(rows, np.full(len(rows), STEP, np.float32))

    def end(self, state, row: int) -> None:
        state[row] = None
