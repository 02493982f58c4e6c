"""What `ops.unmask_commit` is told about candidates besides their statistics."""

from __future__ import annotations

from typing import Any, Iterator, Sequence

import numpy as np
import torch

from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.facts import Facts
from fastdecode.diffusion.policies import LearnedFilter
from fastdecode.diffusion.policy import Policy
from fastdecode.diffusion.sampling import Sampling
from fastdecode.ops import VocabStats
from fastdecode.ops.reference.random import stream_uniform

SAMPLE, ORDER, PLACE = 5, 6, 7  # purpose words of random keys, see csrc/include/fastdecode/philox.cuh


def scoring(policy: Policy, facts: Facts, owners: Sequence[Canvas], sizes: Sequence[int], positions: np.ndarray, stats: VocabStats) -> dict[str, Any]:
    """Scorer, rule and changes of scores, as keyword arguments.

    Args:
        owners, sizes: whose candidates they are, and how many, one canvas after the other.
        positions: int32 [R], what they are for. stats: of R rows.
    """
    unmask, drawn = policy.unmask, policy.scorer == "random"
    return {
        "scorer": "given" if drawn else policy.scorer,
        "rule": unmask.rule,
        "bar": unmask.bar,
        "scores": _orders(owners, sizes, positions) if drawn else None,
        "factor": _factors(policy, facts, owners, sizes, stats),
        "noise": _noise(policy, owners, sizes, positions) if policy.sampling.alg_temp else None,
        "accepted": unmask.accept(confidence(stats), list(sizes)) if isinstance(unmask, LearnedFilter) else None,
    }


def confidence(stats: VocabStats) -> torch.Tensor:
    """float32 [R], probability of the proposals at temperature 1."""
    return (stats.sample_logit.double() - stats.logsumexp.double()).exp().float()


def last_ids(sampling: Sampling, facts: Facts) -> list[int]:
    """Ids whose positions come last."""
    if not sampling.confidence_eos_eot_inf:
        return []
    return [*facts.end_of_turn] if sampling.confidence_eos_eot_inf == "reference" and sampling.temperature else [*facts.eos, *facts.end_of_turn]


def keys(canvas: Canvas, positions: np.ndarray, purpose: int) -> np.ndarray:
    """int64 [R, 4], keys of this pass's random numbers."""
    result = np.empty((len(positions), 4), np.int64)
    result[:, :2], result[:, 2], result[:, 3] = canvas.key, positions + (np.int64(canvas.clock) << 32), purpose
    return result


def _orders(owners: Sequence[Canvas], sizes: Sequence[int], positions: np.ndarray) -> torch.Tensor:
    """float32 [R], the fixed random scores of the positions."""
    return torch.from_numpy(np.concatenate([c.order[p] for c, p in _each(owners, sizes, positions)]).astype(np.float32))


def _factors(policy: Policy, facts: Facts, owners: Sequence[Canvas], sizes: Sequence[int], stats: VocabStats) -> torch.Tensor | None:
    """float32 [R], below 1 where the end of the text is proposed."""
    factor, last = None, last_ids(policy.sampling, facts)
    proposes = lambda ids: torch.isin(stats.sample, torch.tensor(ids, dtype=torch.int32))
    if policy.end_damping:
        damping = torch.tensor([policy.end_damping.factor(min(c.clock, c.steps - 1), c.steps) for c in owners])
        factor = torch.where(proposes(facts.eos), damping.repeat_interleave(torch.tensor(sizes)), 1.0).float()
    if last:
        factor = torch.where(proposes(last), 0.0, 1.0 if factor is None else factor).float()
    return factor


def _noise(policy: Policy, owners: Sequence[Canvas], sizes: Sequence[int], positions: np.ndarray) -> torch.Tensor:
    """float32 [R]: the best of scores with Gumbel noise are draws without replacement by softmax(score / alg_temp)."""
    uniform = stream_uniform(torch.from_numpy(np.concatenate([keys(c, p, PLACE) for c, p in _each(owners, sizes, positions)])), 1)[:, 0]
    return (policy.sampling.alg_temp * -(-uniform.log()).log()).float()


def _each(owners: Sequence[Canvas], sizes: Sequence[int], positions: np.ndarray) -> Iterator[tuple[Canvas, np.ndarray]]:
    cuts = np.cumsum([0, *sizes])
    return zip(owners, (positions[a:b] for a, b in zip(cuts, cuts[1:])))
