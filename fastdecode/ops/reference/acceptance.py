"""How often one of several drafts can be kept: the optimum for every drafting rule, and what verification rules reach.

Everything is double precision on one pair of laws [V]. The optimum is 1 + min over token sets H of p(H) - Q(H), where Q(H) is the
chance that all drafts lie in H (max-flow / min-cut; for these rules a prefix of the tokens by p/q attains it, Hu et al.,
arXiv:2502.18779).
"""

from __future__ import annotations

import numpy as np

RACE_STEP, RACE_START, RACE_END = 0.1, 1e-17, 60.0  # of the integral over arrival times


def optimum(p: np.ndarray, q: np.ndarray, n: int, rule: str) -> float:
    """Acceptance rate of the best exact rule for drafts made by `rule`: iid, without_replacement or hybrid:k."""
    if n == 0:
        return 0.0
    if rule == "iid":
        return _iid(p, q, n)
    if rule == "without_replacement":
        return _without_replacement(p, q, n)
    return _hybrid(p, q, n, int(rule.split(":")[1]))


def _by_ratio(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Tokens that can be drafted, by p/q ascending."""
    possible = np.flatnonzero(q > 0)
    return possible[np.argsort(p[possible] / q[possible], kind="stable")]


def _iid(p: np.ndarray, q: np.ndarray, n: int) -> float:
    order = _by_ratio(p, q)
    return 1 + min(0.0, (p[order].cumsum() - np.minimum(q[order].cumsum(), 1) ** n).min(initial=0))


def top_tokens(q: np.ndarray, k: int) -> np.ndarray:
    """The k most probable tokens, ties to the lower id; never one without mass."""
    return np.argsort(-q, kind="stable")[: min(k, int((q > 0).sum()))]


def without(q: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """q restricted to the other tokens and renormalised; all zero if nothing is left."""
    rest = q.copy()
    rest[tokens] = 0
    return rest / rest.sum() if rest.sum() > 0 else rest


def _hybrid(p: np.ndarray, q: np.ndarray, n: int, k: int) -> float:
    fixed = top_tokens(q, min(k, n))
    rest = without(q, fixed)
    if n <= k or not rest.any():
        return float(p[fixed].sum())
    others = p.copy()
    others[fixed] = 0
    # The whole rest as H bounds what its draws can bring by 1 - p(T).
    return float(p[fixed].sum()) + _iid(others, rest, n - k)


def _without_replacement(p: np.ndarray, q: np.ndarray, n: int) -> float:
    order = _by_ratio(p, q)
    p, q = p[order], q[order] / q[order].sum()
    if n >= len(q):
        return float(p.sum())
    outside = np.concatenate([q[::-1].cumsum()[::-1][1:], [0.0]])  # 1 - q(H) without cancellation
    inside = 1 - _all_inside_misses(q, outside, n)
    return 1 + min(0.0, float((p.cumsum() - inside).min()))


def _all_inside_misses(q: np.ndarray, outside: np.ndarray, n: int) -> np.ndarray:
    """1 - Q(H) for every prefix H: a race in which token i arrives at an Exp(q_i) time, and somebody outside H is among the first
    n. Integrates (1 - h) exp(-(1 - h) t) P(fewer than n arrivals from H before t) over t = exp(s)."""
    smallest = outside[outside > 0].min(initial=1.0)
    times = np.exp(np.arange(np.log(RACE_START), np.log(RACE_END / smallest) + RACE_STEP, RACE_STEP))
    fewer = np.zeros((n, len(times)))  # P(exactly k arrivals)
    fewer[0] = 1
    result = np.zeros(len(q))
    for i, (rate, out) in enumerate(zip(q, outside)):
        stays, arrives = np.exp(-rate * times), -np.expm1(-rate * times)
        fewer[1:] = fewer[1:] * stays + fewer[:-1] * arrives
        fewer[0] *= stays
        result[i] = (out * np.exp(-out * times) * fewer.sum(0)) @ times * RACE_STEP
    return result


def reached(p: np.ndarray, q: np.ndarray, n: int, verifier: str) -> float:
    """Acceptance rate of a known verification rule: naive, recursive, recursive_without_replacement or k_seq."""
    if n == 0:
        return 0.0
    return {"naive": _naive, "recursive": _recursive, "recursive_without_replacement": _recursive_without_replacement, "k_seq": k_seq}[verifier](p, q, n)


def _naive(p: np.ndarray, q: np.ndarray, n: int) -> float:
    """Draw from p and see whether it is among the drafts."""
    return float((p * -np.expm1(n * np.log1p(-np.minimum(q, np.nextafter(1, 0))))).sum())


def _positive(weights: np.ndarray) -> np.ndarray:
    rest = np.maximum(weights, 0)
    return rest / rest.sum() if rest.sum() > 0 else rest


def _recursive(p: np.ndarray, q: np.ndarray, n: int) -> float:
    """Recursive rejection with replacement (SpecInfer, arXiv:2305.09781)."""
    rejected, target = 1.0, p
    for _ in range(n):
        rejected *= 1 - np.minimum(target, q).sum()
        target = _positive(target - q)
    return float(1 - rejected)


def _recursive_without_replacement(p: np.ndarray, q: np.ndarray, n: int, exact: int = 2000, paths: int = 256) -> float:
    """Recursive rejection without replacement (arXiv:2402.14160), summed over the tokens that are rejected first; where there are
    more than `exact` sequences of them, over `paths` random ones (always the same)."""
    if float((q > 0).sum()) ** (n - 1) <= exact:
        return _rejection_tree(p, q, n)
    generator = np.random.default_rng(0)
    return float(np.mean([_rejection_path(p, q, n, generator) for _ in range(paths)]))


def _rejection_tree(target: np.ndarray, law: np.ndarray, left: int) -> float:
    kept = np.minimum(target, law)
    rate = float(kept.sum())
    if left == 1:
        return rate
    after = _positive(target - law)
    for token in np.flatnonzero(law - kept > 0):
        remaining = without(law, np.array([token]))
        if remaining.any():
            rate += float(law[token] - kept[token]) * _rejection_tree(after, remaining, left - 1)
    return rate


def _rejection_path(target: np.ndarray, law: np.ndarray, n: int, generator: np.random.Generator) -> float:
    """Chance that a draft is kept, along one random sequence of rejected tokens."""
    rejected = 1.0
    for _ in range(n):
        refused = law - np.minimum(target, law)
        chance = float(refused.sum())
        if chance <= 0:
            return 1.0
        rejected *= chance
        token = int(np.searchsorted(refused.cumsum(), generator.random() * chance, side="right"))
        target, law = _positive(target - law), without(law, np.array([min(token, len(law) - 1)]))
        if not law.any():
            return 1 - rejected
    return 1 - rejected


def k_seq_factor(p: np.ndarray, q: np.ndarray, n: int) -> float:
    """The smallest g in [1, n] for which accepting with probability min(1, p / (g q)) keeps every token's mass below p."""
    fits = lambda g: 1 - (1 - np.minimum(q, p / g).sum()) ** n <= g * np.minimum(q, p / g).sum() + 1e-15
    low, high = 1.0, float(n)
    if fits(low):
        return low
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def k_seq(p: np.ndarray, q: np.ndarray, n: int) -> float:
    """Sequential selection (SpecTr, arXiv:2310.15141)."""
    return float(1 - (1 - np.minimum(q, p / k_seq_factor(p, q, n)).sum()) ** n)
