"""Score-swap: an exact optimal-transport rule for drafts that were drawn independently from one law, on ratio knots.

A token with ratio x = p/q is split between the two neighbouring values ("knots") of a fixed grid so that its mean ratio stays.
Drafts then hit the knots independently with law `mass`, laid out on [0, 1] by ascending ratio. The draft with the highest score wins;
scores are uniform positions in the knot's own interval, some of them swapped between knots so that every token is accepted with
exactly the mass it can have. It follows from the implementability of reduced-form auctions (Border 1991; Hart and Reny 2015) and reaches the
optimum of Hu et al. (arXiv:2502.18779) but for the width of the grid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from fastdecode.ops.reference.law import probabilities
from fastdecode.ops.reference.race import Purpose, node_key, race
from fastdecode.ops.reference.random import stream_uniform
from fastdecode.ops.reference.verify_chain import NO_MASS
from fastdecode.ops.reference.verify_tree_greedy import children, padded

MANTISSA_BITS = 5  # of the grid's floats
SPLIT_BITS = 23 - MANTISSA_BITS  # how finely a token is split between knots
LOWEST, HIGHEST = 2.0**-16, 2.0**16  # ratios of the first knot after 0 and of the last
_FIRST = int(np.float32(LOWEST).view(np.int32)) >> SPLIT_BITS
USED_KNOTS = (int(np.float32(HIGHEST).view(np.int32)) >> SPLIT_BITS) - _FIRST + 2
LANES = 32  # sums over knots run in so many stretches of equal length, which are then added up
KNOTS = -(-(USED_KNOTS + 1) // LANES) * LANES  # the rest stay empty
RATIOS = np.concatenate([[0.0], np.minimum(((np.arange(KNOTS - 1) + _FIRST) << SPLIT_BITS).astype(np.int32).view(np.float32).astype(np.float64), HIGHEST)])
ONE = 2.0**60  # of fixed-point masses: sums of integers do not depend on their order
LEAST_TARGET, MOST_TARGET = 0.25, 4.0  # of a target's sum, which need not be 1
MOST_MASS = 6.0  # of both laws together: integers of ONE hold less than 8
TOTAL_TOLERANCE = 2.0**-8  # by which the mass of a law may differ from 1: bfloat16 rounds each entry by up to 2^-9 of it
ROUNDING = 4e-16  # deficits below this are none


class Split(NamedTuple):
    """Where tokens lie on the grid: ratio rounded down to what the split can hold, lower knot, share of the upper one."""

    ratio: np.ndarray
    cell: np.ndarray
    share: np.ndarray


def split(p: np.ndarray, q: np.ndarray) -> Split:
    """Of float32 laws [V]; tokens with q = 0 get the highest ratio and no mass."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        x = np.where(q > 0, p / q, np.float32(HIGHEST)).astype(np.float32)
        x = np.minimum(x, np.float32(HIGHEST))
        x = np.where(x.astype(float) * q > p, np.nextafter(x, np.float32(0)), x)  # never above the true ratio
    bits = x.view(np.int32)
    low = x < LOWEST
    cell = np.where(low, 0, (bits >> SPLIT_BITS) - _FIRST + 1)
    share = np.where(low, np.floor(x.astype(float) * 2.0 ** (SPLIT_BITS + 16)), bits & ((1 << SPLIT_BITS) - 1)) / 2**SPLIT_BITS
    return Split(np.where(low, share * LOWEST, x.astype(float)), cell, share)


class Histogram(NamedTuple):
    """int64 in units of 2^-60: draft mass per knot [KNOTS], and the totals of both laws."""

    mass: np.ndarray
    draft: int
    target: int


def histogram(p: np.ndarray, q: np.ndarray) -> Histogram:
    where = split(p, q)
    whole = (q.astype(float) * ONE).astype(np.int64)
    upper = (q.astype(float) * where.share * ONE).astype(np.int64)
    mass = np.zeros(KNOTS, np.int64)
    np.add.at(mass, where.cell, whole - upper)
    np.add.at(mass, where.cell + 1, upper)
    return Histogram(mass, int(whole.sum()), int((p.astype(float) * ONE).astype(np.int64).sum()))


class Plan(NamedTuple):
    """What verification of one node needs.

    Attributes:
        alpha: chance that one of the drafts is kept. cap: highest ratio (of unnormalised p and q) that is kept whole.
        threshold: score that a winner must reach.
        left, right: interval [KNOTS] of every knot on [0, 1]. rate: kept mass per draft mass. base: the same if the highest
            position won. need, give: running sums of how much base falls short of rate, or exceeds it.
    """

    alpha: float
    cap: float
    threshold: float
    left: np.ndarray
    right: np.ndarray
    rate: np.ndarray
    base: np.ndarray
    need: np.ndarray
    give: np.ndarray


def nothing() -> Plan:
    """The plan of rows that are not laws: no draft is kept, the token comes from p."""
    zeros = np.zeros(KNOTS)
    return Plan(0.0, 0.0, 2.0, zeros, zeros, zeros, zeros, zeros, zeros)


def power_slope(low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    """(high^n - low^n) / (high - low) = sum over j of high^j low^(n - 1 - j), by doubling, without cancellation."""
    total, low_power, high_power = np.zeros_like(low), np.ones_like(low), np.ones_like(high)  # of the leading bits of n
    for bit in format(n, "b"):
        total = total * (low_power + high_power)
        low_power, high_power = low_power * low_power, high_power * high_power
        if bit == "1":
            total = total * low + high_power
            low_power, high_power = low_power * low, high_power * high
    return total


def plan(p: np.ndarray, q: np.ndarray, n: int, weight: float = 1.0) -> Plan:
    """For n independent draws from q [V], float32; `weight` times p is what the node has to emit."""
    if n == 0 or not ((p >= 0).all() and (q >= 0).all() and p.sum(dtype=float) + q.sum(dtype=float) < MOST_MASS):
        return nothing()
    counts = histogram(p, q)
    if abs(counts.draft / ONE - 1) >= TOTAL_TOLERANCE or not LEAST_TARGET < counts.target / ONE < MOST_TARGET:
        return nothing()
    return plan_knots(counts.mass / counts.draft, counts.mass.cumsum() / counts.draft, RATIOS, n, weight * counts.draft / counts.target)


def running_sum(values: np.ndarray) -> np.ndarray:
    """In an order that a block of threads can follow: within stretches first."""
    if len(values) % LANES:
        return values.cumsum()
    inner = values.reshape(LANES, -1).cumsum(1)
    return (inner + np.concatenate([[0.0], inner[:-1, -1].cumsum()])[:, None]).reshape(-1)


def plan_knots(mass: np.ndarray, right: np.ndarray, ratios: np.ndarray, n: int, scale: float) -> Plan:
    """From ascending knots: mass, its running sum, ratios; `scale` turns ratios into those of normalised laws."""
    left = np.concatenate([[0.0], right[:-1]])
    reached = scale * running_sum(ratios * mass)
    before = np.concatenate([[0.0], reached[:-1]])
    rejected = max(0.0, -min(0.0, float((reached - right**n).min())))
    rejected = rejected if rejected >= NO_MASS else 0.0  # only rounding leads there: the winner is kept
    alpha = 1 - rejected
    threshold = float(np.exp(np.log(rejected) / n)) if rejected > 0 else 0.0
    enough = np.flatnonzero((before + scale * ratios * (1 - left) >= alpha) & (left < 1))
    cap = float((alpha - before[enough[0]]) / (1 - left[enough[0]])) if len(enough) else np.inf
    rate = np.minimum(scale * ratios, cap)
    slope = power_slope(np.maximum(left, threshold), right, n)
    width = np.where(right > left, right - left, 1.0)
    base = np.where((mass == 0) | (right <= threshold), 0.0, np.where(left >= threshold, slope, slope * (right - threshold) / width))
    deficit = mass * (rate - base)
    deficit[np.abs(deficit) < ROUNDING] = 0
    return Plan(alpha, cap / scale, threshold, left, right, rate, base, running_sum(np.maximum(deficit, 0)), running_sum(np.maximum(-deficit, 0)))


def transport_plan(p: torch.Tensor, q: torch.Tensor, draws: torch.Tensor, weight: torch.Tensor | None, p_lse: torch.Tensor | None = None, q_lse: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Plans of rows [R, V], packed: head [R, 3] and knots [R, 5, KNOTS]."""
    weights = [1.0] * len(p) if weight is None else weight.tolist()
    laws = (probabilities(values, lse).cpu().numpy() for values, lse in ((p, p_lse), (q, q_lse)))
    plans = [plan(a, b, n, w) for a, b, n, w in zip(*laws, draws.tolist(), weights)]
    head = np.array([[m.alpha, m.cap, m.threshold] for m in plans]).reshape(-1, 3)
    knots = np.array([[m.right, m.rate, m.base, m.need, m.give] for m in plans]).reshape(-1, 5, KNOTS)
    return torch.from_numpy(head).to(p.device), torch.from_numpy(knots).to(p.device)


def kept_ratio(ratio: np.ndarray, cap: float) -> np.ndarray:
    """Kept mass per draft mass of tokens with these ratios (all in units of unnormalised p and q)."""
    if cap == np.inf:
        return ratio
    at = int(np.searchsorted(RATIOS, cap, side="right"))  # the first knot above the cap
    if at >= KNOTS:
        return np.minimum(ratio, cap)
    low, high = RATIOS[at - 1], RATIOS[at]
    return np.minimum(np.minimum(ratio, low + (ratio - low) * ((cap - low) / (high - low))), cap)


def score(plan: Plan, knot: int, level: float, swap: float, position: float) -> float:
    """Score of a draft in a knot from three uniform numbers."""
    step = lambda sums, i: float(sums[i] - (sums[i - 1] if i else 0.0))
    need, give, cell = step(plan.need, knot), step(plan.give, knot), knot
    if need > 0:
        other = _partner(plan.give, plan.need[knot] - need + level * need)
        chance = (plan.rate[knot] - plan.base[knot]) / (plan.base[other] - plan.base[knot])
        cell = other if swap < chance else knot
    elif give > 0:
        other = _partner(plan.need, plan.give[knot] - give + level * give)
        chance = (plan.base[knot] - plan.rate[knot]) / (plan.base[knot] - plan.base[other])
        cell = other if swap < chance else knot
    return float(plan.left[cell] + position * (plan.right[cell] - plan.left[cell]))


def _partner(sums: np.ndarray, at: float) -> int:
    """The knot whose step of the running sums holds that level; rounding may put the level behind the last step."""
    return int(min(np.searchsorted(sums, at, side="left"), np.searchsorted(sums, sums[-1], side="left")))


def keep(p: torch.Tensor, q: torch.Tensor, draws: list[int], key: torch.Tensor, node: int) -> tuple[int, bool]:
    """The token kept after one node, and whether it is one of the draws. p, q: float32 [V]; draws: repeats included."""
    law, draft = p.numpy(), q.numpy()
    draws = [d for d in draws if 0 <= d < len(law)]
    made = plan(law, draft, len(draws))
    winner, best = -1, -1.0
    where = split(law, draft)
    if draws and made.threshold <= 1:
        coins = stream_uniform(node_key(key, node, Purpose.ACCEPT)[None], 4 * len(draws))[0].tolist()
        for i, token in enumerate(draws):
            choose, level, swap, position = coins[4 * i : 4 * i + 4]
            value = score(made, int(where.cell[token] + (choose < where.share[token])), level, swap, position)
            if value > best:
                winner, best = token, value
        if best >= made.threshold:
            return winner, True
    last = node_key(key, node, Purpose.RESIDUAL)
    if not draws or made.threshold > 1:
        return race(p, last), False
    left = np.maximum(law.astype(float) - draft.astype(float) * kept_ratio(where.ratio, made.cap), 0)
    return race(torch.from_numpy(left), last), False


def verify_tree_transport(tokens, first_child, next_sibling, p, q, key, draw_offsets, draw_tokens, p_lse=None, q_lse=None):
    batch, nodes = tokens.shape
    p, q = probabilities(p, p_lse), probabilities(q, q_lse)
    paths, following = [], []
    for b in range(batch):
        path = [0]
        while True:
            node = path[-1]
            drawn = draw_tokens[int(draw_offsets[b, node]) : int(draw_offsets[b, node + 1])].tolist()
            token, _ = keep(p[b, node], q[b, node], drawn, key[b], node)
            match = [c for c in children(first_child[b], next_sibling[b], node) if int(tokens[b, c]) == token]
            if not match:
                break
            path.append(match[0])
        paths.append(path)
        following.append(token)
    lengths = [len(path) - 1 for path in paths]
    return padded(paths, nodes, tokens.device), torch.tensor(lengths, dtype=torch.int32), torch.tensor(following, dtype=torch.int32)
