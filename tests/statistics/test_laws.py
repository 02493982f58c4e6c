"""Sampled text has exactly the target's law: the first two tokens against exact enumeration, whatever drafts and verifies them."""

import numpy as np
import pytest
import torch
from transformers.utils import logging

from fastdecode import SpeculativeGenerator
from fastdecode.speculative.drafters import ModelDrafter, SuffixDrafter
from fastdecode.speculative.prepare import resolve
from fastdecode.speculative.tree import Draft, Draws
from tests.laws import assert_follows
from tests.models import small_model

logging.set_verbosity_error()  # it warns about eos_token_id=-1

VOCAB = 7
PROMPT = [1, 2, 3, 1, 2, 4, 1, 2]
LAW = torch.tensor([0.30, 0.05, 0.20, 0.25, 0.0, 0.15, 0.05])  # that test drafts are drawn from
SETTINGS = {
    "plain": dict(temperature=1.0),
    "temperature_top_k": dict(temperature=0.8, top_k=4),
    "top_p_repetition": dict(top_p=0.8, repetition_penalty=1.3),
}


def tiny_model(seed: int):
    ids = dict(vocab_size=VOCAB, pad_token_id=5, bos_token_id=5, eos_token_id=6)
    return small_model(seed=seed, scale=6.0, num_hidden_layers=1, **ids)


@pytest.fixture(scope="module")
def target():
    return tiny_model(0)


@pytest.fixture(scope="module")
def draft_model():
    return tiny_model(1)


def sampling(settings: dict) -> dict:
    return dict(do_sample=True, max_new_tokens=3, eos_token_id=-1, **settings)


def exact_pair_law(model, settings: dict) -> torch.Tensor:
    """float64 [V * V]: chance of every pair of first tokens, by plain forward passes and the processors of transformers."""

    def next_law(tokens: list[int]) -> torch.Tensor:
        ids = torch.tensor([tokens])
        with torch.inference_mode():
            logits = model(ids, use_cache=False).logits[:, -1]
        return resolve(model, PROMPT, None, sampling(settings)).processors(ids, logits).double().softmax(-1)[0]

    first = next_law(PROMPT)
    return torch.stack([p * next_law(PROMPT + [t]) for t, p in enumerate(first)]).flatten()


def drawn_pairs(generator: SpeculativeGenerator, settings: dict, n: int) -> torch.Tensor:
    """int64 [n], first token * V + second; the drafts must have been kept sometimes and refused sometimes."""
    results = generator.generate(PROMPT, num_return_sequences=n, seed=11, speculate=12, **sampling(settings))  # a fixed size: drafts never give way to cost
    drafted, accepted = (sum(getattr(r.stats, name) for r in results) for name in ("drafted", "accepted"))
    assert 0.05 * n < accepted < 0.95 * drafted and drafted >= n
    return torch.tensor([r.token_ids[0] * VOCAB + r.token_ids[1] for r in results])


class DrawnTreeDrafter:
    """Draws `children` tokens of a fixed law at the root and at each of their nodes, repeats included; repeats share a node."""

    name = "drawn_tree"

    def __init__(self, law: torch.Tensor, children: int, seed: int = 0):
        self.law, self.children = law, children
        self.probabilities = law.double().numpy() / law.double().sum().item()
        self.random = np.random.default_rng(seed)

    def begin(self, requests):
        return None

    def propose(self, state, rows, budgets):
        return [self._draft(min(b.depth, 2)) for b in budgets]

    def _draft(self, depth: int) -> Draft:
        tokens, parents, draws = [], [], []
        level = [-1]
        for _ in range(depth):
            below = []
            for node in level:
                drawn = self.random.choice(len(self.law), self.children, p=self.probabilities).tolist()
                draws.append(Draws(node, drawn, self.law))
                for token in dict.fromkeys(drawn):
                    below.append(len(tokens))
                    tokens.append(token)
                    parents.append(node)
            level = below
        return Draft(np.array(tokens, np.int32), np.array(parents, np.int32), np.ones(len(tokens), np.float32), tuple(draws))

    def observe(self, state, row, tokens):
        pass

    def end(self, state, row):
        pass


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_suffix_drafts(target, settings):
    generator = SpeculativeGenerator(target, drafter=SuffixDrafter())
    assert_follows(drawn_pairs(generator, settings, 4000), exact_pair_law(target, settings))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("verifier, branches", [("chain", False), ("block", False), ("recursive", False), ("recursive", True), ("transport", False), ("transport", True), ("transport_block", False), ("transport_block", True), ("auto", False), ("auto", True)])
def test_model_drafts(target, draft_model, verifier, branches, settings):
    generator = SpeculativeGenerator(target, drafter=ModelDrafter(draft_model, branches=branches), verifier=verifier)
    assert_follows(drawn_pairs(generator, settings, 1200), exact_pair_law(target, settings))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("verifier", ["recursive_without_replacement", "transport", "transport_block", "auto"])
def test_distinct_drafts(target, draft_model, verifier, settings):
    generator = SpeculativeGenerator(target, drafter=ModelDrafter(draft_model, replacement=False), verifier=verifier)
    assert_follows(drawn_pairs(generator, settings, 1200), exact_pair_law(target, settings))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("fixed", [1, 2])
@pytest.mark.parametrize("verifier", ["recursive", "transport", "transport_block", "auto"])
def test_fixed_drafts_beside_drawn_ones(target, draft_model, verifier, fixed, settings):
    generator = SpeculativeGenerator(target, drafter=ModelDrafter(draft_model, fixed=fixed), verifier=verifier)
    assert_follows(drawn_pairs(generator, settings, 1200), exact_pair_law(target, settings))


def test_rules_for_the_other_kind_of_draws_are_refused(target, draft_model):
    for replacement, verifier in ((False, "recursive"), (True, "recursive_without_replacement")):
        generator = SpeculativeGenerator(target, drafter=ModelDrafter(draft_model, replacement=replacement), verifier=verifier)
        with pytest.raises(ValueError, match="is for draws with.* replacement, the drafter made the others"):
            generator.generate(PROMPT, seed=1, speculate=12, **sampling(SETTINGS["plain"]))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("verifier", ["recursive", "transport", "transport_block"])
def test_several_draws_per_node(target, verifier, settings):
    generator = SpeculativeGenerator(target, drafter=DrawnTreeDrafter(LAW, children=3), verifier=verifier)
    assert_follows(drawn_pairs(generator, settings, 4000), exact_pair_law(target, settings))


def test_the_comparison_notices_a_law_that_the_drafts_were_not_drawn_from(target):
    class Liar(DrawnTreeDrafter):
        def _draft(self, depth: int) -> Draft:
            draft = super()._draft(depth)
            claims = tuple(Draws(d.node, d.tokens, torch.full((VOCAB,), 1 / VOCAB)) for d in draft.draws)
            return Draft(draft.tokens, draft.parents, draft.scores, claims)

    generator = SpeculativeGenerator(target, drafter=Liar(LAW, children=3))
    with pytest.raises(AssertionError, match="p-value"):
        assert_follows(drawn_pairs(generator, SETTINGS["plain"], 4000), exact_pair_law(target, SETTINGS["plain"]))
