"""Drafts of the model's own first layers: the same text, and no layer runs twice for a token."""

import pytest
import torch

from fastdecode import SpeculativeGenerator
from fastdecode.speculative.drafters import CompositeDrafter, EarlyExitDrafter, SuffixDrafter
from fastdecode.speculative.exit_layers import Account, ExitChoice
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

    generator = SpeculativeGenerator(target.model, drafter=EarlyExitDrafter(2, 3), target=target)
    monkeypatch.setattr(target, "transformer", Counted(target.transformer))
    result = generator.generate(PROMPTS[2], max_new_tokens=8, speculate=3, eos_token_id=-1)
    ran = ran[1:]  # the prompt
    layers = sum(tokens * ((6 if end < 0 else end) - begin) for tokens, begin, end in ran)
    tokens = sum(size * rounds for size, rounds in enumerate(result.stats.draft_sizes)) + result.stats.rounds
    assert layers == 6 * tokens


def test_the_choice_follows_its_accounts():
    def chosen(rates: dict[int, float], most: int = 6, early=lambda layer: layer / 10) -> tuple[int, int]:
        choice = ExitChoice(list(rates), most, 1.0, early)
        for layer, rate in rates.items():
            choice.accounts[layer] = Account(100 * rate, 100 * (1 - rate))
        return choice.best()

    assert chosen({1: 0.8, 3: 0.8, 5: 0.8})[0] == 1  # of equal rates the cheapest layer
    assert chosen({1: 0.0, 3: 0.0})[1] == 0
    assert chosen({1: 0.1, 5: 0.95})[0] == 5 and chosen({1: 0.1, 5: 0.95})[1] > 1
    assert chosen({1: 1.0}) == (1, 6)
    assert ExitChoice([1, 2], 4, 1.0, lambda layer: 0.1).best()[1] == 0  # nothing is known
    speeds = []
    for rate in (0.2, 0.5, 0.9):
        choice = ExitChoice([2], 4, 1.0, lambda layer: 0.2)
        choice.accounts[2] = Account(rate, 1 - rate)
        speeds.append(choice.tokens_per_second(2, 3))
    assert speeds == sorted(speeds)
    # 1 + 0.5 + 0.25 tokens in 1 + 2 x 0.3 passes
    choice = ExitChoice([3], 4, 1.0, lambda layer: 0.3)
    choice.accounts[3] = Account(1.0, 1.0)
    assert choice.tokens_per_second(3, 2) == pytest.approx(1.75 / 1.6)


def test_accounts_fade_and_learn_a_threshold():
    account = Account()
    assert account.rate is None and account.threshold is None
    account.learn([True, True, False], [0.9, 0.7, 0.3])
    assert account.rate == pytest.approx(2 / 3) and account.threshold == pytest.approx((0.8 + 0.3) / 2)
    account.learn([False], [0.5])
    assert account.right == pytest.approx(0.95 * 2) and account.wrong == pytest.approx(1.95)


def test_shadow_tokens_are_what_each_layer_would_have_said():
    model = small_model(num_hidden_layers=6)
    drafter = EarlyExitDrafter("auto", 4)
    generator = SpeculativeGenerator(model, drafter=drafter, target="native")
    learnt: dict[int, list] = {layer: [] for layer in drafter.choice.accounts}
    for layer, account in drafter.choice.accounts.items():
        account.learn = lambda matches, confidences, layer=layer: learnt[layer].append((list(matches), list(confidences)))
    drafter.choice.best = lambda: (3, 3)
    prompt = PROMPTS[2]
    result = generator.generate(prompt, max_new_tokens=12, speculate=3, eos_token_id=-1)
    text = prompt + result.token_ids
    with torch.inference_mode():
        states = model(torch.tensor([text]), output_hidden_states=True).hidden_states
        for layer, lessons in learnt.items():
            law = model.lm_head(model.model.norm(states[layer][0])).softmax(-1)
            at = len(prompt) - 1
            for matches, confidences in lessons[:4]:  # rounds that are all analysed
                places = torch.arange(at, at + len(matches))
                assert matches == (law[places].argmax(-1) == torch.tensor(text)[places + 1]).tolist()
                torch.testing.assert_close(torch.tensor(confidences), law[places].max(-1).values, rtol=1e-3, atol=1e-3)
                at += len(matches)
    assert all(len(lessons) >= 3 for lessons in learnt.values())


def test_layers_that_know_nothing_are_left_alone_and_those_that_know_are_found():
    model = small_model(num_hidden_layers=6)
    lost = SpeculativeGenerator(model, drafter=EarlyExitDrafter("auto", 4), target="native")
    result = lost.generate(PROMPTS[3], max_new_tokens=60, eos_token_id=-1)
    assert result.stats.drafted < 20
    with torch.no_grad():
        for layer in model.model.layers[2:]:
            layer.self_attn.o_proj.weight.mul_(1e-3)
            layer.mlp.down_proj.weight.mul_(1e-3)
    drafter = EarlyExitDrafter("auto", 4)
    found = SpeculativeGenerator(model, drafter=drafter, target="native")
    drafter.choice.step_seconds, drafter.choice.early_seconds = 1.0, lambda layer: layer / 6
    result = found.generate(PROMPTS[3], max_new_tokens=60, eos_token_id=-1, speculate=4)
    assert drafter.layer == 2 and result.stats.mean_acceptance_length > 3


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
    with pytest.raises(ValueError, match="threshold=2 must lie"):
        EarlyExitDrafter(2, threshold=2)
