from __future__ import annotations

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel
from fastdecode.ops.verify_tree_greedy import TreePath


def verify_tree_point(tokens: torch.Tensor, first_child: torch.Tensor, next_sibling: torch.Tensor, probs: torch.Tensor, key: torch.Tensor) -> TreePath:
    """Exact sampling for deterministic drafts: draws the target's token at each visited node and walks to the child that carries it.

    The same law as accepting a child x with probability p(x) and renormalising without it (EAGLE-2, arXiv:2406.16858), but the
    tokens do not depend on the tree: they are those that plain sampling with the same keys draws. A token is drawn by an
    exponential race, argmin of E_v / p_v over p_v > 0 with E_v = -log1p(-u_v) and the lowest id on ties, so rows need no normalisation.

    Args:
        tokens: int32 [B, N], node 0 is the root; siblings carry distinct tokens.
        first_child, next_sibling: int32 [B, N], node numbers, -1 for none.
        probs: float32 [B, N, V], the target's law after each node. Only rows of visited nodes are read.
        key: int64 [B, 4], (seed, request, position, purpose) of the token after the root; depth d uses position + d.

    Returns:
        TreePath. `next_token` is -1 where the last visited row has no mass or holds NaN or infinity.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout.
    """
    batch, nodes = _check.tree(tokens, first_child, next_sibling)
    _check.tensor("probs", probs, torch.float32, (batch, nodes, None), tokens.device)
    _check.tensor("key", key, torch.int64, (batch, 4), tokens.device)
    run = kernel("verify_tree_point", tokens.device)
    if run is None:
        return TreePath(*reference.verify_tree_point(tokens, first_child, next_sibling, probs, key))
    out = TreePath.empty(batch, nodes, tokens.device)
    inputs = (t.data_ptr() for t in (tokens, first_child, next_sibling, probs, key))
    run(*inputs, batch, nodes, probs.shape[2], *(t.data_ptr() for t in out))
    return out
