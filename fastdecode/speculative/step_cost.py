"""What a forward pass costs by its width.

A pass over many tokens costs more than one over a single token, by an amount that depends on machine, model and dtype. It is
measured when a generator is made and corrected while it decodes.
"""

from __future__ import annotations

import math
import time
from typing import Mapping

import numpy as np

from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.base import TargetModel

PRIOR = {1: 1.0, 2: 1.03}  # relative cost until something was measured
WIDTHS, CONTEXT = (1, 2, 4, 8, 16, 32, 64), 64  # of the measurement
BUDGET, REPEATS = 0.5, 5  # seconds it may take beyond one pass per width, passes per width
RATE, FORGET, LARGEST = 0.1, 0.99, 0.3  # of the running correction: weight of a pass, decay per pass, largest step (in logarithms)


class StepCost:
    """Cost of a pass by width (tokens of all rows together).

    Args:
        measured: width -> seconds.
    """

    def __init__(self, measured: Mapping[int, float] = PRIOR):
        self._x = np.array(sorted(measured), float)
        self._y = np.maximum.accumulate([measured[w] for w in sorted(measured)])
        self._known: dict[int, float] = {}  # expected cost of the widths that occurred
        self._level: float | None = None  # running log of measured / expected, over all widths
        self._correction: dict[int, float] = {}  # the same for a class of doubling width, relative to the level

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
        error = math.log(max(seconds, 1e-9) / self._expected_at(width))
        self._level = error if self._level is None else self._level + RATE * _clipped(error - self._level)
        for other in self._correction:
            self._correction[other] *= FORGET
        bucket = _bucket(width)
        before = self._correction.get(bucket, 0.0)
        self._correction[bucket] = before + RATE * _clipped(error - self._level - before)

    def estimates(self, widths: np.ndarray) -> np.ndarray:
        """Expected cost at each width (ascending), never falling with width."""
        corrections = np.array([self._correction.get(_bucket(w), 0.0) for w in widths.tolist()])
        return np.maximum.accumulate(self._expected(widths) * np.exp(corrections))

    def seconds(self, widths: np.ndarray) -> np.ndarray:
        """The same in seconds, at the pace of the passes that were recorded."""
        return self.estimates(widths) * self._pace

    @property
    def narrowest(self) -> float:
        """Seconds of the cheapest pass."""
        return float(self._y[0]) * self._pace

    @property
    def _pace(self) -> float:
        return math.exp(self._level or 0.0)

    def _expected_at(self, width: int) -> float:
        if width not in self._known:
            self._known[width] = float(self._expected(np.array([width]))[0])
        return self._known[width]

    def _expected(self, widths: np.ndarray) -> np.ndarray:
        """Between measurements on straight lines, beyond the last along the last one."""
        slope = (self._y[-1] - self._y[-2]) / (self._x[-1] - self._x[-2])
        return np.interp(widths, self._x, self._y) + slope * np.maximum(0, widths - self._x[-1])


def _bucket(width: int) -> int:
    return (width - 1).bit_length()


def _clipped(step: float) -> float:
    return max(-LARGEST, min(LARGEST, step))
