"""Draft trees: what a drafter proposes for one round, as the arrays that verification reads."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
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
    def extent(self) -> tuple[int, int, int]:
        """Lowest and highest token, and tokens on the longest path, of a draft that is not empty."""
        return _C.draft_extent(self.tokens, self.parents)

    @property
    def depth(self) -> int:
        """Tokens on the longest path."""
        return self.extent[2] if len(self.tokens) else 0

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


def _as_tensor(name: str) -> functools.cached_property:
    return functools.cached_property(lambda tree: torch.from_numpy(tree.arrays[name]))


@dataclass
class DraftTree:
    """The drafts of a batch, padded to N nodes; node 0 is the pending token, padding nodes see only themselves.

    Attributes:
        arrays: the following, as numpy arrays; they become tensors when somebody asks.
        tokens, parents, depth, first_child, next_sibling: int32 [B, N]; parents are -1 for roots and padding.
        ancestors: int64 [B, N, W], bit i % 64 of word i // 64 says that node i is the node itself or above it.
        num_nodes: int32 [B], the root included.
        draws: per row, the draws made at its nodes (node 0 = root); no draws means the point-mass rule.
    """

    arrays: dict[str, np.ndarray]
    draws: list[dict[int, Draws]] = field(default_factory=list)

    tokens, parents, depth = _as_tensor("tokens"), _as_tensor("parents"), _as_tensor("depth")
    first_child, next_sibling = _as_tensor("first_child"), _as_tensor("next_sibling")
    ancestors, num_nodes = _as_tensor("ancestors"), _as_tensor("num_nodes")

    @classmethod
    def build(cls, pending: Sequence[int], drafts: Sequence[Draft]) -> "DraftTree":
        """Trees of a batch from one draft per row.

        Raises:
            ValueError: a draft is not topologically ordered, siblings repeat a token, or two laws meet at one node.
        """
        return cls(_C.tree_arrays(np.asarray(pending, np.int32), [d.arrays for d in drafts]), [_index_draws(d) for d in drafts])

    @classmethod
    def pending_only(cls, pending: Sequence[int]) -> "DraftTree":
        """Trees of a batch without any draft: the pending tokens alone."""
        return cls({"tokens": np.array(pending, np.int32)[:, None], **_lone_roots(len(pending))}, [{}] * len(pending))

    @property
    def shape(self) -> tuple[int, int]:
        return self.arrays["tokens"].shape  # type: ignore[return-value]

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
        tree = DraftTree(self.arrays, self.draws)
        vars(tree).update((name, getattr(self, name).to(device)) for name in self.arrays)
        return tree

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
def _lone_roots(batch: int) -> dict[str, np.ndarray]:
    """All arrays but the tokens of trees that are a root each."""
    none = np.full((batch, 1), -1, np.int32)
    links = dict.fromkeys(("parents", "first_child", "next_sibling"), none)
    return {**links, "depth": np.zeros_like(none), "ancestors": np.ones((batch, 1, 1), np.int64), "num_nodes": np.ones(batch, np.int32)}


def _index_draws(draft: Draft) -> dict[int, Draws]:
    indexed: dict[int, Draws] = {}
    for draws in draft.draws:
        if draws.node + 1 in indexed:
            raise ValueError(f"node {draws.node} has draws from two laws; a node's draws must come from one")
        indexed[draws.node + 1] = draws
    return indexed
