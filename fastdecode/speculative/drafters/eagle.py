from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from huggingface_hub import snapshot_download

from fastdecode import _C
from fastdecode.errors import UnsupportedModelError
from fastdecode.ops.tree_expand import MAX_CHILDREN
from fastdecode.speculative.drafters.base import Budget
from fastdecode.speculative.eagle_head import EagleHead
from fastdecode.speculative.tree import Draft
from fastdecode.targets.base import TargetModel

LEVEL_RATE, LARGEST = 0.1, 2.0  # weight of a draft in the running cost of a level, and how much dearer one draft can call it


@dataclass
class _Row:
    """What the head knows of one text: slot s of its cache holds a position of at most s + gap."""

    request: Any
    length: int = 0  # slots of the cache
    gap: int = 0
    unread: list[np.ndarray] = field(default_factory=list)  # features [n, F] of the positions behind the cached ones

    @property
    def position(self) -> int:
        """Of the first unread features."""
        return self.length + self.gap

    def text(self, count: int) -> list[int]:
        """The tokens that stand behind the next `count` positions."""
        begin, prompt, tokens = self.position + 1, self.request.prompt, self.request.tokens
        if begin >= len(prompt):
            return tokens[begin - len(prompt) : begin - len(prompt) + count]
        return (prompt[begin : begin + count] + tokens)[:count]


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
        self._level_seconds: float | None = None  # of the levels of late, between passes of the target

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
        self.grower = _C.TreeGrower(self.head.transformer, self.head.vocabulary, self.width)

    @property
    def taps(self) -> tuple[int, ...]:
        return self.head.taps

    def level_seconds(self) -> float:
        """Seconds that one more level costs: as drafts have lately taken, or by a trial before there were any."""
        if self._level_seconds is None:
            self._level_seconds = self._try_levels()
        return self._level_seconds

    def _try_levels(self, levels: int = 3, repeats: int = 5) -> float:
        """Seconds of one level of a tree of full width, the fastest of some trees."""
        cache, features = self.head.transformer.new_cache(1, 64), np.zeros((1, self.grower.features), np.float32)
        trial = lambda: self.grower.grow(cache, [_C.Growth(row=0, length=0, text=[0], width=self.width, min_score=0.0, levels=levels)], features)
        return min(trial() for _ in range(repeats))

    def begin(self, requests: Sequence) -> _State:
        return _State([_Row(request) for request in requests], self.head.transformer.new_cache(len(requests), 64))

    def read(self, state: _State, row: int, hidden: torch.Tensor) -> None:
        """Hidden states [taps, n, width] of the next n tokens of a row."""
        known = state.rows[row]
        known.unread.append(self.head.features(hidden))
        if not known.request.tokens:  # still of the prompt, whose last one waits for the first draft
            features = np.concatenate(known.unread)
            text, known.unread = known.text(len(features) - 1), [features[-1:]]
            if text:
                self.grower.read(state.cache, row, known.length, text, features[:-1])
                known.length += len(text)

    def resume(self, state: _State, row: int, before: _State | None, shared: int) -> None:
        """Takes over what an earlier one-row call knew of the first `shared` tokens; hidden states will go on behind them."""
        known = state.rows[row]
        if before is not None:
            state.cache, old = before.cache, before.rows[0]
            known.length = max(0, min(old.length, shared - 1 - old.gap))  # a slot holds the token behind its position, too
        known.gap = shared - known.length

    def propose(self, state: _State, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        growths = {r: self._growth(r, state.rows[r], b) for r, b in zip(rows, budgets) if b.nodes > 0 and state.rows[r].unread}
        growths = {r: growth for r, growth in growths.items() if growth.worthwhile}
        if growths:
            seconds = self.grower.grow(state.cache, list(growths.values()), np.concatenate([f for r in growths for f in state.rows[r].unread]))
            if seconds:
                before = self.level_seconds()
                self._level_seconds = before + LEVEL_RATE * (min(seconds, LARGEST * before) - before)
        for r, growth in growths.items():
            state.rows[r].length, state.rows[r].unread = growth.length, []
        return [Draft(*growths[r].tree.best(b.nodes)) if r in growths else Draft.empty() for r, b in zip(rows, budgets)]

    def _growth(self, row: int, known: _Row, budget: Budget) -> "_C.Growth":
        text = known.text(sum(map(len, known.unread)))
        return _C.Growth(row=row, length=known.length, text=text, width=self.width, min_score=budget.min_score, levels=min(budget.depth, self.num_tokens), least=budget.least, covered=budget.covered, open_score=budget.open_score)

    def observe(self, state: _State, row: int, tokens: Sequence[int]) -> None:
        """Nothing: the request holds its own tokens, `read` brings what the target made of them."""

    def end(self, state: _State, row: int) -> None:
        state.rows[row].unread = []
