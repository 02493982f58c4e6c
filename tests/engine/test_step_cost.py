import numpy as np
import pytest

from fastdecode.speculative.step_cost import StepCost
from fastdecode.targets.hf import HFTarget
from fastdecode.targets.native import NativeTarget
from tests.models import small_model


def test_estimates_pass_through_measurements_and_never_fall():
    cost = StepCost({1: 1.0, 4: 1.3, 16: 1.2, 32: 2.1})
    estimates = cost.estimates(1, 64)
    assert estimates[0] == pytest.approx(1.0) and estimates[3] == pytest.approx(1.3) and estimates[15] == pytest.approx(1.3)
    assert estimates[63] == pytest.approx(2.1 + 32 * 0.8 / 16)
    assert (np.diff(estimates) >= 0).all()
    cost.record(4, 1.0)
    assert (np.diff(cost.estimates(1, 64)) >= 0).all()


def test_measuring_a_target():
    estimates = StepCost.measure(NativeTarget(small_model())).estimates(1, 99)
    assert min(estimates) > 0 and (np.diff(estimates) >= 0).all() and estimates[0] < 1


def test_a_model_with_few_positions_is_measured_within_them():
    StepCost.measure(NativeTarget(small_model(max_position_embeddings=5)))
    StepCost.measure(HFTarget(small_model("gpt2", n_positions=16)))


def test_passes_correct_the_expectation_and_a_slow_machine_changes_nothing():
    cost = StepCost({1: 1.0, 8: 2.0})
    for _ in range(200):
        cost.record(1, 10.0)
        cost.record(8, 20.0)
    assert cost.estimates(1, 8)[::7] == pytest.approx([1.0, 2.0], rel=0.02)
    for _ in range(200):
        cost.record(1, 1.0)
        cost.record(8, 1.2)
    one, eight = cost.estimates(1, 8)[::7]
    assert 1.15 < eight / one < 1.6
    for _ in range(600):
        cost.record(1, 1.0)  # nothing is heard of width 8 any more
    one, eight = cost.estimates(1, 8)[::7]
    assert eight / one == pytest.approx(2.0, rel=0.02)


def test_narrow_passes_correct_a_measurement_that_was_disturbed():
    """Measured beside something else: width 16 seems to cost ten times a token. Passes over 1 to 4 tokens say otherwise."""
    cost = StepCost({1: 1.0, 4: 2.2, 16: 10.0})
    for _ in range(100):
        for width in (1, 2, 3, 4):
            cost.record(width, 1.0 + 0.03 * (width - 1))
    one, *_, sixteen = cost.estimates(1, 16)
    assert 1.2 < sixteen / one < 2.5
    for _ in range(600):
        cost.record(1, 1.0)  # which alone says nothing of the slope
    one, *_, sixteen = cost.estimates(1, 16)
    assert sixteen / one == pytest.approx(10, rel=0.05)


def test_seconds_follow_the_pace():
    cost = StepCost({1: 1.0, 8: 2.0})
    for _ in range(100):
        cost.record(1, 0.25)
    assert cost.narrowest == pytest.approx(0.25)
    assert cost.seconds(1, 8)[::7] == pytest.approx([0.25, 0.5], rel=0.02)
