"""Score-swap for whole trees at once: a node is kept or not together with everything below it.

Block verification (arXiv:2403.10444) for any number of draws per node. A node of weight w has to emit w p: its plan says with which
chance h each of the actual draws would win; a child is then verified with the weight that these chances leave for it, and only
when no child passes does the node itself, with the chance that makes up the rest.
"""

from __future__ import annotations

import numpy as np
import torch

from fastdecode.ops.reference import transport
from fastdecode.ops.reference.law import probabilities
from fastdecode.ops.reference.race import Purpose, coin, node_key, race
from fastdecode.ops.reference.verify_tree_greedy import children, padded


def score_law(plan: transport.Plan, where: transport.Split, token: int) -> np.ndarray:
    """[KNOTS]: chance that the score of a draft of this token lies in the interval of each knot."""
    law = np.zeros(len(plan.left))
    for knot, share in ((int(where.cell[token]), 1 - where.share[token]), (int(where.cell[token]) + 1, where.share[token])):
        if share > 0:
            law += share * _row(plan, knot)
    return law


def _row(plan: transport.Plan, knot: int) -> np.ndarray:
    row = np.zeros(len(plan.left))
    row[knot] = 1
    step = lambda sums, i: float(sums[i] - (sums[i - 1] if i else 0.0))
    own, partner = (plan.need, plan.give) if step(plan.need, knot) > 0 else (plan.give, plan.need)
    size = step(own, knot)
    if size <= 0:
        return row
    begin, end = float(own[knot]) - size, float(own[knot])
    for other in range(transport._partner(partner, begin), transport._partner(partner, end) + 1):
        overlap = min(end, float(partner[other])) - max(begin, float(partner[other]) - step(partner, other))
        if overlap > 0:
            moved = overlap / size * (plan.rate[knot] - plan.base[knot]) / (plan.base[other] - plan.base[knot])
            row[other] += moved
            row[knot] -= moved
    return np.maximum(row, 0)


def chances(plan: transport.Plan, laws: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Chance that a draft of each token wins, for `counts` drafts of tokens with score laws [tokens, KNOTS]: the integral over the winner's
    score of its density times the other drafts' distribution functions, polynomials on every interval."""
    points, weights = np.polynomial.legendre.leggauss(int(counts.sum() + 1) // 2)
    sums = laws.cumsum(1)
    won = np.zeros(len(laws))
    for knot in np.flatnonzero((laws > 0).any(0) & (plan.right > plan.threshold)):
        left, right = plan.left[knot], plan.right[knot]
        if right <= left:
            continue
        low = max(left, plan.threshold)
        for point, weight in zip(points, weights):
            v = low + (right - low) * (point + 1) / 2
            below = sums[:, knot] - laws[:, knot] * (right - v) / (right - left)  # distribution functions at v
            for t in np.flatnonzero(laws[:, knot] > 0):
                others = np.prod(np.where(np.arange(len(laws)) == t, below ** (counts - 1), below**counts))
                won[t] += weight / 2 * (right - low) * counts[t] * laws[t, knot] / (right - left) * others
    return won


class _Tree:
    """One row: verifies nodes and remembers where a token was emitted."""

    def __init__(self, arrays, b: int):
        tokens, self.first_child, self.next_sibling, self.p, self.q, key, offsets, flat = arrays
        self.tokens, self.key, self.b = tokens[b], key[b], b
        self.first_child, self.next_sibling, self.p, self.q = (t[b] for t in (self.first_child, self.next_sibling, self.p, self.q))
        self.draws = [[t for t in flat[int(offsets[b, i]) : int(offsets[b, i + 1])].tolist() if 0 <= t < self.p.shape[1]] for i in range(len(self.tokens))]

    def verify(self, path: list[int], weight: float) -> tuple[list[int], int] | None:
        """Kept path and next token if the last node of `path` passes."""
        node, left = path[-1], 1.0
        law, draft = self.p[node].numpy(), self.q[node].numpy()
        below = {int(self.tokens[c]): c for c in children(self.first_child, self.next_sibling, node)}
        drawn = list(dict.fromkeys(self.draws[node]))
        plan = transport.plan(law, draft, len(self.draws[node]), weight)
        won = np.zeros(len(drawn))
        if plan.threshold <= 1:
            where = transport.split(law, draft)
            counts = np.array([self.draws[node].count(t) for t in drawn])
            won = chances(plan, np.stack([score_law(plan, where, t) for t in drawn]), counts)
        for number, token in enumerate(drawn):
            share = min(1.0, float(won[number]) / left) if left > 0 else 0.0
            left -= float(won[number])
            if share <= 0:
                continue
            if token in below:
                passed = self.verify([*path, below[token]], share)
                if passed:
                    return passed
            elif coin(self.key, node, 1 + number) < share:
                return path, token
        passes = 1.0 if weight >= 1 or plan.alpha >= 1 else (weight - plan.alpha) / (1 - plan.alpha)
        if not coin(self.key, node) < passes:
            return None
        return self._emit(path, plan, law, draft, {t: c for t, c in below.items() if t not in drawn})

    def _emit(self, path: list[int], plan: transport.Plan, law: np.ndarray, draft: np.ndarray, fixed: dict[int, int]) -> tuple[list[int], int]:
        """A token from what the drafts leave; a child that was not drawn is verified like a root."""
        last = node_key(self.key, path[-1], Purpose.RESIDUAL)
        left = law if plan.threshold > 1 else np.maximum(law.astype(float) - draft.astype(float) * transport.kept_ratio(transport.split(law, draft).ratio, plan.cap), 0)
        token = race(torch.from_numpy(left), last)
        if token < 0:  # nothing is left, and only rounding leads here
            token = race(torch.from_numpy(law), last)
        if token not in fixed:
            return path, token
        deeper, token = self.verify([fixed[token]], 1.0)
        return [*path, *deeper], token


def verify_tree_transport_block(tokens, first_child, next_sibling, p, q, key, draw_offsets, draw_tokens, p_lse=None, q_lse=None):
    batch, nodes = tokens.shape
    arrays = (tokens, first_child, next_sibling, probabilities(p, p_lse), probabilities(q, q_lse), key, draw_offsets, draw_tokens)
    kept = [_Tree(arrays, b).verify([0], 1.0) for b in range(batch)]
    lengths = [len(path) - 1 for path, _ in kept]
    return padded([path for path, _ in kept], nodes, tokens.device), torch.tensor(lengths, dtype=torch.int32), torch.tensor([token for _, token in kept], dtype=torch.int32)
