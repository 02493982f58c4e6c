"""The decisions how much to draft, at costs and acceptance rates that are given."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from fastdecode import SpeculativeGenerator
from fastdecode.speculative.acceptance import Acceptance
from fastdecode.speculative.controller import Controller
from fastdecode.speculative.drafters.early_exit import EarlyExitDrafter
from fastdecode.speculative.step_cost import StepCost
from fastdecode.speculative.tree import Draft, Draws
from tests.models import OracleDrafter, random_prompt

import torch


def forest(*scores: float) -> Draft:
    return Draft(np.arange(len(scores), dtype=np.int32), np.full(len(scores), -1, np.int32), np.array(scores, np.float32))


def sizes(costs: dict[int, float], *drafts: Draft, acceptances: list[Acceptance] | None = None) -> list[int]:
    return [len(d) for d in Controller(StepCost(costs)).trim(drafts, acceptances or [Acceptance() for _ in drafts])]


def test_free_width_takes_every_node_and_dear_width_none():
    draft = forest(0.5, 0.2, 0.05)
    assert sizes({1: 1.0, 4: 1.0}, draft) == [3]
    assert sizes({1: 1.0, 2: 1.9, 4: 3.5}, draft) == [0]
    assert sizes({1: 1.0, 2: 1.1, 4: 1.9}, draft) == [1]


def test_rows_share_a_pass_by_the_worth_of_their_nodes():
    assert sizes({1: 1.0, 2: 1.0, 4: 1.0, 6: 2.0}, forest(0.9, 0.8), forest(0.3, 0.2)) == [2, 0]
    assert sizes({1: 1.0, 4: 1.0}, forest(), forest(0.1)) == [0, 1]


def test_no_drafts():
    assert sizes({1: 1.0, 2: 1.0}, Draft.empty(), Draft.empty()) == [0, 0]


def test_trimming_keeps_the_best_nodes_connected():
    draft = Draft(np.array([5, 6, 7], np.int32), np.array([-1, 0, -1], np.int32), np.array([0.9, 0.05, 0.1], np.float32))
    trimmed = Controller(StepCost({1: 1.0, 2: 1.05, 4: 3.0})).trim([draft], [Acceptance()])[0]
    assert trimmed.tokens.tolist() == [5] and trimmed.parents.tolist() == [-1]


def test_drawn_drafts_stay_whole():
    law = torch.full((4,), 0.25)
    draft = Draft(np.array([1], np.int32), np.array([-1], np.int32), np.array([0.01], np.float32), (Draws(-1, [1], law),))
    assert sizes({1: 1.0, 2: 5.0}, draft) == [1]


def test_drafts_that_were_weighed_token_by_token_stay_whole():
    assert sizes({1: 1.0, 2: 5.0}, forest(0.01)) == [0]
    for drafter, kept in ((EarlyExitDrafter("auto"), 1), (EarlyExitDrafter("auto", threshold=0.5), 0)):
        drafter = SimpleNamespace(judges_nodes=drafter.judges_nodes)
        controller = Controller(StepCost({1: 1.0, 2: 5.0}), drafter)
        assert [len(d) for d in controller.trim([forest(0.01)], [Acceptance()])] == [kept]


def test_promises_that_are_not_kept_count_less():
    boaster, honest = Acceptance(), Acceptance()
    for _ in range(40):
        boaster.learn(promised=0.9, depth=1, accepted=0)
        honest.learn(promised=0.9, depth=1, accepted=1)
    costs = {1: 1.0, 2: 1.4}
    assert sizes(costs, forest(0.9), acceptances=[boaster]) == [0]
    assert sizes(costs, forest(0.9), acceptances=[honest]) == [1]
    for _ in range(600):
        boaster.learn(promised=0.0, depth=0, accepted=0)  # nothing was drafted, what is known fades
    assert sizes(costs, forest(0.9), acceptances=[boaster]) == [1]


def acceptance(rate: float) -> Acceptance:
    return Acceptance(kept=1000 * rate, lost=1000 * (1 - rate))


@pytest.mark.parametrize("rate, step, level", [(0.8, 1.0, 0.1), (0.9, 1.0, 0.01), (0.3, 1.0, 0.3), (0.05, 1.0, 0.2), (0.6, 2.0, 1.9)])
def test_depth_gives_the_most_tokens_per_second(rate, step, level):
    controller = Controller(StepCost({1: step, 64: step}))
    controller.level_seconds = level
    known = acceptance(rate)
    speed = [sum(known.rate**i for i in range(d + 1)) / (step + level * d) for d in range(17)]
    assert controller.depth(known, 16) == speed.index(max(speed))


def test_drafts_that_cost_nothing_are_as_long_as_they_may_be():
    controller = Controller(StepCost({1: 1.0, 64: 1.0}))
    assert controller.depth(acceptance(0.01), 16) == 16
    controller.record_proposal(4, 4 * 1e-4)
    assert controller.level_seconds == pytest.approx(1e-4) and controller.depth(acceptance(0.01), 16) == 16
    assert controller.depth(acceptance(0.9), 0) == 0


def test_paths_are_gone_on_from_where_their_tokens_pay_for_their_places():
    """At 2 tokens in 1 s, a token that adds 0.05 s to a pass must bring 0.1; 0.4 of a path's chance is what its children keep."""
    seen = Acceptance(promised=3.0, accepted=3.0, rounds=3.0)  # calibration 1, 2 tokens a round
    assert Controller(StepCost({1: 1.0, 8: 1.0 + 7 * 0.05})).open_score(seen) == pytest.approx(0.1 / 0.4)
    assert Controller(StepCost({1: 1.0, 8: 1.0})).open_score(seen) == 0
    boaster = Acceptance(promised=8.0, accepted=3.0, rounds=3.0)  # promises twice what it keeps
    assert Controller(StepCost({1: 1.0, 8: 1.0 + 7 * 0.05})).open_score(boaster) == pytest.approx(2 * 0.1 / 0.4)


def test_a_drafter_is_measured_when_the_generator_is_made(llama):
    drafter = OracleDrafter([])
    drafter.level_seconds = lambda: 0.125
    assert SpeculativeGenerator(llama, drafter=drafter)._controller.level_seconds == 0.125


class SlowGuess(OracleDrafter):
    """Takes longer than a pass and is always wrong."""

    asked = 0

    def propose(self, state, rows, budgets):
        if budgets[0].depth:
            self.asked += 1
            time.sleep(0.02)
        return [Draft.empty() if b.depth == 0 else Draft.chain([1], [0.9]) for b in budgets]


def test_a_slow_and_useless_drafter_is_left_alone(llama):
    drafter = SlowGuess([[]])
    drafter.level_seconds = lambda: 0.02
    generator = SpeculativeGenerator(llama, drafter=drafter)
    prompt = random_prompt(9, seed=1)
    result = generator.generate(prompt, max_new_tokens=60, eos_token_id=-1)
    assert drafter.asked < 6 and result.stats.skipped_rounds > 50
    assert result.token_ids == SpeculativeGenerator(llama, drafter="none").generate(prompt, max_new_tokens=60, eos_token_id=-1).token_ids
    assert generator.generate(prompt, max_new_tokens=10, eos_token_id=-1, speculate=1).stats.skipped_rounds == 0  # as was asked for
