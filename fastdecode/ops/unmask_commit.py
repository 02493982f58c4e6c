from __future__ import annotations

from typing import NamedTuple

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel
from fastdecode.ops.vocab_stats import VocabStats

MASKED = 2**31 - 1  # in `changed`: no token yet
SCORERS = ("confidence", "margin", "neg_entropy", "left_to_right", "given")
RULES = ("top_k", "threshold", "factor", "factor_with_last")


class Commits(NamedTuple):
    """What `unmask_commit` did.

    Attributes:
        scores: float32 [R], -inf for candidates that could not be chosen.
        rank: int32 [R], place of a candidate among those of its sequence, 0 for the best.
        chosen: int32 [B], tokens written.
    """

    scores: torch.Tensor
    rank: torch.Tensor
    chosen: torch.Tensor


def unmask_commit(
    stats: VocabStats,
    begin: torch.Tensor,
    position: torch.Tensor,
    tokens: torch.Tensor,
    changed: torch.Tensor,
    *,
    quota: torch.Tensor,
    step: int,
    scorer: str = "confidence",
    rule: str = "top_k",
    bar: float = 0.0,
    scores: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    accepted: torch.Tensor | None = None,
) -> Commits:
    """Chooses which proposals of masked positions become tokens, and writes them, in one pass per sequence.

    Candidates are scored and ordered (best first, equal scores by position); taken are those that the rule takes and in any
    case the best `quota[b]`. A candidate whose position has a token, or that proposes none, is never taken.

    Args:
        stats: of R rows of logits; the proposal of a row is its sample (the argmax where nothing was drawn).
        begin: int32 [B + 1], first candidate of each sequence.
        position: int32 [R], column of `tokens` that a row proposes a token for; ascending within a sequence.
        tokens: int32 [B, L]. changed: int32 [B, L], step that wrote a token, `MASKED` where none did. Both are written to.
        quota: int32 [B], not negative.
        step: written to `changed`.
        scorer: "confidence" (probability of the proposal at temperature 1), "margin" (of the two most probable tokens),
            "neg_entropy", "left_to_right", or "given": `scores` float32 [R].
        rule: "top_k" takes none beyond the quota; "threshold" all with score >= bar; "factor" the n best where
            (n + 1)(1 - n-th score) < bar and the best in any case (Fast-dLLM, arXiv:2505.22618); "factor_with_last" the same,
            and all when only the last one fails, as the published code counts.
        factor: float32 [R] that scores are multiplied by (EOSER).
        accepted: bool [R], candidates that are taken whatever their score (a learned filter).

    Raises:
        TypeError, ValueError: wrong dtype, shape, device, scorer or rule.
        IndexError: positions do not ascend within the columns (on the CPU; a GPU ignores what lies outside).
    """
    sizes = _require(stats, begin, position, tokens, changed, quota, scorer, rule, scores, factor, accepted)
    rows, batch, device = *sizes, tokens.device
    scores = scores.clone() if scores is not None else torch.empty(rows, dtype=torch.float32, device=device)
    result = Commits(scores, torch.empty(rows, dtype=torch.int32, device=device), torch.empty(batch, dtype=torch.int32, device=device))
    run = kernel("unmask_commit", device)
    if run is None:
        reference.unmask_commit(stats, begin, position, tokens, changed, quota, step, scorer, rule, bar, factor, accepted, result)
        return result
    address = lambda t: 0 if t is None else t.data_ptr()
    scratch = torch.empty(rows, dtype=torch.float32, device=device)
    run(
        *map(address, (stats.floats, stats.ints, begin, position, factor, accepted, quota)), rows, batch, SCORERS.index(scorer), RULES.index(rule), float(bar), step,
        address(tokens), address(changed), tokens.shape[1], *map(address, (result.scores, scratch, result.rank, result.chosen)),
    )  # fmt: skip
    return result


def _require(stats, begin, position, tokens, changed, quota, scorer, rule, scores, factor, accepted) -> tuple[int, int]:
    batch, columns = _check.tensor("tokens", tokens, torch.int32, (None, None)).shape
    device = tokens.device
    _check.tensor("changed", changed, torch.int32, (batch, columns), device)
    rows = _check.tensor("position", position, torch.int32, (None,), device).shape[0]
    _check.tensor("stats.floats", stats.floats, torch.float32, (rows, 16), device)
    _check.tensor("stats.ints", stats.ints, torch.int32, (rows, 2), device)
    _check.tensor("begin", begin, torch.int32, (batch + 1,), device)
    _check.tensor("quota", quota, torch.int32, (batch,), device)
    for name, value, dtype in (("scores", scores, torch.float32), ("factor", factor, torch.float32), ("accepted", accepted, torch.bool)):
        if value is not None:
            _check.tensor(name, value, dtype, (rows,), device)
    if scorer not in SCORERS:
        raise ValueError(f"scorer={scorer!r} is unknown: use {', '.join(SCORERS)}")
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown: use {', '.join(RULES)}")
    if (scorer == "given") != (scores is not None):
        raise ValueError(f"scorer={scorer!r} {'needs scores=, float32 [R]' if scores is None else 'has no use for scores=; leave them out'}")
    return rows, batch
