"""Drafts from the text or from the model's first layers: whichever promises more, and never another text."""

import numpy as np
import pytest
import torch

from fastdecode import SpeculativeGenerator
from fastdecode.speculative.acceptance import Acceptance
from fastdecode.speculative.drafters import AlternatingDrafter, EarlyExitDrafter, PromptLookupDrafter, SuffixDrafter, make_drafter
from fastdecode.speculative.exit_layers import Exit
from fastdecode.targets.hf import HFTarget
from fastdecode.targets.native import NativeTarget
from tests.models import random_prompt, small_model
from tests.threads import one_thread  # noqa: F401

PHRASE = random_prompt(6, seed=3)
PROMPTS = [PHRASE * 5, random_prompt(9, seed=1), PHRASE + random_prompt(5, seed=2) + PHRASE, random_prompt(1, seed=4)]


@pytest.fixture(scope="module")
def model():
    """Late layers change little: the early ones nearly know the answer."""
    model = small_model(num_hidden_layers=6)
    with torch.no_grad():
        for layer in model.model.layers[2:]:
            layer.self_attn.o_proj.weight.mul_(0.02)
            layer.mlp.down_proj.weight.mul_(0.02)
    return model


def fixed(drafter: AlternatingDrafter, exit: Exit, step_seconds: float = 1.0) -> None:
    """As if the accounts of the layers said this."""
    drafter.exits.exit, drafter.exits.choice.best, drafter.exits.choice.learn_costs = exit, lambda: exit, lambda *cost: None
    drafter.exits.choice.step_seconds = step_seconds


@pytest.mark.parametrize("pace", [0.5, 1.2, 1.6, 50.0], ids=["text", "often text", "often layers", "layers"])
def test_text_stays_exact_whoever_drafts(model, pace):
    plain = SpeculativeGenerator(model, drafter="none", target="native")
    drafter = AlternatingDrafter(SuffixDrafter(), EarlyExitDrafter("auto", 4))
    generator = SpeculativeGenerator(model, drafter=drafter, target="native")
    fixed(drafter, Exit(2, 3 if pace > 1 else 0, pace))
    for sampling in ({"do_sample": False}, {"do_sample": True, "temperature": 0.9, "seed": 2}):
        want = [r.token_ids for r in plain.generate(PROMPTS, max_new_tokens=24, eos_token_id=-1, **sampling)]
        results = generator.generate(PROMPTS, max_new_tokens=24, eos_token_id=-1, speculate=5, **sampling)
        assert [r.token_ids for r in results] == want and sum(r.stats.drafted for r in results) > 0
        assert [generator.generate(p, max_new_tokens=24, eos_token_id=-1, **sampling).token_ids for p in PROMPTS] == want


def test_whoever_promises_more_drafts(model):
    drafter = AlternatingDrafter(SuffixDrafter(), EarlyExitDrafter("auto", 4))
    generator = SpeculativeGenerator(model, drafter=drafter, target="native")
    asked = []
    early = generator.target.early
    generator.target.early = lambda *arguments, **more: asked.append(arguments) or early(*arguments, **more)
    fixed(drafter, Exit(2, 0, 1.0))  # layers are of no use
    assert generator.generate(PROMPTS[0], max_new_tokens=24, eos_token_id=-1, speculate=5).stats.drafted > 0 and not asked
    fixed(drafter, Exit(2, 3, 1e6))
    generator.generate(PROMPTS[0], max_new_tokens=24, eos_token_id=-1, speculate=5)
    assert asked and all(layer == 2 for _, _, _, _, layer, *_ in asked)


def test_promises_of_the_text_that_are_not_kept_count_less():
    acceptance = Acceptance()
    for _ in range(30):
        acceptance.learn(3.0, 3, 0)
    assert acceptance.calibration < 0.05
    for _ in range(100):
        acceptance.learn(3.0, 3, 3)
    assert acceptance.calibration > 0.9


def test_layers_are_found_where_the_text_has_nothing_to_say(model):
    """Accounts grow in rounds without drafts of the text, and drafts of the layers follow."""
    drafter = AlternatingDrafter(SuffixDrafter(), EarlyExitDrafter("auto", 4))
    generator = SpeculativeGenerator(model, drafter=drafter, target="native")
    choice = drafter.exits.choice
    choice.step_seconds, choice.early_seconds, choice.late_seconds, choice.learn_costs = 1.0, np.array(choice.layers) / 12, np.zeros(5), lambda *cost: None
    result = generator.generate(PROMPTS[1], max_new_tokens=80, eos_token_id=-1, speculate=4)
    assert drafter.exits.exit.layer in (2, 3) and result.stats.mean_acceptance_length > 2.5


def test_it_is_the_automatic_choice_where_no_head_is_installed(model):
    assert isinstance(make_drafter("auto", NativeTarget(model)), AlternatingDrafter)
    assert isinstance(make_drafter("auto", HFTarget(model)), SuffixDrafter)
    assert isinstance(make_drafter("auto", NativeTarget(small_model(num_hidden_layers=1))), SuffixDrafter)
    with pytest.raises(ValueError, match="layer=2, which promises nothing"):
        AlternatingDrafter(PromptLookupDrafter(), EarlyExitDrafter(2))
    with pytest.raises(TypeError, match="text is str, expected a drafter"):
        AlternatingDrafter("suffix", EarlyExitDrafter())
    with pytest.raises(TypeError, match="exits is SuffixDrafter, expected EarlyExitDrafter"):
        AlternatingDrafter(SuffixDrafter(), SuffixDrafter())


def test_in_a_list_only_the_text_is_merged(model):
    with pytest.raises(ValueError, match="must draft alone"):
        SpeculativeGenerator(model, drafter=[AlternatingDrafter(SuffixDrafter(), EarlyExitDrafter()), "prompt_lookup"], target="native")
    merged = SpeculativeGenerator(model, drafter=["auto", "prompt_lookup"], target="native").drafter
    assert [type(d) for d in merged.drafters] == [SuffixDrafter, PromptLookupDrafter]


def test_models_with_little_room_have_it_too():
    model = small_model(num_hidden_layers=6, max_position_embeddings=5)
    plain = SpeculativeGenerator(model, drafter="none", target="native").generate([1, 2], max_new_tokens=3)
    assert SpeculativeGenerator(model, target="native").generate([1, 2], max_new_tokens=3).token_ids == plain.token_ids
