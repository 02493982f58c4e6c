"""What a forward pass costs by its width, and how many draft tokens are worth it.

A pass over many tokens costs more than one over a single token, by an amount that depends on machine, model and dtype. It is
measured while decoding; drafts are cut to the size with the most expected tokens per second, which may be no draft at all.
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import Sequence

import numpy as np

from fastdecode.speculative.tree import Draft, merge

PRIOR_SLOPE = 0.03  # relative cost of one more token until something was measured
MEMORY = 15  # passes per width class that the median looks back on
SETTLED, REFRESH = 64, 8  # after so many passes the curve is made anew once in REFRESH passes only


class StepCost:
    """Measured seconds of a pass by width (tokens of all rows together), in classes of doubling width."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._widths: dict[int, deque[int]] = {}
        self._curve = np.empty(0)  # cost by width
        self._passes = self._curve_passes = 0

    def record(self, width: int, seconds: float) -> None:
        self._passes += 1
        bucket = (width - 1).bit_length()
        self._seconds.setdefault(bucket, deque(maxlen=MEMORY)).append(seconds)
        self._widths.setdefault(bucket, deque(maxlen=MEMORY)).append(width)

    def estimates(self, widths: np.ndarray) -> np.ndarray:
        """Expected cost at each width (ascending), never falling with width; in units of which only ratios matter."""
        prior = 1 + PRIOR_SLOPE * (widths - 1)
        if not self._seconds:
            return prior
        known = sorted((statistics.median(self._widths[b]), statistics.median(self._seconds[b])) for b in self._seconds)
        x, y = (np.array(column) for column in zip(*known))
        # Interpolating the factor over the prior lets widths that were never seen follow the prior's slope.
        factor = np.interp(widths, x, y / (1 + PRIOR_SLOPE * (x - 1)))
        return np.maximum.accumulate(factor * prior)

    def best_size(self, scores: Sequence[np.ndarray]) -> int:
        """Nodes per row, for rows with these acceptance estimates, that give the most expected tokens per second."""
        longest = max(map(len, scores), default=0)
        gains = np.zeros(longest + 1)
        for row in scores:
            gains[1 : len(row) + 1] += np.sort(row)[::-1]
        tokens = len(scores) + gains.cumsum()
        return int(np.argmax(tokens / self._costs(len(scores) * (longest + 1))[len(scores) :: len(scores)]))

    def _costs(self, width: int) -> np.ndarray:
        """Estimates at 0 ... width."""
        fresh = self._passes == self._curve_passes or (self._passes > SETTLED and self._passes - self._curve_passes < REFRESH)
        if not fresh or len(self._curve) <= width:
            self._curve, self._curve_passes = self.estimates(np.arange(max(width, 64) + 1)), self._passes
        return self._curve[: width + 1]

    def trim(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The drafts without the nodes that cost more than they promise. Drawn drafts keep their size: it must not depend on
        what was drawn."""
        if any(d.draws for d in drafts):
            return list(drafts)
        size = self.best_size([d.scores for d in drafts])
        return [d if len(d) <= size else merge([d], size) for d in drafts]
