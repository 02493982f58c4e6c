import numpy as np
import pytest

from fastdecode.speculative.step_cost import StepCost
from fastdecode.speculative.tree import Draft


def measured(costs: dict[int, float]) -> StepCost:
    cost = StepCost()
    for width, seconds in costs.items():
        for _ in range(3):
            cost.record(width, seconds)
    return cost


def test_estimates_pass_through_measurements_and_never_fall():
    cost = measured({1: 1.0, 4: 1.3, 16: 1.2})
    estimates = cost.estimates(np.arange(1, 65))
    assert estimates[0] == pytest.approx(1.0) and estimates[3] == pytest.approx(1.3)
    assert (np.diff(estimates) >= 0).all()


def test_free_width_takes_every_node_and_dear_width_none():
    scores = [np.array([0.5, 0.2, 0.05], np.float32)]
    assert measured({1: 1.0, 4: 1.0}).best_size(scores) == 3
    assert measured({1: 1.0, 2: 1.9, 4: 3.5}).best_size(scores) == 0
    assert measured({1: 1.0, 2: 1.1, 4: 1.9}).best_size(scores) == 1


def test_no_drafts():
    assert StepCost().best_size([np.array([], np.float32)]) == 0
    assert len(StepCost().trim([Draft.empty()])[0]) == 0


def test_a_slow_outlier_does_not_turn_speculation_off():
    cost = measured({1: 1.0, 4: 1.1})
    cost.record(4, 50.0)
    assert cost.best_size([np.array([0.6, 0.4, 0.3], np.float32)]) == 3


def test_trim_keeps_the_best_nodes_connected():
    cost = measured({1: 1.0, 2: 1.05, 4: 3.0})
    draft = Draft(np.array([5, 6, 7], np.int32), np.array([-1, 0, -1], np.int32), np.array([0.9, 0.05, 0.1], np.float32))
    trimmed = cost.trim([draft])[0]
    assert trimmed.tokens.tolist() == [5] and trimmed.parents.tolist() == [-1]
