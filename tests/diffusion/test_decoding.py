"""Exactness of masked-diffusion decoding: what a cache, a draft or a batch must not change."""

import itertools

import numpy as np
import pytest
import torch

from fastdecode import _C
from fastdecode.diffusion.caches import Delayed, DelayedGreedy, DelayedPrefill, DelayedPrefillDecode, Dual, NoCache, Prefix, Vicinity, Window
from fastdecode.diffusion.policies import AdaptiveBlocks, AscendingBlocks, AscendingSteps, Credit, EarlyCommit, EndDamping, EntropyBelow, Factor, FixedBlocks, FreeDraft, IndependentSteps, LearnedFilter, Threshold, TopK, UniformSteps, WholeCanvas
from fastdecode.training.unmask_filter import UnmaskFilter
from tests.diffusion.models import EOS, MASK, all_logits, diffusion_model, generator, plain_sampler
from tests.models import random_prompt
from tests.threads import one_thread  # noqa: F401

PROMPTS = [random_prompt(n, seed=n) for n in (5, 9, 1, 12, 7)]
FRESH = [Delayed(1), Prefix(1), Dual(1), Vicinity(2, 3, interval=1)]
BLOCKS = FixedBlocks(6)


def texts(made, prompts=PROMPTS, canvas=16, **options):
    return [r.token_ids for r in made.generate(prompts, max_new_tokens=canvas, seed=0, **options)]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("target", ["hf", "native"])
def test_one_token_per_step_is_the_plain_sampler(target, shift):
    made = generator(target, shift, blocks=BLOCKS)
    model = diffusion_model(shift, 3, torch.float64)
    assert texts(made) == [plain_sampler(model, p, 16, 6, shift) for p in PROMPTS]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("target", ["hf", "native"])
@pytest.mark.parametrize("block", [4, 8])
def test_models_whose_blocks_see_no_later_ones(target, shift, block):
    made = generator(target, shift, block_length=block)
    model = diffusion_model(shift, 3, torch.float64)
    results = made.generate(PROMPTS, max_new_tokens=15)
    assert [r.token_ids for r in results] == [plain_sampler(model, p, 15, block, shift, causal=True) for p in PROMPTS]
    assert all(r.stats.lossless and r.stats.forwards == 15 and r.stats.recomputed < 15 * (len(p) + 15) for r, p in zip(results, PROMPTS))


@pytest.mark.parametrize("cache", FRESH, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("target, weights", [("hf", "auto"), ("native", "auto"), ("native", "bfloat16"), ("native", "int8")])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_cache_that_is_refreshed_in_every_step_changes_nothing(cache, target, weights, shift):
    for unmask, temperature in ((TopK(), 0.0), (Threshold(0.3), 0.0), (TopK(), 0.8)):
        plain = generator(target, shift, weights=weights, blocks=BLOCKS, unmask=unmask)
        cached = generator(target, shift, weights=weights, blocks=BLOCKS, unmask=unmask, cache=cache)
        together = texts(cached, temperature=temperature)
        assert together == texts(plain, temperature=temperature)
        assert together[2:3] == texts(cached, PROMPTS[2:3], temperature=temperature)


ANY_INTERVAL = [*(Delayed(n) for n in (2, 3, 8)), DelayedPrefill(), *(DelayedPrefillDecode(n) for n in (1, 5)), *(c(n) for c in (Prefix, Dual) for n in (None, 2, 5)), Vicinity(1, 1, warmup=0), Vicinity(0, 0, warmup=0, interval=4)]


@pytest.mark.parametrize("cache", ANY_INTERVAL, ids=str)
@pytest.mark.parametrize("shift, weights", [(0, "auto"), (1, "auto"), (0, "bfloat16")])
def test_one_layer_needs_no_refresh(cache, shift, weights):
    """Keys and values of the only layer depend on the token and its place alone."""
    assert texts(generator("native", shift, 1, weights=weights, blocks=BLOCKS, cache=cache)) == texts(generator("native", shift, 1, weights=weights, blocks=BLOCKS))


class Undelayed(Delayed):
    """Tokens are frozen when they are committed, while their slots still hold what the masks left there."""

    def window(self, row):
        return Window(0, row.length, -2 if self.refreshes(row) else row.clock - 1)


def test_one_layer_shows_a_cache_without_the_delay():
    assert texts(generator("native", 0, 1, blocks=BLOCKS, cache=Undelayed(8))) != texts(generator("native", 0, 1, blocks=BLOCKS))


@pytest.mark.parametrize("cache", [DelayedGreedy(1, 2), DelayedGreedy(3, 2), DelayedGreedy(50, 0)])
def test_greedy_delay_with_one_layer(cache):
    assert texts(generator("native", 0, 1, scorer="random", blocks=BLOCKS, cache=cache)) == texts(generator("native", 0, 1, scorer="random", blocks=BLOCKS))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("weights", ["auto", "bfloat16"])
def test_greedy_delay_that_is_refreshed_in_every_step_changes_nothing(weights, shift):
    plain, greedy = (generator("native", shift, weights=weights, scorer="random", blocks=BLOCKS, **parts) for parts in ({}, {"cache": DelayedGreedy(1, 2)}))
    assert texts(greedy) == texts(plain) and texts(greedy, PROMPTS[3:4]) == texts(plain)[3:4]


def test_caches_compute_what_they_say():
    made = generator("native", blocks=BLOCKS, cache=Dual())
    (stats,) = [r.stats for r in made.generate(PROMPTS[:1], max_new_tokens=12)]
    assert (stats.forwards, stats.refreshes) == (12, 2)
    assert stats.recomputed == 2 * (5 + 12) + 10 * 6
    made = generator("native", blocks=BLOCKS, cache=Delayed(4))
    (stats,) = [r.stats for r in made.generate(PROMPTS[:1], max_new_tokens=12)]
    assert stats.refreshes == 2 * 3  # steps 0, 1 and 4 of 6
    # Beside the refreshes: the masks and the token that was committed last.
    masks = [12 - n for n in range(12) if n % 6 not in (0, 1, 4)]
    assert stats.recomputed == 6 * 17 + sum(m + 1 for m in masks)


def test_frozen_keys_change_results():
    """With more than one layer a cache does change the result sometimes, else these tests would show nothing."""
    prompts = [random_prompt(8, seed=s) for s in range(12)]
    assert texts(generator("native", blocks=BLOCKS, cache=Dual()), prompts) != texts(generator("native", blocks=BLOCKS), prompts)


@pytest.mark.parametrize("depth", range(1, 9))
@pytest.mark.parametrize("cache", [NoCache(), Prefix(), Dual()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("target, shift", [("hf", 0), ("native", 0), ("native", 1)])
def test_drafts_give_the_text_of_one_token_per_step(depth, cache, target, shift):
    static = generator(target, shift, blocks=BLOCKS, cache=cache, eos=EOS)
    drafted = generator(target, shift, blocks=BLOCKS, cache=cache, drafts=FreeDraft(depth), eos=EOS)
    want, got = static.generate(PROMPTS, max_new_tokens=17), drafted.generate(PROMPTS, max_new_tokens=17)
    assert [r.token_ids for r in got] == [r.token_ids for r in want]
    for w, g in zip(want, got):
        assert g.stats.forwards <= w.stats.forwards
        assert depth > 1 or g.finish_reason == "eos" or g.stats.forwards == w.stats.forwards
    assert depth == 1 or sum(g.stats.accepted for g in got) > 0


NEUTRAL = {
    "threshold 1": ({"unmask": Threshold(1.0)}, {}),
    "entropy below 0": ({"scorer": "neg_entropy", "unmask": EntropyBelow(-1.0)}, {"scorer": "neg_entropy"}),
    "factor 0": ({"unmask": Factor(0.0, with_last=False)}, {}),
    "credit 0": ({"credit": Credit(alpha=0.0), "unmask": Threshold(0.3)}, {"unmask": Threshold(0.3)}),
    "no damping": ({"end_damping": EndDamping(1.0, 1.0), "eos": EOS}, {"eos": EOS}),
    "no delimiter": ({"blocks": AdaptiveBlocks(6, (1, 2, 3), 2.0)}, {}),
    "no early commit": ({"early_commit": EarlyCommit(bars=(1e9, 1e9, 1e9))}, {}),
    "one draft": ({"drafts": FreeDraft(1)}, {}),
    "as many steps as masks": ({"steps": UniformSteps(6)}, {}),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_settings_are_their_base(name):
    parts, base = NEUTRAL[name]
    got = generator("native", **{"blocks": BLOCKS, **parts}).generate(PROMPTS, max_new_tokens=16)
    want = generator("native", **{"blocks": BLOCKS, **base}).generate(PROMPTS, max_new_tokens=16)
    assert [r.token_ids for r in got] == [r.token_ids for r in want]
    assert [r.stats.commit_order for r in got] == [r.stats.commit_order for r in want]


POLICIES = {
    "threshold": {"unmask": Threshold(0.2), "cache": Dual()},
    "factor": {"unmask": Factor(1.5)},
    "entropy": {"scorer": "neg_entropy", "unmask": EntropyBelow(2.0), "cache": Delayed(3)},
    "margin": {"scorer": "margin", "unmask": Threshold(0.1)},
    "random": {"scorer": "random", "cache": DelayedGreedy(2, 2)},
    "left to right": {"scorer": "left_to_right"},
    "credit": {"credit": Credit(), "unmask": Threshold(0.3)},
    "adaptive": {"blocks": AdaptiveBlocks(6, tuple(range(100)), 0.01), "unmask": Threshold(0.2), "cache": Dual()},
    "ascending": {"blocks": WholeCanvas(), "steps": AscendingSteps(), "end_damping": EndDamping(0.01, 1.0, True)},
    "early": {"early_commit": EarlyCommit(bars=(3.0, 2.0, 1.0))},
    "two per step": {"steps": UniformSteps(3)},
    "independent": {"blocks": WholeCanvas(), "steps": IndependentSteps(9), "scorer": "random", "cache": DelayedGreedy(3, 1)},
}


@pytest.mark.parametrize("name, temperature", [(n, t) for n in POLICIES for t in (0.0, 1.0) if n != "credit" or t == 0.0])
def test_rows_do_not_influence_each_other(name, temperature):
    made = generator("native", **{"blocks": BLOCKS, **POLICIES[name]}, eos=EOS)
    together = made.generate(PROMPTS, max_new_tokens=19, seed=3, temperature=temperature)
    alone = [made.generate([p], max_new_tokens=19, seed=3, temperature=temperature)[0] for p in PROMPTS]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.stats.forwards for r in together] == [r.stats.forwards for r in alone]
    for r in together:
        order = [p for p, _, _ in r.stats.commit_order]
        assert len(order) == len(set(order)) and MASK not in r.token_ids and r.stats.forwards <= 19
        assert r.finish_reason == "eos" or (len(r.token_ids) == 19 and sorted(order) == list(range(19)))
        assert EOS not in r.token_ids[:-1]


@pytest.mark.parametrize("name", [n for n, parts in POLICIES.items() if "blocks" not in parts and n != "early"])
def test_blocks_are_filled_in_order(name):
    order = generator("native", **{"blocks": BLOCKS, **POLICIES[name]}).generate(PROMPTS[0], max_new_tokens=18).stats.commit_order
    assert [p // 6 for p, _, _ in order] == sorted(p // 6 for p, _, _ in order)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads):
    made = generator("native", blocks=BLOCKS, unmask=Threshold(0.3), cache=Dual())
    want, before = texts(made), _C.num_threads()
    try:
        _C.set_num_threads(threads)
        assert texts(made) == want
    finally:
        _C.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_ascending_steps_commit_the_same_numbers_in_any_number_of_blocks(count):
    made = generator("native", blocks=AscendingBlocks(count), steps=AscendingSteps())
    order = made.generate(PROMPTS[0], max_new_tokens=40).stats.commit_order
    assert [sum(clock == step for _, clock, _ in order) for step in range(5)] == [1, 2, 4, 8, 25]


def test_independent_steps_commit_what_the_model_proposes_then():
    """Dream's sampler `origin`: of the drawn positions, as many as the draws say, all from the proposals of one pass."""
    made, model = generator("native", blocks=WholeCanvas(), steps=IndependentSteps(9), scorer="random"), diffusion_model(0, 3, torch.float64)
    passes = []
    for seed in range(3):
        result, tokens = made.generate(PROMPTS[0], max_new_tokens=20, seed=seed), PROMPTS[0] + [MASK] * 20
        for clock in range(result.stats.forwards):
            logits = all_logits(model, tokens)
            logits[:, MASK] = -torch.inf
            for p in [p + 5 for p, at, _ in result.stats.commit_order if at == clock]:
                tokens[p] = int(logits[p].argmax())
        assert tokens[5:] == result.token_ids and result.stats.forwards <= 9
        passes.append([at for _, at, _ in result.stats.commit_order])
    assert passes[0] != passes[1]


def test_a_filter_that_accepts_nothing_is_its_base():
    torch.manual_seed(0)
    got = generator("native", blocks=BLOCKS, unmask=LearnedFilter(UnmaskFilter(), bar=1.0)).generate(PROMPTS, max_new_tokens=16)
    want = generator("native", blocks=BLOCKS).generate(PROMPTS, max_new_tokens=16)
    assert [r.token_ids for r in got] == [r.token_ids for r in want] and [r.stats.commit_order for r in got] == [r.stats.commit_order for r in want]
    eager = generator("native", blocks=BLOCKS, unmask=LearnedFilter(UnmaskFilter(), bar=0.0)).generate(PROMPTS, max_new_tokens=16)
    assert all(r.stats.forwards == 3 for r in eager)


def test_sampling_follows_the_law():
    """At one position the tokens of many seeds have the frequencies of the softmax."""
    made, model = generator("native"), diffusion_model(0, 3, torch.float64)
    prompt, temperature, draws = PROMPTS[0], 0.7, 4000
    logits = all_logits(model, prompt + [MASK])[-1]
    logits[MASK] = -torch.inf
    law = (logits / temperature).softmax(-1).numpy()
    drawn = np.bincount([r.token_ids[0] for r in made.generate([prompt] * draws, max_new_tokens=1, temperature=temperature, seed=1)], minlength=len(law))
    likely = law > 5 / draws
    statistic = ((drawn[likely] - draws * law[likely]) ** 2 / (draws * law[likely])).sum()
    assert statistic < likely.sum() + 5 * np.sqrt(2 * likely.sum())


def test_an_eos_ends_a_row_and_nothing_stands_behind_it():
    for made in (generator("native", blocks=BLOCKS, eos=EOS), generator("native", blocks=BLOCKS, eos=EOS, cut_at_eos=True)):
        results = list(itertools.chain.from_iterable(made.generate(PROMPTS, max_new_tokens=24, seed=s, temperature=1.5) for s in range(12)))
        ended = [r for r in results if r.finish_reason == "eos"]
        assert ended and all(r.token_ids[-1] == EOS and EOS not in r.token_ids[:-1] for r in ended)
