from __future__ import annotations

from typing import NamedTuple

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel
from fastdecode.ops.unmask_commit import Commits


class DraftStates(NamedTuple):
    """States that a canvas may come to.

    Attributes:
        tokens, changed: int32 [B, depth, L], of which the first `count[b]` drafts are valid.
        count: int32 [B], from 1 to depth.
    """

    tokens: torch.Tensor
    changed: torch.Tensor
    count: torch.Tensor


def draft_states(ints: torch.Tensor, begin: torch.Tensor, position: torch.Tensor, commits: Commits, tokens: torch.Tensor, changed: torch.Tensor, *, depth: int, step: int) -> DraftStates:
    """Drafts of the states that come next, without a pass (FreeDave, arXiv:2510.00294): draft k has the k best proposals more.

    Args:
        ints: int32 [R, 2], proposals of `unmask_commit`'s candidates, all of masks; begin, position: as there.
        commits: what it chose. The best `chosen[b]` are in `tokens` already; draft 0 is `tokens` itself.
        tokens, changed: int32 [B, L].
        depth: most drafts of a sequence. One candidate at least is left a mask in each, where there are any.
        step: written to `changed` of what is drafted.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or depth.
        IndexError: candidates lie outside their arrays (on the CPU; a GPU ignores them).
    """
    batch, length = _check.tensor("tokens", tokens, torch.int32, (None, None)).shape
    device = tokens.device
    _check.tensor("changed", changed, torch.int32, (batch, length), device)
    rows = _check.tensor("position", position, torch.int32, (None,), device).shape[0]
    _check.tensor("ints", ints, torch.int32, (rows, 2), device)
    _check.tensor("begin", begin, torch.int32, (batch + 1,), device)
    _check.tensor("commits.rank", commits.rank, torch.int32, (rows,), device)
    _check.tensor("commits.chosen", commits.chosen, torch.int32, (batch,), device)
    if not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth={depth!r} must be a positive number of drafts")
    drafts = DraftStates(tokens.new_empty(batch, depth, length), tokens.new_empty(batch, depth, length), tokens.new_empty(batch))
    run = kernel("draft_states", device)
    if run is None:
        reference.draft_states(ints, begin, position, commits.rank, commits.chosen, tokens, changed, depth, step, *drafts)
    else:
        pointers = (t.data_ptr() for t in (ints, begin, position, commits.rank, commits.chosen))
        run(*pointers, rows, batch, depth, step, tokens.data_ptr(), changed.data_ptr(), length, *(t.data_ptr() for t in drafts))
    return drafts


def verify_states(drafts: DraftStates, next_tokens: torch.Tensor, next_changed: torch.Tensor) -> torch.Tensor:
    """How far the drafts of every sequence are certain (FreeDave, arXiv:2510.00294).

    Draft 0 is. A draft is if all its tokens are in the successor of an earlier one that is: of several the last is gone on from.

    Args:
        next_tokens, next_changed: int32 [B, depth, L], what one step made of every draft.

    Returns:
        int32 [B], index of the last draft that is certain.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device.
        IndexError: a count is not from 1 to depth (on the CPU; a GPU cuts it).
    """
    batch, depth, length = _check.tensor("drafts.tokens", drafts.tokens, torch.int32, (None, None, None)).shape
    device = drafts.tokens.device
    for name, value in (("drafts.changed", drafts.changed), ("next_tokens", next_tokens), ("next_changed", next_changed)):
        _check.tensor(name, value, torch.int32, (batch, depth, length), device)
    _check.tensor("drafts.count", drafts.count, torch.int32, (batch,), device)
    reached = torch.empty_like(drafts.count)
    run = kernel("verify_states", device)
    if run is None:
        reference.verify_states(drafts.tokens, drafts.changed, next_tokens, next_changed, drafts.count, reached)
    else:
        run(drafts.tokens.data_ptr(), drafts.changed.data_ptr(), next_tokens.data_ptr(), next_changed.data_ptr(), drafts.count.data_ptr(), batch, depth, length, reached.data_ptr())
    return reached
