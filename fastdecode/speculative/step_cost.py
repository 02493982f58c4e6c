"""What a forward pass costs by its width.

A pass over many tokens costs more than one over a single token, by an amount that depends on machine, model and dtype. It is
measured when a generator is made and corrected while it decodes. Plain Python on a handful of numbers: this runs in every round.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from itertools import accumulate
from typing import Mapping

from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.base import TargetModel

PRIOR = {1: 1.0, 2: 1.03}  # relative cost until something was measured
WIDTHS, CONTEXT = (1, 2, 4, 8, 16, 32, 64), 64  # of the measurement
BUDGET, REPEATS = 0.5, 5  # seconds it may take beyond one pass per width, passes per width
RATE, FORGET, LARGEST = 0.1, 0.99, 0.3  # of the running correction: weight of a pass, decay per pass, largest step (in logarithms)
SPREAD, STEEPEST = 1e-3, 8.0  # variance of what widths should cost that is too little to learn a slope from; bound of the slope


class StepCost:
    """Cost of a pass by width (tokens of all rows together).

    Args:
        measured: width -> seconds.
    """

    def __init__(self, measured: Mapping[int, float] = PRIOR):
        self._widths = sorted(measured)
        self._costs = list(accumulate((measured[w] for w in self._widths), max))
        self._expected = [0.0]  # by width, as far as any was asked for
        self._slope, self._center, self._spread = 1.0, 0.0, 0.0  # of the log of what passes cost over that of what they should; mean and variance of the latter
        self._level: float | None = None  # running log of measured / expected, over all widths
        self._correction: dict[int, float] = {}  # the same for a class of doubling width, relative to the level
        self._estimates = [0.0]  # by width, since the last pass, as far as any was asked for

    @classmethod
    def measure(cls, target: TargetModel) -> "StepCost":
        """Times passes over chains behind a short context; the fastest pass of each width counts."""
        room = target.max_positions or CONTEXT + WIDTHS[-1]
        context = min(CONTEXT, room // 2)
        state = target.new_state(1, context + WIDTHS[-1])
        target.prefill(state, 0, [0] * context)
        seconds: dict[int, float] = {}
        start = time.perf_counter()
        for repeat in range(REPEATS):
            for width in WIDTHS:
                if width > room - context or (repeat and time.perf_counter() - start > BUDGET):
                    break
                tree = DraftTree.build([0], [Draft.chain([0] * (width - 1), [1.0] * (width - 1))])
                begin = time.perf_counter()
                target.forward(state, [0], tree)
                seconds[width] = min(seconds.get(width, math.inf), time.perf_counter() - begin)
        return cls(seconds if len(seconds) > 1 else PRIOR)

    def record(self, width: int, seconds: float) -> None:
        """Corrects the expectation by one pass. What was learnt about widths that no longer occur is forgotten."""
        expected = math.log(self._up_to(width)[width] / self._costs[0])
        error = math.log(max(seconds, 1e-9) / self._costs[0]) - self._slope * expected
        self._level = error if self._level is None else self._level + RATE * _clipped(error - self._level)
        self._tilt(expected, error - self._level)
        for other in self._correction:
            self._correction[other] *= FORGET
        bucket = _bucket(width)
        before = self._correction.get(bucket, 0.0)
        self._correction[bucket] = before + RATE * _clipped(error - self._level - before)
        self._estimates = [0.0]

    def _tilt(self, expected: float, error: float) -> None:
        """A measurement that was disturbed is wrong everywhere: what narrow passes say of its slope holds for wide ones that are never taken."""
        aside = expected - self._center
        self._center += RATE * aside
        self._spread += RATE * (aside * aside - self._spread)
        slope = self._slope + RATE * _clipped(error) * aside / (self._spread + SPREAD) + (1 - FORGET) * (1 - self._slope)
        self._slope = min(max(slope, 0.0), STEEPEST)

    def estimates(self, first: int, last: int) -> list[float]:
        """Relative cost of the widths first ... last, never falling with width."""
        estimates = self._estimates  # which another thread may replace
        if len(estimates) <= last:
            one, expected, factors = self._costs[0], self._up_to(last), {bucket: math.exp(c) for bucket, c in self._correction.items()}
            estimates = self._estimates = list(accumulate((one * (expected[w] / one) ** self._slope * factors.get(_bucket(w), 1.0) for w in range(last + 1)), max))
        return estimates[first : last + 1]

    def seconds(self, first: int, last: int) -> list[float]:
        """The same in seconds, at the pace of the passes that were recorded."""
        return [cost * self._pace for cost in self.estimates(first, last)]

    @property
    def narrowest(self) -> float:
        """Seconds of the cheapest pass."""
        return self._costs[0] * self._pace

    @property
    def _pace(self) -> float:
        return math.exp(self._level or 0.0)

    def _up_to(self, width: int) -> list[float]:
        """Expected cost by width, before corrections."""
        while len(self._expected) <= width:
            self._expected.append(self._interpolated(len(self._expected)))
        return self._expected

    def _interpolated(self, width: int) -> float:
        """Between measurements on straight lines, beyond the last along the last one, below the first as that."""
        if width <= self._widths[0]:
            return self._costs[0]
        right = min(bisect_right(self._widths, width), len(self._widths) - 1)
        (x0, x1), (y0, y1) = self._widths[right - 1 : right + 1], self._costs[right - 1 : right + 1]
        return y0 + (y1 - y0) * (width - x0) / (x1 - x0)


def _bucket(width: int) -> int:
    return (width - 1).bit_length()


def _clipped(step: float) -> float:
    return max(-LARGEST, min(LARGEST, step))
