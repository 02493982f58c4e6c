from __future__ import annotations

import torch

from fastdecode.ops import _check
from fastdecode.ops.vocab_stats import VocabStats


def adaptive_block_size(stats: VocabStats, position: torch.Tensor, start: int, reach: int, remaining: int, *, delimiters: torch.Tensor, bar: float, default: int) -> int:
    """Length of the next block (AdaBlock-dLLM, arXiv:2509.26432): up to the most confident delimiter that is proposed ahead.

    Args:
        stats: of R rows of logits, with their proposals.
        position: int32 [R], ascending, what the rows propose tokens for.
        start: where the block begins. reach: how many positions from there are looked at. remaining: how many there are.
        delimiters: int32 ids.
        bar: confidence (probability at temperature 1) that a delimiter needs; of equal ones the first counts.
        default: length where there is none, at most `remaining`.
    """
    _check.tensor("position", position, torch.int32, (stats.ints.shape[0],), stats.ints.device)
    proposal = stats.ints[:, 1]
    candidate = torch.isin(proposal, delimiters) & (position >= start) & (position < start + reach)
    if candidate.any():
        confidence = (stats.sample_logit.double() - stats.logsumexp.double()).exp().float().masked_fill(~candidate, -1.0)
        best = int(confidence.argmax())
        if float(confidence[best]) >= bar:
            return int(position[best]) - start + 1
    return min(default, remaining)
