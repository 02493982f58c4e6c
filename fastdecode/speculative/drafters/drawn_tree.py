"""Trees of drafts that are drawn at random: level by level, from laws that a draft model gives.

Losslessness asks for two things (see docs/transport.md): everything that was drawn at a node takes part in its verification,
whether or not it became a node of the tree; and whether a node exists, and how many draws it gets, may depend on what was drawn
above it and beside it, never on draws made at it or below. Keeping the nodes of highest cumulative draft probability obeys this.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import torch

from fastdecode.speculative.tree import Draft, Draws

MAX_DRAWS = 64  # at one node
HEAD = 64  # most probable tokens that are looked at when draws are counted


def draws_for(law: torch.Tensor, children: int) -> int:
    """How many independent draws from law [V] give about `children` distinct tokens, at most `MAX_DRAWS`.

    Repeats cost no node, so more tokens are drawn than there is room for. The count depends on the law alone.
    """
    head = law.topk(min(HEAD, len(law))).values.double().numpy()
    tail = max(0.0, 1.0 - float(head.sum()))  # of rare tokens: each draw from there is a new one
    counts = np.arange(1, MAX_DRAWS + 1)
    distinct = (1 - (1 - np.minimum(head, 1)[None]) ** counts[:, None]).sum(1) + tail * counts
    return max(1, int(np.searchsorted(distinct, children + 1e-9, side="right")))


def random_numbers(key: Sequence[int]) -> np.random.Generator:
    """Of a key of four words; the same numbers whatever else is drawn."""
    words = np.array(key).astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=words[:2], counter=[0, 0, *words[2:]]))


def draw(law: torch.Tensor, count: int, numbers: np.random.Generator) -> list[int]:
    """Independent draws from law [V]."""
    sums = np.cumsum(law.numpy(), dtype=np.float64)
    return _at(sums, numbers.random(count)).tolist()


def _at(sums: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Ids at which running sums [V] pass these parts of the total."""
    return np.minimum(np.searchsorted(sums, uniform * sums[-1], side="right"), np.searchsorted(sums, sums[-1]))


def draw_distinct(law: torch.Tensor, count: int, numbers: np.random.Generator) -> list[int]:
    """Draws without replacement from law [V]: the first arrivals of a race in which token v finishes at an Exp(law_v) time."""
    masses = law.numpy()
    possible = np.flatnonzero(masses)
    times = numbers.exponential(size=len(possible)) / masses[possible]
    first = np.argpartition(times, min(count, len(times)) - 1)[:count]
    return possible[first[times[first].argsort()]].tolist()


def as_independent(draws: Draws, numbers: np.random.Generator) -> list[int]:
    """Independent draws in which the tokens of draws without replacement are those that appear first, in their order.

    Between two of them repeats of the earlier ones are put in, as often and in such proportion as independent draws have them; as many
    draws follow as bring the stream half-way to the length at which that many distinct tokens are usual.
    """
    law = draws.law.double() / draws.law.double().sum()
    length = len(draws.tokens) + (draws_for(draws.law, len(draws.tokens)) - len(draws.tokens)) // 2
    stream: list[int] = []
    for i, token in enumerate(draws.tokens):
        stream.append(token)
        seen = torch.tensor(draws.tokens[: i + 1])
        mass = min(float(law[seen].sum()), 1 - 1e-12)
        repeats = min(length, int(numbers.geometric(1 - mass)) - 1)
        if i + 1 < len(draws.tokens):
            stream += [draws.tokens[j] for j in draw(law[seen], repeats, numbers)]
    return stream[:length] + draw(law, max(0, length - len(stream)), numbers)


def without_most_probable(law: torch.Tensor, count: int) -> tuple[list[int], torch.Tensor | None]:
    """The `count` most probable tokens of law [V], ties to the lower id, and the law of the others, None where none is left."""
    if not count:
        return [], law
    order = np.argsort(-law.numpy(), kind="stable")[:count]
    fixed = [int(token) for token in order if law[token] > 0]
    rest = law.clone()
    rest[fixed] = 0
    mass = float(rest.double().sum())
    return fixed, rest.div_(mass) if mass > 0 else None


class DrawnTree:
    """A tree under construction for one request.

    Args:
        nodes: how many it may hold. depth: how many levels it will get.
        key: seed and request words of the random numbers, round, purpose.
        replacement: whether draws are independent, or distinct and then no more than there is room for.
        fixed: most probable tokens of every node that are always drafted; only the others are drawn.
    """

    def __init__(self, nodes: int, depth: int, key: tuple[int, int, int, int], replacement: bool = True, fixed: int = 0):
        self.width = max(1, nodes // max(1, depth))
        self.room, self.levels, self.key, self.replacement, self.fixed = nodes, depth, key, replacement, fixed
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.scores: list[float] = []
        self.draws: list[Draws] = []
        self.frontier = [-1]  # nodes that the next level grows from; -1 is the pending token

    @property
    def growing(self) -> bool:
        return self.levels > 0 and self.room > 0 and bool(self.frontier)

    def grow(self, laws: torch.Tensor) -> None:
        """Adds one level. laws: float32 [1 + nodes, V], after the pending token and after every node so far."""
        weights = np.array([1.0 if node < 0 else self.scores[node] for node in self.frontier])
        shares = np.maximum(1, np.round(self.width * weights / weights.sum())).astype(int)
        candidates: dict[tuple[int, int], float] = {}
        for node, weight, share in zip(self.frontier, weights.tolist(), shares.tolist()):
            law = laws[node + 1]
            if not 0 < float(law.numpy().sum()) < np.inf:  # NaN is in no interval
                continue
            for token in self._tokens(node, law, share):
                candidates[node, token] = weight * float(law[token])
        best = sorted(candidates, key=candidates.__getitem__, reverse=True)[: min(self.width, self.room)]
        first = len(self.tokens)
        for node, token in best:
            self.tokens.append(token)
            self.parents.append(node)
            self.scores.append(candidates[node, token])
        self.frontier = list(range(first, len(self.tokens)))
        self.room -= len(best)
        self.levels -= 1

    def _tokens(self, node: int, law: torch.Tensor, children: int) -> list[int]:
        """About so many tokens to follow a node, some of them more than once: those that are fixed, and draws from what these leave of law [V]."""
        fixed, rest = without_most_probable(law, self.fixed)
        if rest is None:
            return fixed
        numbers = random_numbers((*self.key[:2], self.key[2] << 32 | len(self.draws), self.key[3]))
        wanted = max(1, children - len(fixed))
        drawn = draw(rest, draws_for(rest, wanted), numbers) if self.replacement else draw_distinct(rest, wanted, numbers)
        self.draws.append(Draws(node, drawn, rest, self.replacement))
        return fixed + drawn

    def draft(self) -> Draft:
        return Draft(np.asarray(self.tokens, np.int32), np.asarray(self.parents, np.int32), np.asarray(self.scores, np.float32), tuple(self.draws))
