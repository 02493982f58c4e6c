"""Verification of drafts that were chosen deterministically: look-ups, tries, argmax chains."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import torch

from fastdecode import _C, ops
from fastdecode.ops import TreePath
from fastdecode.speculative.request import Request
from fastdecode.speculative.tree import DraftTree
from fastdecode.speculative.verifiers.base import position_keys, probs_of


class GreedyVerifier:
    """Keeps the drafts that equal the target's most probable token (ties: lowest id)."""

    name, lossless = "greedy", True

    def verify(self, tree: DraftTree, logits: torch.Tensor, requests: Sequence[Request], round_number: int) -> TreePath:
        if any(not r.processors.plain for r in requests):
            logits = probs_of(tree, logits, requests)
        batch, nodes, vocab = logits.shape
        choice = ops.vocab_stats(logits.reshape(batch * nodes, vocab)).argmax.reshape(batch, nodes)
        return ops.verify_tree_greedy(tree.tokens, tree.first_child, tree.next_sibling, choice.contiguous())

    def follow(self, tree: DraftTree, choice: np.ndarray) -> list[tuple[list[int], int]]:
        """The same where the most probable tokens, int32 [B, N], are known: row by row the path and the token behind it."""
        return _C.follow_trees(*(tree.arrays[name] for name in ("tokens", "first_child", "next_sibling")), choice)


class PointVerifier:
    """Draws the target's own token at each node and follows the child that equals it: the same tokens as plain sampling."""

    name, lossless = "point", True

    def verify(self, tree: DraftTree, logits: torch.Tensor, requests: Sequence[Request], round_number: int) -> TreePath:
        probs = probs_of(tree, logits, requests)
        return ops.verify_tree_point(tree.tokens, tree.first_child, tree.next_sibling, probs, position_keys(requests, probs.device))
