from __future__ import annotations

import torch

from fastdecode import _C
from fastdecode.ops import _check, _workspace, reference
from fastdecode.ops._dispatch import DTYPE_CODES, kernel

MAX_CHILDREN = 64


def tree_expand(logits: torch.Tensor, scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most probable children of draft nodes, and the probability of the paths that end in them (EAGLE-2, arXiv:2406.16858).

    Args:
        logits: [R, V] float32, bfloat16 or float16 after every node; the last dimension is contiguous, V > 0.
        scores: float32 [R], probability of the path to every node.
        k: children per node, 1 to 64.

    Returns:
        int32 [R, k], ids in descending order of their logits (the lowest first among equals), and float32 [R, k], the node's score
        times the child's probability. Where a row has fewer tokens of finite logit, -1 and 0 follow; a row that holds NaN or +inf has
        no children.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout, or k out of range.
    """
    rows, vocab = _check.rows("logits", logits, tuple(DTYPE_CODES))
    if vocab == 0:
        raise ValueError("logits has no columns; a vocabulary holds at least one token")
    _check.tensor("scores", scores, torch.float32, (rows,), logits.device)
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_CHILDREN:
        raise ValueError(f"k={k!r} must be an integer from 1 to {MAX_CHILDREN}")
    run = kernel("tree_expand", logits.device)
    if run is None:
        return reference.tree_expand(logits, scores, k)
    ids = torch.empty(rows, k, dtype=torch.int32, device=logits.device)
    children = torch.empty(rows, k, dtype=torch.float32, device=logits.device)
    scratch = _workspace.uninitialised(_C.num_threads() * _C.tree_expand_scratch(vocab)).data_ptr() if logits.is_cpu else 0
    run(logits.data_ptr(), rows, vocab, logits.stride(0), DTYPE_CODES[logits.dtype], scores.data_ptr(), k, ids.data_ptr(), children.data_ptr(), scratch)
    return ids, children
