"""The optimum by three routes that share nothing (closed forms, linear program, all token sets), and what known rules reach."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from fastdecode import ops
from fastdecode.ops.reference.acceptance import k_seq_factor, top_tokens, without

RULES = ["iid", "without_replacement", "hybrid:1", "hybrid:2"]
WORKED = [  # p, q, n, rates
    ((0.1, 0.3, 0.6), (0.5, 0.3, 0.2), 1, dict(iid=0.6)),
    ((0.1, 0.3, 0.6), (0.5, 0.3, 0.2), 2, {"iid": 0.76, "without_replacement": 0.885714286, "hybrid:1": 0.8, "recursive": 0.68, "recursive_without_replacement": 0.76, "k_seq": 0.708062485, "naive": 0.444}),
    ((0.1, 0.3, 0.6), (0.5, 0.3, 0.2), 3, {"iid": 0.888, "without_replacement": 1.0, "hybrid:2": 1.0, "recursive": 0.744, "recursive_without_replacement": 1.0, "k_seq": 0.789673609}),
    ((0.05, 0.15, 0.2, 0.25, 0.35), (0.4, 0.1, 0.3, 0.15, 0.05), 2, {"iid": 0.7475, "without_replacement": 0.769140990, "hybrid:1": 0.733333333, "recursive": 0.685, "recursive_without_replacement": 0.735515873, "k_seq": 0.708062485}),
    ((0.05, 0.15, 0.2, 0.25, 0.35), (0.4, 0.1, 0.3, 0.15, 0.05), 3, {"iid": 0.792625, "without_replacement": 0.880404889, "hybrid:2": 0.816666667, "recursive": 0.73825, "recursive_without_replacement": 0.778289242, "k_seq": 0.751224211}),
]  # fmt: skip


def laws(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("p, q, n, rates", WORKED)
def test_worked_values(p, q, n, rates):
    for rule, rate in rates.items():
        assert ops.transport_alpha(laws(p), laws(q), n, rule) == pytest.approx(rate, abs=1e-9), rule


@pytest.mark.parametrize("seed, vocab, n, spread, noise, rates", [
    (21, 32000, 4, 1.3, 1.2, {"iid": 0.992601682, "k_seq": 0.910647, "recursive": 0.869636, "naive": 0.498995, "hybrid:3": 0.974152832}),
    (22, 128256, 2, 1.0, 0.8, {"iid": 0.844945777, "k_seq": 0.781527, "recursive": 0.753994, "naive": 0.009895, "hybrid:1": 0.680960518, "without_replacement": 0.845790330}),
])  # fmt: skip
def test_large_vocabularies(seed, vocab, n, spread, noise, rates):
    generator = np.random.default_rng(seed)
    z = -spread * np.log(np.arange(1, vocab + 1)) + generator.standard_normal(vocab)
    softmax = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    p, q = softmax(z + noise * generator.standard_normal(vocab)), softmax(z)
    for rule, rate in rates.items():
        assert ops.transport_alpha(laws(p), laws(q), n, rule) == pytest.approx(rate, abs=1e-6), rule


def law_of_sets(q: np.ndarray, n: int, rule: str) -> dict[frozenset, float]:
    """Distinct drafted tokens -> probability, over all sequences of draws."""
    chances: dict[frozenset, float] = defaultdict(float)
    if rule == "without_replacement":
        n = min(n, int((q > 0).sum()))
        for order in itertools.permutations(np.flatnonzero(q > 0), n):
            left, chance = 1.0, 1.0
            for token in order:
                chance *= q[token] / left
                left -= q[token]
            chances[frozenset(order)] += chance
        return chances
    k = int(rule.split(":")[1]) if ":" in rule else 0
    fixed = top_tokens(q, min(k, n))
    rest, left = without(q, fixed), max(0, n - k)
    if not rest.any():
        left = 0
    for drawn in itertools.product(range(len(q)), repeat=left):
        chances[frozenset(drawn) | frozenset(fixed.tolist())] += float(np.prod(rest[list(drawn)]))
    return chances


def by_linear_program(p: np.ndarray, sets: dict[frozenset, float]) -> float:
    names = list(sets)
    pairs = [(i, y) for i, members in enumerate(names) for y in members]
    limits = np.zeros((len(names) + len(p), len(pairs)))
    for column, (i, y) in enumerate(pairs):
        limits[i, column] = limits[len(names) + y, column] = 1
    solution = linprog(-np.ones(len(pairs)), A_ub=limits, b_ub=[*sets.values(), *p], method="highs", options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10})
    return -solution.fun


def by_all_subsets(p: np.ndarray, sets: dict[frozenset, float]) -> float:
    inside = lambda subset: sum(chance for members, chance in sets.items() if members <= subset)
    subsets = (frozenset(c) for size in range(len(p) + 1) for c in itertools.combinations(range(len(p)), size))
    return 1 + min(p[list(h)].sum() - inside(h) for h in subsets)


def instance(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    generator = np.random.default_rng(seed)
    vocab, n = int(generator.integers(2, 6)), int(generator.integers(1, 4))
    q = generator.dirichlet(np.full(vocab, generator.choice([0.3, 1.0, 5.0])))
    p = generator.dirichlet(np.full(vocab, generator.choice([0.3, 1.0, 5.0])))
    kind = seed % 8
    if kind == 1:
        p[generator.integers(vocab)] = 0
    elif kind == 2:
        q[generator.integers(vocab)] = 1e-6
    elif kind == 3:
        p = q[::-1].copy()
    elif kind == 4:
        p = q.copy()
    elif kind == 5:
        p = np.eye(vocab)[generator.integers(vocab)]
    elif kind == 6:
        n = vocab
    elif kind == 7:
        q[generator.integers(vocab)] = 0
    fine = lambda x: x / x.sum() if x.sum() > 0 else np.full(vocab, 1 / vocab)
    return fine(p), fine(q), min(n, 4)


@pytest.mark.parametrize("rule", RULES)
def test_optimum_is_that_of_the_linear_program_and_of_all_subsets(rule):
    for seed in range(200):
        p, q, n = instance(seed)
        sets = law_of_sets(q, n, rule)
        rate = ops.transport_alpha(laws(p), laws(q), n, rule)
        assert rate == pytest.approx(by_linear_program(p, sets), abs=1e-9), (seed, p, q, n)
        assert rate == pytest.approx(by_all_subsets(p, sets), abs=1e-9), (seed, p, q, n)
        if rule == "without_replacement" and n >= (q > 0).sum() == len(q):
            assert rate == pytest.approx(1, abs=1e-9)


def test_no_rule_beats_the_optimum():
    for seed in range(300):
        generator = np.random.default_rng(seed)
        vocab = int(generator.integers(2, 12))
        p, q = generator.dirichlet(np.full(vocab, 0.4)), generator.dirichlet(np.full(vocab, 0.8))
        if seed % 6 == 1:
            p = q[::-1].copy()  # likely drafts are unlikely tokens
        elif seed % 6 == 2:
            p = np.eye(vocab)[q.argmin()]  # only the least likely draft is right
        elif seed % 6 == 3:
            q = 0.999 * np.eye(vocab)[0] + 0.001 * q  # nearly all draws repeat
        elif seed % 6 == 4:
            p = q * generator.choice([0.9, 1.1], vocab)  # ratios on both sides of 1, all close
        elif seed % 6 == 5:
            p[: vocab // 2], q[vocab // 2 :] = 0, 0  # no common token
        p, q = p / p.sum(), q / q.sum()
        rate = lambda n, rule: ops.transport_alpha(laws(p), laws(q), n, rule)
        for n in (1, 2, 3):
            best, distinct = rate(n, "iid"), rate(n, "without_replacement")
            assert best >= max(rate(n, v) for v in ("recursive", "k_seq", "naive")) - 1e-12
            assert distinct >= max(best, rate(n, "recursive_without_replacement")) - 1e-9
            assert rate(n, "k_seq") >= (1 - (1 - 1 / n) ** n) * best - 1e-12 and 1 <= k_seq_factor(p, q, n) <= n
            assert rate(n + 1, "iid") >= best - 1e-12 and rate(n + 1, "without_replacement") >= distinct - 1e-9
        assert rate(1, "iid") == pytest.approx(np.minimum(p, q).sum(), abs=1e-12)
        fixed = top_tokens(q, 2)
        rest = without(q, fixed)
        others = np.delete(np.arange(vocab), fixed)
        assert rate(3, "hybrid:2") == pytest.approx(p[fixed].sum() + np.minimum(p, rest)[others].sum(), abs=1e-12)


def test_rows_and_no_drafts():
    p, q = laws([[0.1, 0.3, 0.6], [0.5, 0.25, 0.25]]), laws([[0.5, 0.3, 0.2], [0.5, 0.25, 0.25]])
    assert ops.transport_alpha(p, q, 2).tolist() == pytest.approx([0.76, 1.0])
    assert ops.transport_alpha(p, q, 0).tolist() == [0, 0]
    assert ops.transport_alpha(laws([1.0]), laws([1.0]), 3, "without_replacement") == pytest.approx(1)


@pytest.mark.parametrize("make, error, message", [
    (lambda: ops.transport_alpha([0.5, 0.5], laws([0.5, 0.5]), 1), TypeError, "p is list, expected a torch.Tensor"),
    (lambda: ops.transport_alpha(laws([1.0]), laws([0.5, 0.5]), 1), ValueError, r"shapes \[1\] and \[2\]"),
    (lambda: ops.transport_alpha(laws([0.5, 0.5]), laws([0.5, 0.4]), 1), ValueError, "q has rows that are not laws"),
    (lambda: ops.transport_alpha(laws([0.5, float("nan")]), laws([0.5, 0.5]), 1), ValueError, "p has rows that are not laws"),
    (lambda: ops.transport_alpha(laws([1.5, -0.5]), laws([0.5, 0.5]), 1), ValueError, "p has rows that are not laws"),
    (lambda: ops.transport_alpha(laws([1.0]), laws([1.0]), -1), ValueError, "n=-1 must be"),
    (lambda: ops.transport_alpha(laws([1.0]), laws([1.0]), 1, "greedy"), ValueError, "rule='greedy' is unknown"),
    (lambda: ops.transport_alpha(laws([1.0]), laws([1.0]), 1, 3), TypeError, "rule is int, expected a str"),
    (lambda: ops.transport_alpha(laws([1.0]), laws([1.0]), 1, "hybrid:x"), ValueError, "rule='hybrid:x' is unknown"),
])  # fmt: skip
def test_bad_calls(make, error, message):
    with pytest.raises(error, match=message):
        make()
