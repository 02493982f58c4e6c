from __future__ import annotations

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel


def active_set(changed: torch.Tensor, low: torch.Tensor, high: torch.Tensor, since: torch.Tensor, shift: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions that a step of masked diffusion computes again: those of a window that changed after a given step.

    Every cache between two refreshes is such a window (dKV-Cache arXiv:2505.15781, Fast-dLLM arXiv:2505.22618).

    Args:
        changed: int32 [B, L], step at which a position got its token (-1: given; 2^31 - 1: none yet).
        low, high, since: int32 [B]: positions low ... high - 1 with changed > since; since = -2 takes all.
        shift: 1 takes the left neighbours of such positions too, inside the window.

    Returns:
        Positions int32 [B, L], ascending, of which the first `count[b]` are valid, and count int32 [B].

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or shift.
        IndexError: a window leaves the row (on the CPU; a GPU cuts it).
    """
    batch, length = _check.tensor("changed", changed, torch.int32, (None, None)).shape
    for name, value in (("low", low), ("high", high), ("since", since)):
        _check.tensor(name, value, torch.int32, (batch,), changed.device)
    if shift not in (0, 1):
        raise ValueError(f"shift={shift!r} must be 0 or 1")
    positions, count = torch.empty_like(changed), torch.empty_like(low)
    run = kernel("active_set", changed.device)
    if run is None:
        reference.active_set(changed, low, high, since, shift, positions, count)
    else:
        run(changed.data_ptr(), length, low.data_ptr(), high.data_ptr(), since.data_ptr(), batch, shift, positions.data_ptr(), count.data_ptr())
    return positions, count
