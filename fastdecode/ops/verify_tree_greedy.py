from __future__ import annotations

from typing import NamedTuple

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel


class TreePath(NamedTuple):
    """What a verification keeps of each tree.

    Attributes:
        path: int32 [B, N], node numbers from the root (0) downwards, padded with -1.
        accept_len: int32 [B], accepted draft tokens (the root does not count).
        next_token: int32 [B], the target's own token after the last kept node.
    """

    path: torch.Tensor
    accept_len: torch.Tensor
    next_token: torch.Tensor

    @classmethod
    def empty(cls, batch: int, nodes: int, device: torch.device) -> "TreePath":
        return cls(
            torch.empty(batch, nodes, dtype=torch.int32, device=device),
            torch.empty(batch, dtype=torch.int32, device=device),
            torch.empty(batch, dtype=torch.int32, device=device),
        )


def verify_tree_greedy(tokens: torch.Tensor, first_child: torch.Tensor, next_sibling: torch.Tensor, choice: torch.Tensor) -> TreePath:
    """Walks each tree from the root along the children that carry the target's own token.

    With `choice` = argmax this is greedy verification (SpecInfer, arXiv:2305.09781, section 4); with `choice` = a token
    drawn at every node it is exact sampling for deterministic drafts.

    Args:
        tokens: int32 [B, N], node 0 is the root; siblings carry distinct tokens.
        first_child, next_sibling: int32 [B, N], node numbers, -1 for none.
        choice: int32 [B, N], the target's token after each node.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout.
    """
    batch, nodes = _check.tree(tokens, first_child, next_sibling)
    _check.tensor("choice", choice, torch.int32, (batch, nodes), tokens.device)
    run = kernel("verify_tree_greedy", tokens.device)
    if run is None:
        return TreePath(*reference.verify_tree_greedy(tokens, first_child, next_sibling, choice))
    out = TreePath.empty(batch, nodes, tokens.device)
    run(tokens.data_ptr(), first_child.data_ptr(), next_sibling.data_ptr(), choice.data_ptr(), batch, nodes, *(t.data_ptr() for t in out))
    return out
