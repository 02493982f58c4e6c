from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from huggingface_hub import snapshot_download

from fastdecode import ops
from fastdecode.ops.tree_expand import MAX_CHILDREN
from fastdecode.speculative.drafters.base import Budget
from fastdecode.speculative.eagle_head import CHUNK, EagleHead
from fastdecode.speculative.tree import Draft, merge
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
        self.head: EagleHead | None = None

    def pair(self, target: TargetModel) -> None:
        """Loads the head for this target."""
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
        trees, fastest = [([0] * self.width, [-1] * self.width)], float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            _, logits = self.head.grow(cache, [0], [0], trees, [0], hidden)
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
        trees = {r: _Tree(min(b.depth, self.num_tokens), b, self.width) for r, b in zip(rows, budgets) if b.nodes > 0 and state.rows[r].unread}
        growing = {r: tree for r, tree in trees.items() if tree.growing}
        if growing:
            self._grow(state, growing)
        return [growing[r].draft() if r in growing else Draft.empty() for r in rows]

    def _grow(self, state: _State, trees: dict[int, "_Tree"]) -> None:
        rows = list(trees)
        hidden, logits = self._read_text(state, rows)
        ids, scores = self._children(logits, torch.ones(len(rows)))
        for b, r in enumerate(rows):
            trees[r].add(np.array([-1]), ids[b : b + 1], scores[b : b + 1])
        above = {r: hidden[b : b + 1] for b, r in enumerate(rows)}  # outputs at the nodes of the last level, and the text's end
        while rows := [r for r in rows if trees[r].growing]:
            parents = torch.cat([above[r][trees[r].open()] for r in rows])  # [M, width]
            counts = [len(trees[r].frontier) for r in rows]
            hidden, logits = self.head.grow(state.cache, rows, [state.rows[r].length for r in rows], [trees[r].nodes for r in rows], [len(trees[r].nodes[0]) - n for r, n in zip(rows, counts)], parents)
            ids, scores = self._children(logits, torch.from_numpy(np.concatenate([trees[r].frontier_scores for r in rows])))
            begin = 0
            for r, n in zip(rows, counts):
                part = slice(begin, begin + n)
                trees[r].add(trees[r].frontier, ids[part], scores[part])
                above[r], begin = hidden[part], begin + n

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

    def _children(self, logits: torch.Tensor, scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Target ids int32 [M, k] (-1: none) and path probabilities [M, k]."""
        columns, values = ops.tree_expand(logits, scores, min(self.width, logits.shape[1]))
        columns = columns.numpy()
        return np.where(columns < 0, -1, self.head.vocabulary[columns]), values.numpy()

    def observe(self, state: _State, row: int, tokens: Sequence[int]) -> None:
        """Nothing: the request holds its own tokens, `read` brings what the target made of them."""

    def end(self, state: _State, row: int) -> None:
        state.rows[row].unread = []

    @staticmethod
    def _text(known: _Row) -> list[int]:
        return known.request.prompt + known.request.tokens


class _Tree:
    """The tree of one request while it grows: a pool of candidates, and among them the nodes that the head went on from."""

    def __init__(self, depth: int, budget: Budget, width: int):
        self.depth, self.budget, self.width, self.level = depth, budget, width, 0
        self.tokens, self.parents, self.scores = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32)
        self.nodes: tuple[list[int], list[int]] = ([], [])  # tokens and parents of the nodes in the head's cache
        self.place: dict[int, int] = {-1: -1}  # candidate -> node
        self.frontier = np.array([-1])  # candidates of the last level that are nodes
        self.next = self.frontier

    @property
    def growing(self) -> bool:
        """Whether another level is allowed and promises enough."""
        if self.level >= self.depth or not len(self.next):
            return False
        promised = float(self.scores[self.next].sum()) if self.level else 1.0
        covered = self.budget.covered[self.level] if self.level < len(self.budget.covered) else 0.0
        return promised * (1 - covered) > self.budget.least

    @property
    def frontier_scores(self) -> np.ndarray:
        return self.scores[self.frontier]

    def add(self, parents: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> None:
        """A level of candidates: ids and scores [M, k] below candidates [M]."""
        keep = (ids.ravel() >= 0) & (scores.ravel() >= self.budget.min_score) & (scores.ravel() > 0)
        first = len(self.tokens)
        self.tokens = np.concatenate([self.tokens, ids.ravel()[keep].astype(np.int32)])
        self.parents = np.concatenate([self.parents, np.repeat(parents, ids.shape[1])[keep].astype(np.int32)])
        self.scores = np.concatenate([self.scores, scores.ravel()[keep]])
        fresh = np.arange(first, len(self.tokens))
        best = fresh[np.argsort(-self.scores[fresh], kind="stable")[: self.width]]
        self.next = np.sort(best)
        self.level += 1

    def open(self) -> list[int]:
        """Makes the best new candidates nodes; returns the places of their parents among the nodes of the level above."""
        above = {int(c): i for i, c in enumerate(self.frontier)}
        self.frontier = self.next
        tokens, parents = self.nodes
        for candidate in self.frontier.tolist():
            parent = int(self.parents[candidate])
            self.place[candidate] = len(tokens)
            tokens.append(int(self.tokens[candidate]))
            parents.append(self.place[parent])
        return [above[int(self.parents[c])] for c in self.frontier]

    def draft(self) -> Draft:
        return merge([Draft(self.tokens, self.parents, self.scores)], self.budget.nodes)
