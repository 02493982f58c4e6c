from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel
from fastdecode.ops.vocab_stats import VocabStats

MASKED = 2**31 - 1  # in `changed`: no token yet
SCORERS = ("confidence", "margin", "neg_entropy", "left_to_right", "given")
FINISH = ("block_open", "block_full", "canvas_full", "text_ended")
RULES = ("top_k", "threshold", "factor", "factor_with_last")


class Commits(NamedTuple):
    """What `unmask_commit` did.

    Attributes:
        scores: float32 [R], -inf for candidates that could not be chosen.
        rank: int32 [R], place of a candidate among those of its sequence, 0 for the best.
        chosen: int32 [B], tokens written.
        finish: int32 [B], index into `FINISH`: masks are left in the block, none are in the block, none are in the canvas, an end of
            text was generated that no mask stands before. None without `canvas`.
    """

    scores: torch.Tensor
    rank: torch.Tensor
    chosen: torch.Tensor
    finish: torch.Tensor | None = None


def unmask_commit(
    stats: VocabStats, begin: torch.Tensor, position: torch.Tensor, tokens: torch.Tensor, changed: torch.Tensor, *, quota: torch.Tensor, step: int,
    scorer: str = "confidence", rule: str = "top_k", bar: float = 0.0, scores: torch.Tensor | None = None, factor: torch.Tensor | None = None, noise: torch.Tensor | None = None,
    tie: torch.Tensor | None = None, accepted: torch.Tensor | None = None, canvas: torch.Tensor | None = None, eos: torch.Tensor | None = None, cut: float = math.inf,
) -> Commits:  # fmt: skip
    """Chooses which proposals of masked positions become tokens, and writes them, in one pass per sequence.

    Candidates are scored and ordered (best first, equal scores by `tie`, then by position); taken are those that the rule takes and in any
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
        noise: float32 [R] that is added to them then.
        tie: float32 [R], of equal scores the one with more of this is better.
        accepted: bool [R], candidates that are taken whatever their score (a learned filter).
        canvas: int32 [B, 3], columns where the canvas begins, where its current block ends and where it ends: asks for `finish`.
        eos: int32 [E], ids that end a text, where they are generated.
        cut: an end of text that is taken with this score becomes the token of all masks of the canvas behind it (EoTP, arXiv:2509.25188).

    Raises:
        TypeError, ValueError: wrong dtype, shape, device, scorer or rule.
        IndexError: positions or canvases do not ascend within the columns (on the CPU; a GPU ignores what lies outside).
    """
    per_row = {"scores": scores, "factor": factor, "noise": noise, "tie": tie, "accepted": accepted}
    sizes = _require(stats, begin, position, tokens, changed, quota, scorer, rule, per_row, canvas, eos)
    rows, batch, device = *sizes, tokens.device
    if eos is None:
        eos = torch.empty(0, dtype=torch.int32, device=device)
    scores = scores.clone() if scores is not None else torch.empty(rows, dtype=torch.float32, device=device)
    result = Commits(scores, torch.empty(rows, dtype=torch.int32, device=device), torch.empty_like(quota), None if canvas is None else torch.empty_like(quota))
    run = kernel("unmask_commit", device)
    if run is None:
        reference.unmask_commit(stats, begin, position, tokens, changed, quota, step, scorer, rule, bar, result, factor, noise, tie, accepted, canvas, eos, cut)
        return result
    address = lambda t: 0 if t is None else t.data_ptr()
    scratch = torch.empty(rows, dtype=torch.float32, device=device)
    run(
        *map(address, (stats.floats, stats.ints, begin, position, factor, noise, tie, accepted, quota)), rows, batch, SCORERS.index(scorer), RULES.index(rule), float(bar), step,
        float(cut), address(canvas), address(eos), len(eos), address(tokens), address(changed), tokens.shape[1], *map(address, (result.scores, scratch, *result[1:])),
    )  # fmt: skip
    return result


def _require(stats, begin, position, tokens, changed, quota, scorer, rule, per_row, canvas, eos) -> tuple[int, int]:
    batch, columns = _check.tensor("tokens", tokens, torch.int32, (None, None)).shape
    device = tokens.device
    _check.tensor("changed", changed, torch.int32, (batch, columns), device)
    rows = _check.tensor("position", position, torch.int32, (None,), device).shape[0]
    _check.tensor("stats.floats", stats.floats, torch.float32, (rows, 16), device)
    _check.tensor("stats.ints", stats.ints, torch.int32, (rows, 2), device)
    _check.tensor("begin", begin, torch.int32, (batch + 1,), device)
    _check.tensor("quota", quota, torch.int32, (batch,), device)
    for name, value in per_row.items():
        if value is not None:
            _check.tensor(name, value, torch.bool if name == "accepted" else torch.float32, (rows,), device)
    if canvas is not None:
        _check.tensor("canvas", canvas, torch.int32, (batch, 3), device)
    if eos is not None:
        _check.tensor("eos", eos, torch.int32, (None,), device)
    if scorer not in SCORERS:
        raise ValueError(f"scorer={scorer!r} is unknown: use {', '.join(SCORERS)}")
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown: use {', '.join(RULES)}")
    if (scorer == "given") != (per_row["scores"] is not None):
        raise ValueError(f"scorer={scorer!r} {'needs scores=, float32 [R]' if per_row['scores'] is None else 'has no use for scores=; leave them out'}")
    return rows, batch
