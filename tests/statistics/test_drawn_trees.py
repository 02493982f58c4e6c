"""Drawn trees are lossless: every outcome of the draws and of the verification is enumerated, pruned drafts included."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch

from fastdecode.speculative.drafters import drawn_tree
from fastdecode.speculative.drafters.drawn_tree import DrawnTree, as_independent, draws_for
from fastdecode.speculative.tree import Draft, Draws
from tests.laws import random_laws
from tests.transport_laws import Choices, Prefix, Tree, every_outcome

LEVELS = 2


def tables(vocab: int, seed: int) -> dict[Prefix, torch.Tensor]:
    """A law float32 [V] behind every prefix of up to `LEVELS` tokens."""
    prefixes = [p for n in range(LEVELS + 1) for p in itertools.product(range(vocab), repeat=n)]
    return dict(zip(prefixes, random_laws(len(prefixes), vocab, seed=seed, sharpness=1.0)))


def prefixes_of(draft: Draft) -> list[Prefix]:
    """Tokens down to every node, the pending token's () first."""
    result: list[Prefix] = [()]
    for token, parent in zip(draft.tokens.tolist(), draft.parents.tolist()):
        result.append((*result[1 + parent], token))
    return result


def grown(choices: Choices, laws: dict[Prefix, torch.Tensor], nodes: int, fixed: int, monkeypatch) -> Draft:
    """The tree that the drafter makes of these draws."""
    monkeypatch.setattr(drawn_tree, "draw", lambda law, count, numbers: [choices.choose(law.double() / law.double().sum()) for _ in range(count)])
    tree = DrawnTree(nodes, LEVELS, (0, 0, 0, 1), fixed=fixed)
    while tree.growing:
        tree.grow(torch.stack([laws[p] for p in prefixes_of(tree.draft())]))
    return tree.draft()


def law_behind(laws: dict[Prefix, torch.Tensor], prefix: Prefix) -> np.ndarray:
    """[V, ..., V]: the joint law of the tokens behind a prefix, up to the last level that has a law."""
    if len(prefix) > LEVELS:
        return np.ones(())
    own = laws[prefix].double().numpy()
    return np.stack([chance * law_behind(laws, (*prefix, token)) for token, chance in enumerate(own / own.sum())])


@pytest.mark.parametrize("vocab, nodes, fixed, most", [(3, 4, 0, 2), (4, 4, 1, 2), (4, 6, 1, 2), (5, 6, 2, 2)])
def test_joint_law_of_everything_that_is_emitted(vocab, nodes, fixed, most, monkeypatch):
    monkeypatch.setattr(drawn_tree, "MAX_DRAWS", most)
    target, draft_model = tables(vocab, 1), tables(vocab, 2)
    joint = {name: np.zeros([vocab] * (LEVELS + 1)) for name in ("token by token", "at once")}
    seen: dict[str, int] = defaultdict(int)
    for chance, draft in every_outcome(lambda choices: grown(choices, draft_model, nodes, fixed, monkeypatch)):
        prefixes = prefixes_of(draft)
        laws = {prefixes[1 + d.node]: d.law.numpy() for d in draft.draws}
        drawn = {prefixes[1 + d.node]: tuple(d.tokens) for d in draft.draws}
        tree = Tree(lambda prefix: target[prefix].numpy(), laws.__getitem__, drawn, set(prefixes[1:]))
        seen["pruned"] += any((*prefix, token) not in tree.nodes for prefix, tokens in drawn.items() for token in tokens)
        seen["repeated"] += any(len(set(tokens)) < len(tokens) for tokens in drawn.values())
        seen["undrawn"] += any(prefix[-1] not in drawn[prefix[:-1]] for prefix in tree.nodes)
        for name, law in (("token by token", tree.token_by_token()), ("at once", tree.at_once()[0])):
            for emitted, part in law.items():
                joint[name][emitted] += chance * part * law_behind(target, emitted)
    for name, law in joint.items():
        assert np.abs(law - law_behind(target, ())).max() < 1e-12, name
    assert seen["pruned"] and (fixed or seen["repeated"]) and bool(seen["undrawn"]) == bool(fixed)


@pytest.mark.parametrize("law, count", [((0.4, 0.3, 0.2, 0.1), 3), ((0.7, 0.2, 0.1), 2), ((0.85, 0.1, 0.05), 2), ((0.25, 0.25, 0.5), 1)])
def test_streams_of_distinct_draws_are_independent_draws(law, count, monkeypatch):
    """Every order of distinct draws, and every stream that is made of it: a stream has the chance that independent draws give it."""
    q = torch.tensor(law)
    exact = q.double() / q.double().sum()
    length = count + (draws_for(q, count) - count) // 2
    assert length > count or count == 1
    streams: dict[tuple[int, ...], float] = defaultdict(float)
    for order in itertools.permutations(range(len(law)), count):
        chance, left = 1.0, 1.0
        for token in order:
            chance *= float(exact[token]) / left
            left -= float(exact[token])

        def run(choices: Choices) -> tuple[int, ...]:
            class Numbers:
                @staticmethod
                def geometric(stops: float) -> int:
                    stays = 1 - stops
                    return 1 + choices.choose([stays**r * stops for r in range(length)] + [stays**length])

            monkeypatch.setattr(drawn_tree, "draw", lambda law, many, numbers: [choices.choose(law.double() / law.double().sum()) for _ in range(many)])
            return tuple(as_independent(Draws(-1, list(order), q, False), Numbers()))

        for part, stream in every_outcome(run):
            streams[stream] += chance * part
    assert len(streams) == len(law) ** length
    for stream, chance in streams.items():
        assert chance == pytest.approx(float(np.prod([float(exact[t]) for t in stream])), abs=1e-12)
