"""How proposals are drawn: guidance, filters, and the end of the text, against the plainest samplers of the specifications."""

import numpy as np
import pytest
import torch

from fastdecode.diffusion.caches import Delayed, Dual, NoCache, Prefix
from fastdecode.diffusion.policies import EarlyCommit, EndDamping, FixedBlocks, FreeDraft, Threshold, WholeCanvas
from fastdecode.diffusion.sampling import Sampling
from tests.diffusion.models import EOS, MASK, all_logits, diffusion_model, generator
from tests.models import random_prompt
from tests.threads import one_thread  # noqa: F401

PROMPTS = [random_prompt(n, seed=n) for n in (5, 9, 2)]
BLOCKS = FixedBlocks(6)


def sampler(prompt: list[int], canvas: int, block: int, logits_of, score) -> list[int]:
    """One token per step: `logits_of` tokens, float64 [L, V]; `score` of logits, from best to worst by its tuples."""
    tokens, stop = prompt + [MASK] * canvas, len(prompt)
    while stop < len(tokens):
        begin, stop = stop, min(stop + block, len(tokens))
        for _ in range(stop - begin):
            logits = logits_of(tokens)
            logits[:, MASK] = -torch.inf
            found = {p: score(logits[p]) for p in range(begin, stop) if tokens[p] == MASK}
            best = max(found, key=lambda p: (*found[p][1:], -p))
            tokens[best] = found[best][0]
    return tokens[len(prompt) :]


def most_probable(logits: torch.Tensor) -> tuple:
    p = logits.softmax(-1)
    return int(p.argmax()), float(p.max())


def texts(made, prompts=PROMPTS, canvas=12, **options):
    return [r.token_ids for r in made.generate(prompts, max_new_tokens=canvas, seed=0, **options)]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("target", ["hf", "native"])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_guidance(scale, target, shift):
    model = diffusion_model(shift, 3, torch.float64)

    def guided(prompt):
        def logits(tokens):
            given, free = all_logits(model, tokens, shift), all_logits(model, [MASK] * len(prompt) + tokens[len(prompt) :], shift)
            return free + (scale + 1) * (given - free)

        return logits

    want = [sampler(p, 12, 6, guided(p), most_probable) for p in PROMPTS]
    assert want != texts(generator(target, shift, blocks=BLOCKS))
    for cache in (NoCache(), Delayed(1), Prefix(1), Dual(1)):
        made = generator(target, shift, blocks=BLOCKS, cache=cache)
        results = made.generate(PROMPTS, max_new_tokens=12, cfg_scale=scale)
        assert [r.token_ids for r in results] == want
        assert [r.stats.recomputed for r in results] == [2 * 12 * (len(p) + 12) for p in PROMPTS]
        assert texts(made, guidance_scale=scale + 1) == want
    assert texts(generator(target, shift, blocks=BLOCKS, sampling=Sampling(cfg_scale=scale))) == want


@pytest.mark.parametrize("weights", ["auto", "bfloat16", "int8"])
def test_guidance_goes_with_caches_and_drafts(weights):
    for cache in (NoCache(), Prefix(), Dual()):
        static = generator("native", weights=weights, blocks=BLOCKS, cache=cache)
        drafted = generator("native", weights=weights, blocks=BLOCKS, cache=cache, drafts=FreeDraft(4))
        want = static.generate(PROMPTS, max_new_tokens=17, cfg_scale=1.0)
        got = drafted.generate(PROMPTS, max_new_tokens=17, cfg_scale=1.0)
        assert [r.token_ids for r in got] == [r.token_ids for r in want]
        assert all(g.stats.forwards <= w.stats.forwards for g, w in zip(got, want)) and sum(r.stats.accepted for r in got) > 0
        assert texts(static, PROMPTS[1:2], 17, cfg_scale=1.0) == [want[1].token_ids]
    one_layer = [texts(generator("native", 0, 1, weights=weights, blocks=BLOCKS, cache=c), cfg_scale=1.5) for c in (NoCache(), Delayed(8), Dual())]
    assert one_layer[0] == one_layer[1] == one_layer[2]


@pytest.mark.parametrize("name", ["cfg_scale", "alg_temp", "temperature", "top_k", "top_p", "logits_eos_inf", "confidence_eos_eot_inf", "guidance_scale", "do_sample"])
def test_neutral_values_are_the_base(name):
    made = generator("native", blocks=BLOCKS, eos=EOS)
    off = {"top_p": 1.0, "top_k": 0, "logits_eos_inf": False, "confidence_eos_eot_inf": False, "guidance_scale": 1.0, "do_sample": False}.get(name, 0.0)
    want, got = made.generate(PROMPTS, max_new_tokens=18), made.generate(PROMPTS, max_new_tokens=18, **{name: off})
    assert [r.token_ids for r in got] == [r.token_ids for r in want] and [r.stats.commit_order for r in got] == [r.stats.commit_order for r in want]


@pytest.mark.parametrize("target", ["hf", "native"])
def test_the_end_of_the_text_is_never_proposed(target):
    model, ends = diffusion_model(0, 3, torch.float64), list(range(0, 250, 40))

    def logits(tokens):
        found = all_logits(model, tokens)
        found[:, ends] = -torch.inf
        return found

    got = texts(generator(target, blocks=BLOCKS), logits_eos_inf=True, eos_token_id=ends)
    assert got == [sampler(p, 12, 6, logits, most_probable) for p in PROMPTS] and not set(ends) & set(sum(got, []))


@pytest.mark.parametrize("target", ["hf", "native"])
@pytest.mark.parametrize("mode", [True, "reference"])
def test_the_end_of_the_text_comes_last(mode, target):
    model, ends, turn = diffusion_model(0, 3, torch.float64), list(range(0, 250, 5)), 101

    def score(logits):
        p = logits.softmax(-1)
        if mode == "reference":
            logits = logits.clone()
            logits[[*ends, turn]] = -torch.inf
        x = int(p.argmax())
        return x, 0.0 if x in [*ends, turn] else float(logits.softmax(-1)[x])

    made = generator(target, blocks=BLOCKS, eot_token_id=turn, end_at_eos=False)
    results = made.generate(PROMPTS, max_new_tokens=12, confidence_eos_eot_inf=mode, eos_token_id=ends)
    want = [sampler(p, 12, 6, lambda tokens: all_logits(model, tokens), score) for p in PROMPTS]
    for result, tokens in zip(results, want):
        end = next((i + 1 for i, t in enumerate(tokens) if t in ends), 12)
        assert result.token_ids == tokens[:end]
    assert any(score == 0.0 for r in results for _, _, score in r.stats.commit_order)


def test_at_a_temperature_the_published_code_puts_turns_last_alone():
    made = generator("native", blocks=BLOCKS, eot_token_id=100, eos=EOS, end_at_eos=False)
    free = made.generate(PROMPTS, max_new_tokens=12, temperature=1.0, seed=1, confidence_eos_eot_inf=True)
    assert [p for r in free for p, _, s in r.stats.commit_order if s == 0.0] == [i for r in free for i, t in enumerate(r.token_ids) if t in (EOS, 100)]
    made.generate(PROMPTS, max_new_tokens=12, temperature=1.0, seed=1, confidence_eos_eot_inf="reference")


def test_damping_and_last_places_multiply():
    made = generator("native", blocks=BLOCKS, eos=EOS, end_damping=EndDamping(1.0, 1.0))
    base = generator("native", blocks=BLOCKS, eos=EOS)
    assert texts(made, confidence_eos_eot_inf=True) == texts(base, confidence_eos_eot_inf=True)


def filtered(logits: torch.Tensor, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    """Dream's law: temperature, then top_p, then top_k."""
    x = logits / (temperature or 1.0)
    ordered, ids = x.sort(descending=True, stable=True)
    p = ordered.softmax(-1)
    drop = p.cumsum(-1) - p >= top_p
    drop[0] = False
    x = x.clone()
    x[ids[drop]] = -torch.inf
    if top_k:
        x[x < x.topk(top_k).values[-1]] = -torch.inf
    return x.softmax(-1)


@pytest.mark.parametrize("scorer", ["confidence", "margin", "neg_entropy"])
@pytest.mark.parametrize("top_p, top_k", [(0.7, 0), (1.0, 3), (0.9, 2)])
@pytest.mark.parametrize("target, shift", [("hf", 1), ("native", 0)])
def test_filters_change_scores_where_nothing_is_drawn(target, shift, top_p, top_k, scorer):
    model = diffusion_model(shift, 3, torch.float64)

    def score(logits):
        p = filtered(logits, 0.0, top_p, top_k)
        x = int(p.argmax())
        best = p.sort(descending=True).values
        value = {"confidence": p[x], "margin": best[0] - best[1], "neg_entropy": torch.special.xlogy(p, p).sum()}[scorer]
        return x, round(float(value), 9), float(logits.softmax(-1)[x])  # equal scores: the more probable token

    got = texts(generator(target, shift, blocks=WholeCanvas(), scorer=scorer), top_p=top_p, top_k=top_k)
    assert got == [sampler(p, 12, 12, lambda tokens: all_logits(model, tokens, shift), score) for p in PROMPTS]


def test_ties_of_filters_by_position():
    """With a nucleus of one token all confidences are 1."""
    made = generator("native", blocks=BLOCKS, sampling=Sampling(top_p=1e-6, ties="position"))
    assert [p for p, _, _ in made.generate(PROMPTS[0], max_new_tokens=12).stats.commit_order] == list(range(12))
    by_probability = generator("native", blocks=BLOCKS, sampling=Sampling(top_p=1e-6))
    assert by_probability.generate(PROMPTS[0], max_new_tokens=12).token_ids == generator("native", blocks=BLOCKS).generate(PROMPTS[0], max_new_tokens=12).token_ids


def chi_square_fits(counts: np.ndarray, law: np.ndarray) -> bool:
    expected = counts.sum() * law
    likely = expected > 5
    statistic = ((counts[likely] - expected[likely]) ** 2 / expected[likely]).sum()
    return counts[law == 0].sum() == 0 and statistic < likely.sum() + 5 * np.sqrt(2 * likely.sum())


@pytest.mark.parametrize("sampling", [Sampling(0.8, top_p=0.6), Sampling(1.3, top_k=4), Sampling(0.7, top_p=0.9, top_k=5), Sampling(0.9, law_scores=True)])
def test_draws_follow_the_filtered_law(sampling):
    made, prompt = generator("native", sampling=sampling), PROMPTS[0]
    logits = all_logits(diffusion_model(0, 3, torch.float64), prompt + [MASK])[-1]
    logits[MASK] = -torch.inf
    law = filtered(logits, sampling.temperature, sampling.top_p, sampling.top_k).numpy()
    results = made.generate([prompt] * 3000, max_new_tokens=1, seed=1)
    assert chi_square_fits(np.bincount([r.token_ids[0] for r in results], minlength=len(law)), law)
    assert all(abs(r.stats.commit_order[0][2] - law[r.token_ids[0]]) < 1e-4 for r in results[:50])  # confidences are those of the law


def test_positions_are_drawn_by_their_scores():
    made, prompt, weight = generator("native", blocks=WholeCanvas()), PROMPTS[0], 0.2
    scores = np.array([s for _, _, s in sorted(generator("native", blocks=WholeCanvas(), unmask=Threshold(0.0)).generate(prompt, max_new_tokens=8).stats.commit_order)])
    law = np.exp(scores / weight) / np.exp(scores / weight).sum()
    first = [next(iter(made.stream([prompt], max_new_tokens=8, alg_temp=weight, seed=s))).token_ids for s in range(600)]
    counts = np.bincount([next(i for i, t in enumerate(ids) if t is not None) for ids in first], minlength=8)
    assert chi_square_fits(counts, law)
    assert texts(made, alg_temp=1e-9) == texts(made)


@pytest.mark.parametrize("options", [{"confidence_eos_eot_inf": True}, {"confidence_eos_eot_inf": "reference"}, {"logits_eos_inf": True}, {"top_p": 0.8}, {"cfg_scale": 0.7, "top_k": 5}], ids=str)
def test_drafts_give_the_text_of_one_token_per_step(options):
    ends = list(range(0, 70, 11))
    for cache in (NoCache(), Dual()):
        static, drafted = (generator("native", blocks=BLOCKS, cache=cache, **parts).generate(PROMPTS, max_new_tokens=17, eos_token_id=ends, **options) for parts in ({}, {"drafts": FreeDraft(4)}))
        assert [r.token_ids for r in drafted] == [r.token_ids for r in static]
        assert all(d.stats.forwards <= s.stats.forwards for d, s in zip(drafted, static))


@pytest.mark.parametrize("options", [{"cfg_scale": 1.0}, {"top_p": 0.8, "temperature": 0.7}], ids=str)
def test_early_commits_look_at_the_models_own_logits(options):
    base, never, at_once = (generator("native", blocks=BLOCKS, **parts) for parts in ({}, {"early_commit": EarlyCommit(bars=(1e9,) * 3)}, {"early_commit": EarlyCommit(bars=(0.0,) * 3)}))
    assert texts(never, **options) == texts(base, **options)
    assert all(r.stats.forwards == 1 for r in at_once.generate(PROMPTS, max_new_tokens=12, seed=0, **options))


def test_rows_do_not_influence_each_other():
    made = generator("native", blocks=BLOCKS, eos=EOS)
    for options in ({"cfg_scale": 1.0, "temperature": 0.9}, {"top_p": 0.8, "temperature": 0.9}, {"alg_temp": 0.3}, {"confidence_eos_eot_inf": "reference"}):
        together = texts(made, **options)
        assert together == [texts(made, [p], **options)[0] for p in PROMPTS]
