"""Worked numbers and invariants of the specifications that hold over whole generations."""

import math

import pytest
import torch

from fastdecode.diffusion.caches import Delayed, DelayedGreedy, DelayedPrefillDecode, Dual, NoCache, Prefix, Vicinity
from fastdecode.diffusion.policies import AscendingSteps, EarlyCommit, EndDamping, EntropyBelow, Factor, FixedBlocks, FreeDraft, Threshold, TopK, UniformSteps, WholeCanvas
from fastdecode.training.unmask_filter import UnmaskFilter
from tests.diffusion.models import EOS, MASK, generator
from tests.models import random_prompt
from tests.threads import one_thread  # noqa: F401

PROMPTS = [random_prompt(n, seed=n) for n in (5, 9, 1)]
BLOCKS = FixedBlocks(6)


def texts(made, canvas=18, prompts=PROMPTS, **options):
    return [r.token_ids for r in made.generate(prompts, max_new_tokens=canvas, seed=0, **options)]


@pytest.mark.parametrize("interval", [2, 3, 5, 8])
def test_refreshes_of_the_delayed_cache(interval):
    """2 + floor((T - 1) / N) passes over everything in a block of T steps."""
    stats = generator("native", blocks=FixedBlocks(16), cache=Delayed(interval)).generate(PROMPTS[0], max_new_tokens=32).stats
    assert stats.refreshes == 2 * (2 + 15 // interval)


@pytest.mark.parametrize("prompt, canvas, gain", [(128, 256, 2.2), (300, 75, 4.4)])
def test_what_the_delayed_cache_saves(prompt, canvas, gain):
    """(P + G) / (G / 2 + (P + G) / N) times less, on average over a canvas of one block; N = 8."""
    assert (prompt + canvas) / (canvas / 2 + (prompt + canvas) / 8) == pytest.approx(gain, abs=0.1)
    stats = generator("native", layers=1, blocks=WholeCanvas(), cache=Delayed(8)).generate(random_prompt(prompt, seed=1), max_new_tokens=canvas).stats
    assert canvas * (prompt + canvas) / stats.recomputed == pytest.approx(gain, rel=0.1)


@pytest.mark.parametrize("around", [0, 1, 4])
def test_the_greedy_cache_computes_a_constant_number(around):
    """At most k (2 + w) positions between refreshes."""
    made = generator("native", scorer="random", blocks=WholeCanvas(), cache=DelayedGreedy(1000, around))
    stats = made.generate(PROMPTS[0], max_new_tokens=30).stats
    assert stats.refreshes == 1 and stats.recomputed - 35 <= 29 * (2 + around)


@pytest.mark.parametrize("shift", [0, 1])
def test_prefix_and_dual_agree_where_they_compute_the_same(shift):
    """In the last block; and in all blocks of one pass each, with no cache either."""
    one_block = [texts(generator("native", shift, blocks=FixedBlocks(18), cache=cache)) for cache in (Prefix(), Dual())]
    assert one_block[0] == one_block[1]
    one_pass = [generator("native", shift, blocks=BLOCKS, unmask=Threshold(0.0), cache=cache).generate(PROMPTS, max_new_tokens=18) for cache in (NoCache(), Prefix(), Dual(), Vicinity(2, 2))]
    assert all([r.token_ids for r in results] == [r.token_ids for r in one_pass[0]] for results in one_pass)
    assert all(r.stats.forwards == 3 for results in one_pass for r in results)


ALL_AT_ONCE = {"threshold 0": {"unmask": Threshold(0.0)}, "entropy without a bar": {"scorer": "neg_entropy", "unmask": EntropyBelow(math.inf)}, "a large factor": {"unmask": Factor(1e9)}, "one step": {"steps": UniformSteps(1)}}
ONE_BY_ONE = {"threshold above 1": {"unmask": Threshold(1.5)}, "no entropy": {"scorer": "neg_entropy", "unmask": EntropyBelow(-1e-3)}, "factor 0": {"unmask": Factor(0.0, with_last=False)}}


@pytest.mark.parametrize("cache", [NoCache(), Dual()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("name", {**ALL_AT_ONCE, **ONE_BY_ONE})
def test_the_ends_of_every_scale(name, cache):
    results = generator("native", blocks=BLOCKS, cache=cache, **{**ALL_AT_ONCE, **ONE_BY_ONE}[name]).generate(PROMPTS, max_new_tokens=18)
    assert [r.stats.forwards for r in results] == [3 if name in ALL_AT_ONCE else 18] * 3


def test_more_entropy_takes_more():
    """What is taken at a lower bar is taken at a higher one."""
    whole = generator("native", blocks=WholeCanvas(), scorer="neg_entropy", unmask=EntropyBelow(math.inf)).generate(PROMPTS[0], max_new_tokens=18)
    entropies, taken = sorted(-score for _, _, score in whole.stats.commit_order), []
    for bar in entropies[::4]:
        made = generator("native", blocks=WholeCanvas(), scorer="neg_entropy", unmask=EntropyBelow(bar))
        first = next(iter(made.stream([PROMPTS[0]], max_new_tokens=18))).token_ids
        taken.append({i for i, t in enumerate(first) if t is not None})
    assert all(a <= b for a, b in zip(taken, taken[1:])) and [len(t) for t in taken] == [1, 5, 9, 13, 17]


@pytest.mark.parametrize("parts", [{}, {"unmask": Threshold(0.2)}, {"unmask": Factor(1.5)}, {"steps": UniformSteps(3)}, {"blocks": WholeCanvas(), "steps": AscendingSteps()}, {"scorer": "random"}, {"cache": Dual()}], ids=str)
def test_every_pass_commits_something_and_tokens_stay(parts):
    made = generator("native", **{"blocks": BLOCKS, **parts})
    before = [None] * 18
    for state in made.stream([PROMPTS[1]], max_new_tokens=18):
        assert sum(t is None for t in state.token_ids) < sum(t is None for t in before)
        assert all(a is None or a == b for a, b in zip(before, state.token_ids)) and MASK not in state.token_ids
        before = state.token_ids
    assert state.forwards <= 18 and None not in before


def test_damping_keeps_the_order_of_all_else():
    """Scores of other tokens are those without damping, in the first pass, where both see the same."""
    plain, damped = (generator("native", blocks=WholeCanvas(), unmask=Threshold(0.0), eos=EOS, end_damping=d).generate(PROMPTS[1], max_new_tokens=18) for d in (None, EndDamping(0.4, 1.0)))
    scores = lambda r: {p: s for p, _, s in r.stats.commit_order}
    others = [p for p, t in enumerate(plain.token_ids) if t != EOS]
    assert [scores(plain)[p] for p in others] == [scores(damped)[p] for p in others]


def test_a_cut_leaves_no_mask_behind_it():
    """EoTP: behind an end of text that is committed with enough confidence, everything is one."""
    made, ends = generator("native", blocks=WholeCanvas(), cut_at_eos=True), list(range(0, 250, 9))
    cut = 0
    for seed in range(6):
        for state in made.stream([PROMPTS[1]], max_new_tokens=24, temperature=1.5, seed=seed, eos_token_id=ends):
            first = next((i for i, t in enumerate(state.token_ids) if t in ends), 24)
            assert None not in state.token_ids[first:]
            cut += first < 24 and None in state.token_ids
    assert cut > 0
    strict = generator("native", blocks=WholeCanvas(), cut_at_eos=True, cut_confidence=2.0)
    assert texts(strict, eos_token_id=ends) == texts(generator("native", blocks=WholeCanvas()), eos_token_id=ends)


LOSSLESS = [({}, True), ({"cache": Dual()}, False), ({"cache": Dual(1)}, True), ({"cache": DelayedPrefillDecode(1)}, False), ({"drafts": FreeDraft()}, True), ({"drafts": FreeDraft(), "unmask": Threshold(0.3)}, False), ({"early_commit": EarlyCommit()}, False)]


@pytest.mark.parametrize("parts, lossless", LOSSLESS, ids=str)
def test_what_is_called_lossless_is(parts, lossless):
    """The text is that without cache and drafts."""
    made = generator("native", blocks=BLOCKS, **parts)
    base = generator("native", blocks=BLOCKS, unmask=parts.get("unmask", TopK()))
    assert all(r.stats.lossless == lossless for r in made.generate(PROMPTS, max_new_tokens=18))
    assert not lossless or texts(made) == texts(base)


def test_drafts_beside_thresholds():
    """FreeDave++: never more passes than the threshold alone would take, and the drafts are right sometimes."""
    static, drafted = (generator("native", blocks=BLOCKS, unmask=Threshold(0.3), **parts).generate(PROMPTS, max_new_tokens=18) for parts in ({}, {"drafts": FreeDraft(4)}))
    assert sum(r.stats.forwards for r in drafted) <= sum(r.stats.forwards for r in static) and sum(r.stats.accepted for r in drafted) > 0
    assert all(len(r.token_ids) == 18 and MASK not in r.token_ids for r in drafted)


def test_sizes_of_the_filter():
    assert sum(p.numel() for p in UnmaskFilter(32).parameters()) == 2112
    network = UnmaskFilter(32)
    assert network(torch.rand(3, 32)).shape == (3, 32)
