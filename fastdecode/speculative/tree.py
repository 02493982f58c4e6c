"""Draft trees: what a drafter proposes for one round, as the arrays that verification reads."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Sequence

import numpy as np
import torch

from fastdecode import _C


@dataclass(frozen=True)
class Draft:
    """A forest below the pending token of one request, in topological order.

    Attributes:
        tokens: int32 [n].
        parents: int32 [n], index of the parent in this draft, -1 for children of the pending token.
        scores: float32 [n], estimated chance that the whole path up to the node is accepted.
        draws: for drafts that were drawn at random, one `Draws` per node that had draws; empty means that every token was
            chosen deterministically.
    """

    tokens: np.ndarray
    parents: np.ndarray
    scores: np.ndarray
    draws: tuple["Draws", ...] = ()

    @classmethod
    def empty(cls) -> "Draft":
        return cls(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))

    @classmethod
    def chain(cls, tokens: Sequence[int], scores: Sequence[float]) -> "Draft":
        """Each token follows the one before it."""
        return cls(np.asarray(tokens, np.int32), np.arange(-1, len(tokens) - 1, dtype=np.int32), np.asarray(scores, np.float32))

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def depth(self) -> int:
        """Tokens on the longest path."""
        if not len(self):
            return 0
        depths: list[int] = []
        for parent in self.parents.tolist():
            depths.append(1 + (depths[parent] if 0 <= parent < len(depths) else 0))  # what is no tree is found out later
        return max(depths)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, parents and scores, as the compiled functions take them."""
        return self.tokens, self.parents, self.scores


class Draws(NamedTuple):
    """Draws made at one node from one law.

    Attributes:
        node: index of the node in its draft, -1 for the pending token.
        tokens: drawn ids in the order they were drawn, repeats included; any of them may be missing from the tree.
        law: float32 [V], exactly the law they were drawn from.
        replacement: whether they are independent; else every token was drawn from what the ones before it left of the law.
    """

    node: int
    tokens: Sequence[int]
    law: torch.Tensor
    replacement: bool = True


def merge(drafts: Sequence[Draft], max_nodes: int) -> Draft:
    """One draft from several deterministic ones: equal paths become one node, the best `max_nodes` nodes stay."""
    if any(d.draws for d in drafts):
        raise ValueError("drafts holds one that was drawn at random; only deterministic drafts can be merged without changing its law")
    return Draft(*_C.merge_drafts([d.arrays for d in drafts], max_nodes))


@dataclass
class DraftTree:
    """The drafts of a batch, padded to N nodes; node 0 is the pending token, padding nodes see only themselves.

    Attributes:
        tokens, parents, depth, first_child, next_sibling: int32 [B, N]; parents are -1 for roots and padding.
        ancestors: int64 [B, N, W], bit i % 64 of word i // 64 says that node i is the node itself or above it.
        num_nodes: int32 [B], the root included.
        draws: per row, the draws made at its nodes (node 0 = root); no draws means the point-mass rule.
    """

    tokens: torch.Tensor
    parents: torch.Tensor
    depth: torch.Tensor
    first_child: torch.Tensor
    next_sibling: torch.Tensor
    ancestors: torch.Tensor
    num_nodes: torch.Tensor
    draws: list[dict[int, Draws]] = field(default_factory=list)

    @classmethod
    def build(cls, pending: Sequence[int], drafts: Sequence[Draft]) -> "DraftTree":
        """Trees of a batch from one draft per row.

        Raises:
            ValueError: a draft is not topologically ordered, siblings repeat a token, or two laws meet at one node.
        """
        arrays = _C.tree_arrays(np.asarray(pending, np.int32), [d.arrays for d in drafts])
        tree = cls(**{name: torch.from_numpy(a) for name, a in arrays.items()})
        tree.draws = [_index_draws(d) for d in drafts]
        return tree

    @classmethod
    def pending_only(cls, pending: Sequence[int]) -> "DraftTree":
        """Trees of a batch without any draft: the pending tokens alone."""
        parents, depth, ancestors, one = _lone_roots(len(pending))
        return cls(torch.tensor(pending, dtype=torch.int32)[:, None], parents, depth, parents, parents, ancestors, one, [{}] * len(pending))

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.tokens.shape)  # type: ignore[return-value]

    def padded(self, of_nodes: torch.Tensor, fill: float) -> torch.Tensor:
        """[B, N, ...] from rows [M, ...] of the nodes, one tree after the other without padding; `fill` at padding nodes."""
        batch, nodes = self.shape
        if len(of_nodes) == batch * nodes:
            return of_nodes.reshape(batch, nodes, *of_nodes.shape[1:]).contiguous()
        result = of_nodes.new_full((batch, nodes, *of_nodes.shape[1:]), fill)
        result[torch.arange(nodes) < self.num_nodes[:, None]] = of_nodes
        return result

    def to(self, device: torch.device) -> "DraftTree":
        """The same tree with its arrays on another device."""
        if self.tokens.device == device:
            return self
        arrays = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "draws"}
        return DraftTree(**arrays, draws=self.draws)

    @property
    def drawn(self) -> bool:
        """Whether any node's children were drawn at random."""
        return any(self.draws)

    def path_tokens(self, row: int, node: int) -> list[int]:
        """Draft tokens from below the root down to `node` (the root's own token is not part of it)."""
        path: list[int] = []
        while node > 0:
            path.append(int(self.tokens[row, node]))
            node = int(self.parents[row, node])
        return path[::-1]


@functools.lru_cache(maxsize=64)
def _lone_roots(batch: int) -> tuple[torch.Tensor, ...]:
    """Parents (and children) [B, 1], depth [B, 1], ancestors [B, 1, 1] and sizes [B] of trees that are a root each."""
    none = torch.full((batch, 1), -1, dtype=torch.int32)
    return none, torch.zeros_like(none), torch.ones(batch, 1, 1, dtype=torch.int64), torch.ones(batch, dtype=torch.int32)


def _index_draws(draft: Draft) -> dict[int, Draws]:
    indexed: dict[int, Draws] = {}
    for draws in draft.draws:
        if draws.node + 1 in indexed:
            raise ValueError(f"node {draws.node} has draws from two laws; a node's draws must come from one")
        indexed[draws.node + 1] = draws
    return indexed
