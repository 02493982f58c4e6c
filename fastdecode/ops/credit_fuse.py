from __future__ import annotations

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel
from fastdecode.ops.vocab_stats import VocabStats


def credit_fuse(stats: VocabStats, ids: torch.Tensor, values: torch.Tensor, *, alpha: float, gamma: float, beta: float) -> VocabStats:
    """Gives credit to the most probable token of every row, and corrects what one pass over the logits found for the bonus of all credit.

    Credit is sparse: a row holds at most K tokens. values <- beta * values; the most probable token gets probability^gamma more (in the
    place of the least credited one where there is no room); the result is what `vocab_stats` finds in logits + alpha * log(1 + values),
    without another look at the logits (CreditDecoding, arXiv:2510.06133).

    Args:
        stats: of R rows of logits, with the logits of `ids`.
        ids: int32 [R, K], tokens that hold credit, -1 where there is none. values: float32 [R, K]. Both are changed.

    Returns:
        Statistics whose top1, logsumexp, sample_logit, argmax and sample (the same token) are corrected; the others are not.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device, or statistics without the logits of `ids`.
    """
    rows = stats.ints.shape[0]
    slots = _check.tensor("ids", ids, torch.int32, (rows, None), stats.ints.device).shape[1]
    _check.tensor("values", values, torch.float32, (rows, slots), ids.device)
    if stats.id_logits is None or slots == 0:
        raise ValueError("stats has no logits of ids; pass ids= to the pass that makes them, with at least one column")
    _check.tensor("stats.id_logits", stats.id_logits, torch.float32, (rows, slots), ids.device)
    floats, ints = torch.empty_like(stats.floats), torch.empty_like(stats.ints)
    run = kernel("credit_fuse", ids.device)
    if run is None:
        reference.credit_fuse(stats, ids, values, alpha, gamma, beta, floats, ints)
    else:
        run(stats.floats.data_ptr(), stats.ints.data_ptr(), stats.id_logits.data_ptr(), float(alpha), rows, float(gamma), slots, float(beta), ids.data_ptr(), values.data_ptr(), floats.data_ptr(), ints.data_ptr())
    return VocabStats(floats, ints)
