from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from huggingface_hub import snapshot_download

from fastdecode import _C, ops
from fastdecode.errors import UnsupportedModelError
from fastdecode.ops.tree_expand import MAX_CHILDREN
from fastdecode.speculative.drafters.base import Budget
from fastdecode.speculative.eagle_head import CHUNK, EagleHead
from fastdecode.speculative.tree import Draft
from fastdecode.targets.base import TargetModel


@dataclass
class _Row:
    """What the head knows of one text: slot s of its cache holds a position of at most s + gap."""

    request: Any
    length: int = 0  # slots of the cache
    gap: int = 0
    unread: list[torch.Tensor] = field(default_factory=list)  # features [n, F] of the positions behind the cached ones

    @property
    def position(self) -> int:
        """Of the first unread features."""
        return self.length + self.gap


@dataclass
class _State:
    rows: list[_Row]
    cache: Any


class EagleDrafter:
    """A head that reads the target's hidden states drafts a dynamic tree (EAGLE-2 and 3, arXiv:2406.16858, arXiv:2503.01840).

    Level by level the most probable paths are continued, each by its most probable tokens; the nodes of highest path probability
    become the draft. A level that promises less than it costs is not drafted.

    Args:
        head: directory or hub name of a checkpoint, see `EagleHead.load`.
        width: paths that a level goes on with, and children of each.
        num_tokens: depth at most.
    """

    name = "eagle"
    judges_levels = True

    def __init__(self, head: str | Path, width: int = 8, num_tokens: int = 8):
        if not isinstance(head, (str, Path)):
            raise TypeError(f"head is {type(head).__name__}, expected the directory of an EAGLE head")
        for name, value, most in (("width", width, MAX_CHILDREN), ("num_tokens", num_tokens, 64)):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise ValueError(f"{name}={value!r} must be an integer from 1 to {most}")
        self.path, self.width, self.num_tokens = Path(head), width, num_tokens
        self.target: TargetModel | None = None
        self.head: EagleHead | None = None

    def pair(self, target: TargetModel) -> None:
        """Loads the head for this target.

        Raises:
            ValueError: it drafts for another target already. UnsupportedModelError: the target gives no hidden states.
        """
        if self.target is not None and self.target is not target:
            raise ValueError("this EagleDrafter drafts for another generator's model already; make one per generator: EagleDrafter(path)")
        if not hasattr(target, "layers") or not hasattr(target, "model"):
            raise UnsupportedModelError(f"drafter eagle reads hidden states, and the target {type(target).__name__} does not give any: it has no `layers` (see TargetModel)")
        self.target = target
        path = self.path
        if not path.exists() and len(path.parts) == 2:  # a hub name
            path = Path(snapshot_download(path.as_posix(), allow_patterns=["config.json", "model.safetensors"]))
        self.head = EagleHead.load(path, target)

    @property
    def taps(self) -> tuple[int, ...]:
        return self.head.taps

    def level_seconds(self, repeats: int = 5) -> float:
        """Seconds of one level of a tree of full width, the fastest of some."""
        cache, hidden = self.head.transformer.new_cache(1, 64), torch.zeros(self.width, self.head.width)
        trees, fastest = [(np.zeros(self.width, np.int32), np.full(self.width, -1, np.int32))], float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            _, logits = self.head.grow(cache, [0], [0], trees, [self.width], hidden)
            ops.tree_expand(logits, torch.ones(self.width), min(self.width, logits.shape[1]))
            fastest = min(fastest, time.perf_counter() - start)
        return fastest

    def begin(self, requests: Sequence) -> _State:
        return _State([_Row(request) for request in requests], self.head.transformer.new_cache(len(requests), 64))

    def read(self, state: _State, row: int, hidden: torch.Tensor) -> None:
        """Hidden states [taps, n, width] of the next n tokens of a row."""
        known = state.rows[row]
        known.unread.append(self.head.features(hidden))
        if sum(map(len, known.unread)) > CHUNK:  # of a long prompt; the last one waits for the token behind it
            features = torch.cat(known.unread)
            text = self._text(known)[known.position + 1 : known.position + len(features)]
            self.head.follow(state.cache, [row], [known.length], [text], features[: len(text)], logits=False)
            known.length += len(text)
            known.unread = [features[len(text) :]]

    def resume(self, state: _State, row: int, before: _State | None, shared: int) -> None:
        """Takes over what an earlier one-row call knew of the first `shared` tokens; hidden states will go on behind them."""
        known = state.rows[row]
        if before is not None:
            state.cache, old = before.cache, before.rows[0]
            known.length = max(0, min(old.length, shared - 1 - old.gap))  # a slot holds the token behind its position, too
        known.gap = shared - known.length

    def propose(self, state: _State, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        budget = dict(zip(rows, budgets))
        trees = {r: _C.DynamicTree(self.width, b.min_score) for r, b in budget.items() if b.nodes > 0 and state.rows[r].unread}
        trees = {r: tree for r, tree in trees.items() if self._worthwhile(tree, budget[r])}
        if trees:
            self._grow(state, trees, budget)
        return [Draft(*trees[r].best(budget[r].nodes)) if r in trees else Draft.empty() for r in rows]

    def _worthwhile(self, tree: "_C.DynamicTree", budget: Budget) -> bool:
        """Whether another level is allowed and promises enough, beside what other drafts have found there."""
        level = tree.levels
        covered = budget.covered[level] if level < len(budget.covered) else 0.0
        return level < min(budget.depth, self.num_tokens) and tree.promised * (1 - covered) > budget.least

    def _grow(self, state: _State, trees: dict[int, "_C.DynamicTree"], budget: dict[int, Budget]) -> None:
        rows, counts = list(trees), [1] * len(trees)
        hidden, logits = self._read_text(state, rows)
        scores = torch.ones(len(rows))
        while True:
            above = self._add_level([trees[r] for r in rows], counts, hidden, logits, scores)
            above = {r: part for r, part in zip(rows, above) if self._worthwhile(trees[r], budget[r])}
            if not above:
                return
            rows = list(above)
            parents = torch.from_numpy(np.concatenate([above[r].numpy()[trees[r].open()] for r in rows]))  # [M, width]
            scores = [trees[r].open_scores for r in rows]
            counts = [len(s) for s in scores]
            hidden, logits = self.head.grow(state.cache, rows, [state.rows[r].length for r in rows], [(trees[r].tokens, trees[r].parents) for r in rows], counts, parents)
            scores = torch.from_numpy(np.concatenate(scores))

    def _add_level(self, trees: Sequence["_C.DynamicTree"], counts: Sequence[int], hidden: torch.Tensor, logits: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Candidates below the last counts[b] nodes of every tree (at first: behind the text); returns the outputs [counts[b], width] at these."""
        ids, children = ops.tree_expand(logits, scores, min(self.width, logits.shape[1]))
        for tree, tree_ids, tree_children in zip(trees, ids.split(counts), children.split(counts)):
            tree.add(tree_ids.numpy(), tree_children.numpy(), self.head.vocabulary)
        return hidden.split(counts)

    def _read_text(self, state: _State, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Brings the head up to the pending tokens."""
        known = [state.rows[r] for r in rows]
        features = [torch.cat(k.unread) for k in known]
        texts = [self._text(k)[k.position + 1 : k.position + 1 + len(f)] for k, f in zip(known, features)]
        result = self.head.follow(state.cache, rows, [k.length for k in known], texts, torch.cat(features))
        for k, text in zip(known, texts):
            k.length += len(text)
            k.unread = []
        return result

    def observe(self, state: _State, row: int, tokens: Sequence[int]) -> None:
        """Nothing: the request holds its own tokens, `read` brings what the target made of them."""

    def end(self, state: _State, row: int) -> None:
        state.rows[row].unread = []

    @staticmethod
    def _text(known: _Row) -> list[int]:
        return known.request.prompt + known.request.tokens
