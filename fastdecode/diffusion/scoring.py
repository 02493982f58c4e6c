"""What `ops.unmask_commit` is told about candidates besides their statistics."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
import torch

from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.policies import LearnedFilter
from fastdecode.diffusion.policy import Policy
from fastdecode.ops import VocabStats


def scoring(policy: Policy, eos: torch.Tensor, owners: Sequence[Canvas], sizes: Sequence[int], positions: np.ndarray, stats: VocabStats) -> dict[str, Any]:
    """Scorer, rule and changes of scores, as keyword arguments.

    Args:
        eos: int32, ids that end a text.
        owners, sizes: whose candidates they are, and how many, one canvas after the other.
        positions: int32 [R], what they are for. stats: of R rows.
    """
    unmask = policy.unmask
    drawn = policy.scorer == "random"
    return {
        "scorer": "given" if drawn else policy.scorer,
        "rule": unmask.rule,
        "bar": unmask.bar,
        "scores": _orders(owners, sizes, positions) if drawn else None,
        "factor": _damping(policy, eos, owners, sizes, stats) if policy.end_damping else None,
        "accepted": unmask.accept(confidence(stats), list(sizes)) if isinstance(unmask, LearnedFilter) else None,
    }


def confidence(stats: VocabStats) -> torch.Tensor:
    """float32 [R], probability of the proposals at temperature 1."""
    return (stats.sample_logit.double() - stats.logsumexp.double()).exp().float()


def _orders(owners: Sequence[Canvas], sizes: Sequence[int], positions: np.ndarray) -> torch.Tensor:
    """float32 [R], the fixed random scores of the positions."""
    cuts = np.cumsum([0, *sizes])
    return torch.from_numpy(np.concatenate([c.order[positions[a:b]] for c, a, b in zip(owners, cuts, cuts[1:])]).astype(np.float32))


def _damping(policy: Policy, eos: torch.Tensor, owners: Sequence[Canvas], sizes: Sequence[int], stats: VocabStats) -> torch.Tensor:
    """float32 [R], below 1 where the end of the text is proposed."""
    factors = torch.tensor([policy.end_damping.factor(min(c.clock, c.steps - 1), c.steps) for c in owners])
    return torch.where(torch.isin(stats.sample, eos), factors.repeat_interleave(torch.tensor(sizes)), 1.0).float()
