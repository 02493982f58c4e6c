"""Worked numbers of the policies' specifications, and combinations that make no sense."""

import math

import numpy as np
import pytest
import torch

from fastdecode import ops
from fastdecode.diffusion.caches import BlockCausal, Delayed, DelayedGreedy, Dual, Prefix
from fastdecode.diffusion.order import global_ar_ness, local_ar_ness
from fastdecode.diffusion.policies import (
    AdaptiveBlocks,
    AdaptiveCredit,
    AscendingBlocks,
    AscendingSteps,
    Credit,
    EarlyCommit,
    EndDamping,
    EntropyBelow,
    Factor,
    FixedBlocks,
    FreeDraft,
    IndependentSteps,
    LearnedFilter,
    Threshold,
    TimeSteps,
    UniformSteps,
    WholeCanvas,
    ascending_commits,
)
from fastdecode.diffusion.policy import Policy
from fastdecode.diffusion.presets import PRESETS, make_policy
from fastdecode.ops import TokenCredit, VocabStats
from fastdecode.training.unmask_filter import UnmaskFilter
from tests.diffusion.models import MASK, all_logits, diffusion_model, generator
from tests.models import random_prompt
from tests.threads import one_thread  # noqa: F401


def test_schedules():
    assert UniformSteps(4).quotas(10) == [3, 3, 2, 2]
    assert UniformSteps(64).quotas(10) == UniformSteps().quotas(10) == [1] * 10
    assert TimeSteps(16).quotas(16) == [0, *[1] * 14, 2]  # Dream, as many steps as masks
    assert TimeSteps(8).quotas(16) == [1, *[2] * 6, 3]
    assert ascending_commits(256) == [1, 2, 4, 8, 16, 32, 64, 129]
    assert AscendingBlocks(4).plan(128) == [[1, 2, 4, 8], [16], [32], [65]]
    assert AscendingBlocks(1).plan(128) == [ascending_commits(128)]
    with pytest.raises(ValueError, match=r"AscendingBlocks\(9\) needs at least as many steps"):
        AscendingBlocks(9).plan(128)
    assert [sum(ascending_commits(n)) for n in range(1, 40)] == list(range(1, 40))
    for count in (1, 2, 5):
        assert sum(map(sum, AscendingBlocks(count).plan(100))) == 100


def test_independent_steps_follow_their_law():
    """Step i commits a mask that is left with probability 1 - t(i + 1) / t(i), the last step all: n (1 - s / t) on average."""
    draws = torch.rand(100, 2000, generator=torch.Generator().manual_seed(0)).numpy()
    steps, left = IndependentSteps(8), np.full(100, 2000)
    commits = np.stack([steps.commits(u) for u in draws])
    for i in range(8):
        t, s = (1 + (1e-3 - 1) * k / 8 for k in (i, i + 1))
        share = 1 - s / t if i < 7 else 1.0
        assert abs(commits[:, i].sum() - left.sum() * share) <= 4 * math.sqrt(left.sum() * share * (1 - share))
        assert np.std(commits[:, i] - left * share) == pytest.approx(math.sqrt(left.mean() * share * (1 - share)), rel=0.25)
        left = left - commits[:, i]
    assert left.sum() == 0 and steps.quotas(np.array([0.99, 0.5, 0.49, 0.0])) == [1, 2, 1]
    assert IndependentSteps(4).quotas(np.array([0.0, 0.0])) == [2] and IndependentSteps(1).quotas(np.array([0.3, 0.9])) == [2]


def test_damping_of_eos():
    damping = EndDamping(0.4, 1.0)
    assert [round(damping.factor(i, 8), 6) for i in (0, 4, 7)] == [0.4, 0.742857, 1.0]
    damping = EndDamping(0.01, 1.0, ascending=True)
    assert [round(damping.factor(i, 8), 6) for i in (0, 7)] == [0.013867, 0.996133]
    assert EndDamping(0.4, 1.0).factor(0, 1) == 1.0


def test_bars_of_prophet():
    bars = [EarlyCommit().bar(step / 256) for step in range(1, 257)]
    assert [bars.count(b) for b in (7.5, 5.0, 2.5)] == [84, 171 - 84, 256 - 171]


def empty_credit(positions: int, *rates: float) -> TokenCredit:
    return TokenCredit(torch.arange(positions, dtype=torch.int32), torch.full((positions, 16), -1, dtype=torch.int32), torch.zeros(positions, 16), torch.tensor([rates] * positions))


def test_credit_grows_as_worked_out():
    """A token has probability 1/2 in every pass."""
    logits = torch.tensor([[-30.0, -30.0, 0.0, -1e-9, -30.0]])
    held = empty_credit(1, 0.7, 0.2, 0.8)
    for credit, bonus in ((0.870551, 0.438363), (1.566991, 0.659914), (2.124143, 0.797412)):
        stats = ops.vocab_stats(logits, credit=held)
        assert held.values.max().item() == pytest.approx(credit, abs=1e-6)
        assert stats.sample_logit.item() == pytest.approx(bonus, abs=2e-6)
        assert (stats.sample_logit - stats.logsumexp).exp().item() == pytest.approx(1 / (1 + math.exp(-bonus)), abs=1e-5)


def test_credit_equals_changed_logits():
    """On random rows over many steps, the correction of statistics is what a softmax of the changed logits gives."""
    generator = torch.Generator().manual_seed(0)
    held, dense = empty_credit(3, 0.7, 0.2, 0.8), torch.zeros(3, 40, dtype=torch.float64)
    for _ in range(10):
        logits = torch.randn(3, 40, generator=generator) * 2
        stats, p = ops.vocab_stats(logits, credit=held), logits.double().softmax(-1)
        dense = dense * 0.8
        dense[torch.arange(3), p.argmax(-1)] += p.max(-1).values ** 0.2
        assert 0 <= dense.min() and dense.max() <= 1 / (1 - 0.8)
        law = (logits.double() + 0.7 * dense.log1p()).log_softmax(-1)
        assert torch.equal(stats.sample.long(), law.argmax(-1)) and torch.equal(stats.argmax.long(), p.argmax(-1))
        torch.testing.assert_close((stats.sample_logit - stats.logsumexp).exp(), law.max(-1).values.exp().float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stats.entropy, -(law.exp() * law).sum(-1).float(), rtol=1e-5, atol=1e-5)


def credited_tokens(model, prompt: list[int], canvas: int, block: int, bar: float, adaptive: bool) -> list[int]:
    """CreditDecoding over a threshold, from its specification, with credit for all tokens."""
    tokens = prompt + [MASK] * canvas
    for begin in range(len(prompt), len(tokens), block):
        inside = torch.arange(begin, min(begin + block, len(tokens)))
        credit = torch.zeros(len(inside), model.config.vocab_size, dtype=torch.float64)
        while masked := [i for i, p in enumerate(inside.tolist()) if tokens[p] == MASK]:
            filled = 1 - len(masked) / len(inside)
            alpha, gamma, beta = (filled, 1.0, filled) if adaptive else (0.7, 0.2, 0.8)
            logits = all_logits(model, tokens)[inside]
            logits[:, MASK] = -torch.inf
            best = logits.softmax(-1).max(-1)
            credit *= beta
            credit[masked, best.indices[masked]] += best.values[masked] ** gamma
            confidence, proposal = (logits + alpha * credit.log1p()).softmax(-1).max(-1)
            surest = max(masked, key=lambda i: (float(confidence[i]), -i))
            for i in masked:
                if i == surest or confidence[i] >= bar:
                    tokens[int(inside[i])] = int(proposal[i])
    return tokens[len(prompt) :]


@pytest.mark.parametrize("target", ["hf", "native"])
@pytest.mark.parametrize("credit", [Credit(), AdaptiveCredit()])
def test_credit_in_decoding(credit, target):
    prompts, bar = [random_prompt(n, seed=n) for n in (5, 9, 1, 12)], 0.05
    made = generator(target, blocks=FixedBlocks(6), unmask=Threshold(bar), credit=credit)
    want = [credited_tokens(diffusion_model(), p, 17, 6, bar, isinstance(credit, AdaptiveCredit)) for p in prompts]
    results = made.generate(prompts, max_new_tokens=17)
    assert [r.token_ids for r in results] == want
    plain = generator(target, blocks=FixedBlocks(6), unmask=Threshold(bar)).generate(prompts, max_new_tokens=17)
    assert [r.stats.commit_order for r in plain] != [r.stats.commit_order for r in results]


def adaptive(proposals: list[int], confidences: list[float], reach: int, default: int = 8) -> int:
    floats = torch.zeros(len(proposals), 16)
    floats[:, 5] = torch.tensor(confidences).log()
    ints = torch.tensor([[p, p] for p in proposals], dtype=torch.int32)
    as_int = lambda *values: torch.tensor(values, dtype=torch.int32)
    position = torch.arange(10, 10 + len(proposals), dtype=torch.int32)
    return int(ops.adaptive_block_size(VocabStats(floats, ints), as_int(0, len(proposals)), position, as_int(10), as_int(reach), as_int(20), delimiters=as_int(9), bar=0.3, default=default))


def test_blocks_end_at_the_most_confident_delimiter():
    assert adaptive([1, 9, 2, 9, 9], [0.9, 0.4, 0.9, 0.6, 0.5], reach=5) == 4
    assert adaptive([1, 9, 2, 9, 9], [0.9, 0.4, 0.9, 0.6, 0.5], reach=3) == 2
    assert adaptive([1, 9, 9], [0.9, 0.5, 0.5], reach=3) == 2  # the first of equals
    assert adaptive([1, 9, 2], [0.9, 0.2, 0.9], reach=3) == 8  # not sure enough
    assert adaptive([1, 2], [0.9, 0.9], reach=2) == 8
    assert adaptive([1, 2], [0.9, 0.9], reach=2, default=50) == 20
    assert AdaptiveBlocks().reach(100, 100, 612) == 128 and AdaptiveBlocks().reach(600, 100, 612) == 12
    assert AdaptiveBlocks(window="generated").reach(100, 100, 612) == 1 and AdaptiveBlocks(window="generated").reach(300, 100, 612) == 50


def test_order_metrics():
    order = list(range(8))
    assert local_ar_ness(order) == 7 / 8 and local_ar_ness(order, 3) == 5 / 8 and global_ar_ness(order) == 1.0
    assert local_ar_ness(order[::-1]) == 0.0 and global_ar_ness(order[::-1]) == 1 / 8
    assert global_ar_ness(order[::-1], 8) == 1.0
    assert local_ar_ness([]) == global_ar_ness([]) == 0.0


def test_a_filter_is_saved_and_pads_short_blocks(tmp_path):
    torch.manual_seed(0)
    network = UnmaskFilter(8)
    network.save(tmp_path / "filter.safetensors")
    loaded = UnmaskFilter.load(tmp_path / "filter.safetensors")
    confidences = torch.rand(11)
    got = LearnedFilter(loaded, 0.5).accept(confidences, [8, 3])
    padded = torch.ones(2, 8)
    padded[0], padded[1, :3] = confidences[:8], confidences[8:]
    want = network(padded).sigmoid() > 0.5
    assert torch.equal(got, torch.cat([want[0], want[1, :3]]))
    assert LearnedFilter(loaded, 1.0).accept(confidences, [8, 3]).sum() == 0


def test_every_preset_is_a_policy():
    for name in PRESETS:
        if name == "learn2pd":
            with pytest.raises(ValueError, match="needs a filter"):
                make_policy(name)
            assert make_policy(name, unmask=LearnedFilter(UnmaskFilter())).unmask.bar == 0.96
        else:
            assert isinstance(make_policy(name), Policy)


BAD = [
    (dict(blocks=AdaptiveBlocks(), steps=AscendingSteps()), "cannot be planned"),
    (dict(blocks=AdaptiveBlocks(), steps=UniformSteps(4)), "cannot be planned"),
    (dict(blocks=AscendingBlocks(2)), "needs steps=AscendingSteps"),
    (dict(steps=TimeSteps(8)), "use blocks=WholeCanvas"),
    (dict(steps=IndependentSteps(8), scorer="random"), "IndependentSteps is a schedule of the whole canvas"),
    (dict(steps=IndependentSteps(8), blocks=WholeCanvas()), "draws positions, scorer='confidence' chooses them"),
    (dict(unmask=EntropyBelow()), "scorer='neg_entropy'"),
    (dict(unmask=Threshold(), scorer="neg_entropy"), "compares probabilities"),
    (dict(unmask=Factor(), scorer="random"), "compares probabilities"),
    (dict(unmask=LearnedFilter(UnmaskFilter()), blocks=WholeCanvas()), "needs FixedBlocks"),
    (dict(unmask=LearnedFilter(UnmaskFilter()), blocks=FixedBlocks(64)), "no longer than the filter's input"),
    (dict(unmask=LearnedFilter(UnmaskFilter()), scorer="margin"), "reads confidences"),
    (dict(end_damping=EndDamping(), scorer="neg_entropy"), "would promote EOS"),
    (dict(end_damping=EndDamping(), unmask=LearnedFilter(UnmaskFilter())), "does not reach"),
    (dict(drafts=FreeDraft(), steps=UniformSteps(4)), "verifies one token per step"),
    (dict(drafts=FreeDraft(), unmask=Factor()), "not of Factor"),
    (dict(drafts=FreeDraft(), scorer="random"), "has no order to follow"),
    (dict(drafts=FreeDraft(), credit=Credit()), "depend on the way"),
    (dict(drafts=FreeDraft(), early_commit=EarlyCommit()), "ends the losslessness"),
    (dict(drafts=FreeDraft(), cache=Delayed(4)), "frozen keys do not change"),
    (dict(drafts=FreeDraft(), cache=Dual(4)), "frozen keys do not change"),
    (dict(cache=DelayedGreedy()), "only scorer='random'"),
    (dict(early_commit=EarlyCommit(answer=(3,)), cache=Prefix()), "does not compute"),
    (dict(early_commit=EarlyCommit(parts=(0.7, 0.3))), "must ascend"),
    (dict(cache=BlockCausal(), blocks=WholeCanvas()), "FixedBlocks of the model's length"),
    (dict(credit=Credit(), scorer="random"), "ignores them"),
    (dict(credit=Credit(), scorer="margin"), "for the best token alone"),
    (dict(drafts=FreeDraft(), cut_at_eos=True), "end_at_eos alone"),
    (dict(cut_at_eos=True, end_at_eos=False), "leave one of them out"),
    (dict(scorer="best"), "scorer='best' is unknown"),
    (dict(blocks=FixedBlocks(0)), r"FixedBlocks\(length=0\)"),
    (dict(blocks=AdaptiveBlocks(window="all")), "window='all'"),
    (dict(cache=Delayed(0)), r"Delayed\(interval=0\)"),
    (dict(drafts=FreeDraft(True)), r"FreeDraft\(depth=True\)"),
    (dict(unmask=Threshold(math.nan)), "not a number"),
    (dict(preset="fastest"), "preset='fastest' is unknown"),
]


@pytest.mark.parametrize("parts, message", BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_parts_that_do_not_go_together(parts, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**{"preset": "llada", **parts})


@pytest.mark.parametrize("parts, message", [(dict(cache="dual"), "cache='dual' is not a part"), (dict(unmask=0.9), "unmask=0.9 is not a part"), (dict(block=FixedBlocks(8)), "block: no part of a policy")])
def test_wrong_kinds_of_parts(parts, message):
    with pytest.raises(TypeError, match=message):
        make_policy("llada", **parts)
