"""Drafts of the model's own first layers: the same text, and no layer runs twice for a token."""

import numpy as np
import pytest
import torch

from fastdecode import SpeculativeGenerator
from fastdecode.speculative.drafters import CompositeDrafter, EarlyExitDrafter, SuffixDrafter
from fastdecode.speculative.drafters.early_exit import _Chain
from fastdecode.speculative.exit_layers import Exit, ExitChoice, Watch
from fastdecode.targets.native import NativeTarget
from tests.models import random_prompt, small_model
from tests.threads import one_thread  # noqa: F401

PROMPTS = [random_prompt(n, seed=n) for n in (1, 2, 9, 33)]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16])
def model(request):
    return small_model(dtype=request.param, num_hidden_layers=6)


@pytest.mark.parametrize("layer", [1, 3, 5, "auto"])
def test_text_stays_exact(model, layer):
    plain = SpeculativeGenerator(model, drafter="none", target="native")
    generator = SpeculativeGenerator(model, drafter=EarlyExitDrafter(layer, 4), target="native")
    for sampling in ({"do_sample": False}, {"do_sample": True, "temperature": 0.9, "seed": 2}):
        want = plain.generate(PROMPTS, max_new_tokens=20, **sampling)
        assert [r.token_ids for r in generator.generate(PROMPTS, max_new_tokens=20, speculate=5, **sampling)] == [r.token_ids for r in want]
        got = [generator.generate(p, max_new_tokens=20, speculate=True, **sampling).token_ids for p in PROMPTS]
        assert got == [plain.generate(p, max_new_tokens=20, **sampling).token_ids for p in PROMPTS]


def test_deeper_exits_are_right_more_often():
    """Late layers that change little: the early ones nearly know the answer."""
    model = small_model(num_hidden_layers=6)
    with torch.no_grad():
        for layer in model.model.layers[2:]:
            layer.self_attn.o_proj.weight.mul_(0.05)
            layer.mlp.down_proj.weight.mul_(0.05)
    lengths = []
    for layer in (1, 3, 5):
        result = SpeculativeGenerator(model, drafter=EarlyExitDrafter(layer, 4), target="native").generate(PROMPTS[3], max_new_tokens=40, speculate=4, eos_token_id=-1)
        lengths.append(result.stats.mean_acceptance_length)
    assert lengths[0] < lengths[2] and lengths[2] > 4


def test_no_layer_runs_twice_for_a_token(monkeypatch):
    """Layer evaluations of a round with a draft of g tokens from layer E of L: g E + L for the pending token and for each draft."""
    target = NativeTarget(small_model(num_hidden_layers=6))
    ran = []

    class Counted:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def forward(self, cache, tokens, **part):
            ran.append((len(tokens), part.get("begin", 0), part.get("end", -1)))
            return self.inner.forward(cache, tokens, **part)

        def forward_stats(self, cache, tokens, *rest, **part):
            ran.append((len(tokens), part.get("begin", 0), part.get("end", -1)))
            return self.inner.forward_stats(cache, tokens, *rest, **part)

        def most_probable(self, *arrays, **part):
            ran.append((int(arrays[-1].sum()), part.get("begin", 0), part.get("end", -1)))
            return self.inner.most_probable(*arrays, **part)

    generator = SpeculativeGenerator(target.model, drafter=EarlyExitDrafter(2, 3), target=target)
    monkeypatch.setattr(target, "transformer", Counted(target.transformer))
    result = generator.generate(PROMPTS[2], max_new_tokens=8, speculate=3, eos_token_id=-1)
    ran = ran[1:]  # the prompt
    layers = sum(tokens * ((6 if end < 0 else end) - begin) for tokens, begin, end in ran)
    tokens = sum(size * rounds for size, rounds in enumerate(result.stats.draft_sizes)) + result.stats.rounds
    assert layers == 6 * tokens


def choice_of(rates: dict[int, float], most: int = 6, step: float = 1.0, early=lambda layer: layer / 10, late: float = 0.0) -> ExitChoice:
    choice = ExitChoice(list(rates), most, step, [early(layer) for layer in rates], [late] * len(rates))
    choice.learn(np.array([np.arange(100) < round(100 * rate) for rate in rates.values()]), np.full((len(rates), 100), 0.75))
    return choice


def test_the_choice_follows_its_accounts():
    assert choice_of({1: 0.8, 3: 0.8, 5: 0.8}).best().layer == 1  # of equal rates the cheapest layer
    assert choice_of({1: 0.0, 3: 0.0}).best().drafts == 0
    best = choice_of({1: 0.1, 5: 0.95}).best()
    assert best.layer == 5 and best.drafts > 1
    assert choice_of({1: 1.0}).best()[:2] == (1, 6)
    assert choice_of({1: 1.0, 3: 1.0}).best().unbeaten and not choice_of({1: 0.7, 3: 1.0}).best().unbeaten and not choice_of({1: 0.5, 3: 0.4}).best().unbeaten
    assert choice_of({1: 1.0}, late=1.0).best().drafts == 0  # verifying costs what it brings
    assert ExitChoice([1, 2], 4, 1.0, [0.1, 0.1], [0.0, 0.0]).best().drafts == 0  # nothing is known
    speeds = [choice_of({2: rate}, 4, early=lambda layer: 0.2).best().pace for rate in (0.2, 0.5, 0.9)]
    assert speeds == sorted(speeds)
    # 1 + 0.5 + 0.25 tokens in 1 + 2 x (0.2 + 0.1) passes
    assert choice_of({3: 0.5}, 4, early=lambda layer: 0.2, late=0.1).tokens_per_second(np.array([0.5]))[0, 2] == pytest.approx(1.75 / 1.6)


def test_accounts_fade_and_know_how_far_confidence_can_be_trusted():
    choice = ExitChoice([1, 2], 4, 1.0, [0.1, 0.2], [0.0, 0.0])
    assert choice.rates.tolist() == [0, 0]
    choice.learn(np.array([[True, True, False], [False, False, False]]), np.array([[0.95, 1.0, 0.31], [0.5, 0.5, 0.5]]))
    assert choice.rates == pytest.approx([2 / 4, 0])
    exit = choice.best()
    assert exit.layer == 1 and exit.chance(0.97) == pytest.approx((2 + 2 * 0.5) / 4) and exit.chance(0.35) == pytest.approx((2 * 0.5) / 3)
    assert exit.chance(0.5) == pytest.approx(0.5)  # nothing is known but the rate of all
    choice.learn(np.array([[False], [True]]), np.array([[0.5], [0.5]]))
    assert choice.right.sum(1) == pytest.approx([0.95 * 2, 1]) and choice.wrong.sum(1) == pytest.approx([1.95, 0.95 * 3])


def test_a_draft_ends_where_one_more_token_is_not_worth_its_time():
    best = choice_of({2: 0.8}, early=lambda layer: 0.15, late=0.05).best()
    # At the promised pace 0.2 seconds are worth 0.2 * pace tokens; one more token is right with 0.8 of the chance.
    assert best.least == pytest.approx(0.2 * best.pace / (80 / 101))
    drafter = EarlyExitDrafter("auto", 50)
    drafter.exit, chain, chances = best, _Chain(50), []
    while drafter._extend(chain, 7, 0.75):
        chances.append(chain.chances[-1])
    assert len(chances) > 2 and chances[-1] > best.least >= chain.chances[-1] and chain.chances == pytest.approx([best.chance(0.75) ** i for i in range(1, len(chances) + 2)])
    fixed, strict = EarlyExitDrafter(2, 50), EarlyExitDrafter(2, 50, threshold=0.2)
    assert fixed._extend(_Chain(50), 7, 0.1) and not fixed._extend(_Chain(1), 7, 0.1) and not strict._extend(_Chain(50), 7, 0.1) and strict._extend(_Chain(50), 7, 0.2)


def test_a_layer_learns_from_its_own_drafts_too():
    choice = choice_of({1: 0.5, 3: 0.9})
    for _ in range(100):
        choice.learn_draft(3, [True, False], [0.75, 0.1])
    assert choice.rates == pytest.approx([0.5, 0.5], abs=0.03)
    before = choice.rates[1]
    choice.learn_draft(3, [True], [1.0])
    assert choice.rates[1] > before and choice.right[1, 9] == 1


def test_costs_are_those_of_the_last_rounds():
    choice = choice_of({1: 0.7, 3: 0.9}, late=0.1)
    for _ in range(200):
        choice.learn_costs(3, 4, 4 * 0.6, 2.4)
    assert choice.early_seconds == pytest.approx([0.2, 0.6], rel=1e-3) and choice.step_seconds == pytest.approx(2.0, rel=1e-3)
    choice.learn_costs(3, 4, 1e9, 1e9)  # another program ran
    assert choice.early_seconds[1] < 0.7 and choice.step_seconds < 2.3
    choice.learn_costs(3, 0, 0.0, 2.0)
    assert choice.early_seconds[1] < 0.7


def test_where_drafts_do_not_pay_rounds_are_watched_ever_more_seldom():
    def rounds(watch: Watch, drafting: bool, count: int) -> list[int]:
        return [i for i in range(count) if watch.due(drafting)]

    watch = Watch()
    watch.begin()
    assert rounds(watch, False, 1000) == [0, 1, 2, 3, 35, 99, 227, 483, 739, 995]
    watch.begin()
    assert rounds(watch, True, 40) == [0, 16, 32]
    watch.begin()  # drafts tell what a new text is like
    assert rounds(watch, False, 100) == [8, 40]


def test_shadow_tokens_are_what_each_layer_would_have_said():
    model = small_model(num_hidden_layers=6)
    drafter = EarlyExitDrafter("auto", 4)
    generator = SpeculativeGenerator(model, drafter=drafter, target="native")
    lessons = []
    drafter.choice.learn = lambda matches, confidences: lessons.append((matches.copy(), confidences.copy()))
    drafter.exit, drafter.choice.best = Exit(3, 3), lambda: Exit(3, 3)
    prompt = PROMPTS[2]
    result = generator.generate(prompt, max_new_tokens=12, speculate=3, eos_token_id=-1)
    text = prompt + result.token_ids
    with torch.inference_mode():
        states = model(torch.tensor([text]), output_hidden_states=True).hidden_states
        for i, layer in enumerate(drafter.choice.layers):
            law = model.lm_head(model.model.norm(states[layer][0])).softmax(-1)
            at = len(prompt) - 1
            for matches, confidences in lessons[:4]:  # rounds that are all analysed
                places = torch.arange(at, at + matches.shape[1])
                assert matches[i].tolist() == (law[places].argmax(-1) == torch.tensor(text)[places + 1]).tolist()
                torch.testing.assert_close(torch.from_numpy(confidences[i]), law[places].max(-1).values, rtol=1e-3, atol=1e-3)
                at += matches.shape[1]
    assert len(lessons) >= 3


def with_costs(choice: ExitChoice) -> None:
    """Those of a large model, where a layer is a layer: a small one takes as long as its calls."""
    choice.step_seconds, choice.early_seconds, choice.late_seconds, choice.learn_costs = 1.0, np.array(choice.layers) / 6, np.zeros(5), lambda *cost: None


def test_layers_that_know_nothing_are_left_alone_and_those_that_know_are_found():
    model = small_model(num_hidden_layers=6)
    lost = EarlyExitDrafter("auto", 4)
    generator = SpeculativeGenerator(model, drafter=lost, target="native")
    with_costs(lost.choice)
    result = generator.generate(PROMPTS[3], max_new_tokens=60, eos_token_id=-1, do_sample=True, temperature=3.0, seed=1)
    assert result.stats.drafted < 20
    with torch.no_grad():
        for layer in model.model.layers[2:]:
            layer.self_attn.o_proj.weight.mul_(1e-3)
            layer.mlp.down_proj.weight.mul_(1e-3)
    drafter = EarlyExitDrafter("auto", 4)
    found = SpeculativeGenerator(model, drafter=drafter, target="native")
    with_costs(drafter.choice)
    result = found.generate(PROMPTS[3], max_new_tokens=60, eos_token_id=-1, speculate=4)
    assert drafter.exit.layer == 2 and result.stats.mean_acceptance_length > 3


def test_beside_other_drafts_it_is_one_of_them(model):
    generator = SpeculativeGenerator(model, drafter=CompositeDrafter([SuffixDrafter(), EarlyExitDrafter(2, 3)]), target="native")
    plain = SpeculativeGenerator(model, drafter="none", target="native")
    assert generator.generate(PROMPTS[3], max_new_tokens=20, speculate=8).token_ids == plain.generate(PROMPTS[3], max_new_tokens=20).token_ids


def test_wrong_calls_are_named(model):
    with pytest.raises(ValueError, match="layer=6 of early_exit is not below the model's 6 layers"):
        SpeculativeGenerator(model, drafter=EarlyExitDrafter(6), target="native")
    with pytest.raises(ValueError, match="only the compiled runtime can"):
        SpeculativeGenerator(model, drafter=EarlyExitDrafter(2), target="hf")
    with pytest.raises(ValueError, match="layer=0 must be"):
        EarlyExitDrafter(0)
    with pytest.raises(ValueError, match="must draft alone"):
        SpeculativeGenerator(model, drafter=["suffix", "early_exit"])
    with pytest.raises(ValueError, match="layer='last' must be"):
        EarlyExitDrafter("last")
    with pytest.raises(ValueError, match="num_tokens=1000000000 must be an integer from 1 to 64"):
        EarlyExitDrafter("auto", 10**9)
    with pytest.raises(ValueError, match="threshold=2 must lie"):
        EarlyExitDrafter(2, threshold=2)
