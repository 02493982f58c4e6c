from __future__ import annotations

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel
from fastdecode.ops.verify_tree_greedy import TreePath


def verify_tree_recursive(
    tokens: torch.Tensor,
    first_child: torch.Tensor,
    next_sibling: torch.Tensor,
    probs: torch.Tensor,
    draft: torch.Tensor,
    key: torch.Tensor,
    replacement: bool,
    draw_offsets: torch.Tensor | None = None,
    draw_tokens: torch.Tensor | None = None,
) -> TreePath:
    """Recursive rejection sampling for trees whose children were drawn from a draft law.

    At each visited node the draws x are tried in order: x is kept when u < p(x) / q(x), else p <- norm(max(p - q, 0)). With
    replacement q stays (SpecInfer, arXiv:2305.09781); without, x also leaves q, which is renormalised (arXiv:2402.14160), and once q has
    no mass the later draws count as point masses. If no draw is kept, the next token comes from what is left of p.

    Args:
        tokens: int32 [B, N], node 0 is the root; siblings carry distinct tokens.
        first_child, next_sibling: int32 [B, N], node numbers, -1 for none. Without `draw_offsets` siblings stand in draw order.
        probs: float32 [B, N, V], the target's law after each node.
        draft: float32 [B, N, V], row i is the law the children of node i were drawn from; rows of leaves are not read.
        key: int64 [B, 4], (seed, request, round << 32, any). Node i uses word 2 + i; word 3 becomes ACCEPT for its coins (index =
            number of the draw, from 0) and RESIDUAL for the final draw, an exponential race as in `verify_tree_point`.
        replacement: whether the draws were independent (True) or without replacement (False).
        draw_offsets: int32 [B, N + 1], with `draw_tokens`: the draws of node i of row b are
            draw_tokens[draw_offsets[b, i] : draw_offsets[b, i + 1]], repeats included, in order. A kept draw that is no child of
            the node ends the walk and becomes `next_token`. Negative ids are padding.
        draw_tokens: int32 [T].

    Returns:
        TreePath. `next_token` is -1 where what is left of p holds NaN or infinity or has no mass.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout; only one of `draw_offsets` and `draw_tokens` given.
    """
    batch, nodes = _check.tree(tokens, first_child, next_sibling)
    vocab = _check.tensor("probs", probs, torch.float32, (batch, nodes, None), tokens.device).shape[2]
    _check.tensor("draft", draft, torch.float32, (batch, nodes, vocab), tokens.device)
    _check.tensor("key", key, torch.int64, (batch, 4), tokens.device)
    draws = check_draws(draw_offsets, draw_tokens, batch, nodes, tokens.device)
    run = kernel("verify_tree_recursive", tokens.device)
    if run is None:
        return TreePath(*reference.verify_tree_recursive(tokens, first_child, next_sibling, probs, draft, key, replacement, draw_offsets, draw_tokens))
    out = TreePath.empty(batch, nodes, tokens.device)
    workspace = torch.empty(batch, vocab, dtype=torch.float64, device=tokens.device)
    inputs = (t.data_ptr() for t in (tokens, first_child, next_sibling, probs, draft, key))
    lists = (0, 0) if draws is None else (draw_offsets.data_ptr(), draw_tokens.data_ptr())
    run(*inputs, *lists, batch, nodes, vocab, draws or 0, int(replacement), workspace.data_ptr(), *(t.data_ptr() for t in out))
    return out


def check_draws(offsets, flat, batch: int, nodes: int, device: torch.device) -> int | None:
    """Length of the list of draws, None without one."""
    if offsets is None and flat is None:
        return None
    if offsets is None or flat is None:
        raise ValueError(f"{'draw_offsets' if offsets is None else 'draw_tokens'} is missing; pass draw_offsets and draw_tokens together")
    _check.tensor("draw_offsets", offsets, torch.int32, (batch, nodes + 1), device)
    count = _check.tensor("draw_tokens", flat, torch.int32, (None,), device).shape[0]
    if device.type == "cpu" and batch:
        values = offsets.numpy()
        low, high = values.min(), values.max()
        if low < 0 or high > count:
            raise ValueError(f"draw_offsets spans {low} ... {high}, expected 0 ... {count}, the length of draw_tokens")
    return count
