from __future__ import annotations

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel
from fastdecode.ops.vocab_stats import VocabStats


def adaptive_block_size(stats: VocabStats, begin: torch.Tensor, position: torch.Tensor, start: torch.Tensor, reach: torch.Tensor, remaining: torch.Tensor, *, delimiters: torch.Tensor, bar: float, default: int) -> torch.Tensor:  # fmt: skip
    """Length of the next block of every sequence (AdaBlock-dLLM, arXiv:2509.26432): up to the most confident delimiter that is proposed ahead.

    Args:
        stats: of R rows of logits, with their proposals.
        begin: int32 [B + 1], first row of each sequence.
        position: int32 [R], ascending in a sequence, what the rows propose tokens for.
        start: int32 [B], where the block begins. reach: int32 [B], how many positions from there are looked at. remaining: int32 [B],
            how many there are.
        delimiters: int32 [D], ids.
        bar: confidence (probability at temperature 1) that a delimiter needs; of equal ones the first counts.
        default: length where there is none, at most `remaining`.

    Returns:
        int32 [B].

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or default.
    """
    rows, device = stats.ints.shape[0], stats.ints.device
    batch = _check.tensor("start", start, torch.int32, (None,), device).shape[0]
    _check.tensor("begin", begin, torch.int32, (batch + 1,), device)
    _check.tensor("position", position, torch.int32, (rows,), device)
    for name, value in (("reach", reach), ("remaining", remaining)):
        _check.tensor(name, value, torch.int32, (batch,), device)
    _check.tensor("delimiters", delimiters, torch.int32, (None,), device)
    if default < 1:
        raise ValueError(f"default={default!r} must be a positive number of positions")
    length = torch.empty_like(start)
    run = kernel("adaptive_block_size", device)
    if run is None:
        reference.adaptive_block_size(stats, begin, position, start, reach, remaining, delimiters, bar, default, length)
    else:
        pointers = (t.data_ptr() for t in (stats.floats, stats.ints, begin, position, start, reach, remaining))
        run(*pointers, batch, delimiters.data_ptr(), len(delimiters), float(bar), int(default), length.data_ptr())
    return length
