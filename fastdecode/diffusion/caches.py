"""Which positions a step computes again; the keys and values of all others stay as they are in their slots.

Every cached method is a rule for the active set (dKV-Cache arXiv:2505.15781, Fast-dLLM arXiv:2505.22618, dInfer arXiv:2510.08666): the
positions of a window that changed after some step, which `ops.active_set` finds for all rows at once. A rule sees one row of the
batch. Positions whose output is needed are in the set by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


ALL = -2  # since when all positions have changed: given tokens count as step -1


class Window(NamedTuple):
    """Positions low ... high - 1 that got their token after step `since`, or have none."""

    low: int
    high: int
    since: int = ALL


class RowState(Protocol):
    """What a rule may look at.

    Attributes:
        length: of prompt and canvas. prompt: of the prompt.
        start, stop: the current block, previous: where the one before it began. step: in the block, from 0. clock: step of
            the whole generation.
        grid: length of the model's own blocks, if it has any.
        leads: whether this step commits the first token of a block alone, from what stands before it.
        changed: int32 [length], clock at which a position got its token; -1 for the prompt, MASKED for masks.
        shift: 1 where the output of position j - 1 proposes the token of j, else 0.
        upcoming: positions that this step commits, where that is known before (else empty), and those of the step before.
    """

    length: int
    prompt: int
    start: int
    stop: int
    previous: int
    step: int
    clock: int
    grid: int | None
    leads: bool
    changed: np.ndarray
    shift: int
    upcoming: np.ndarray
    latest: np.ndarray


@dataclass(frozen=True)
class NoCache:
    """Everything, in every step."""

    @property
    def interval(self) -> int:
        return 1

    def refreshes(self, row: RowState) -> bool:
        return True

    def window(self, row: RowState) -> Window:
        return everything(row)


@dataclass(frozen=True)
class Delayed:
    """dKV-Cache-Decode: masks are computed again, a token once more after it was committed and then no more.

    Attributes:
        interval: steps of a block between refreshes.
    """

    interval: int = 8

    def refreshes(self, row: RowState) -> bool:
        return row.step <= 1 or row.step % self.interval == 0

    def window(self, row: RowState) -> Window:
        return Window(0, row.length, ALL if self.refreshes(row) else row.clock - 2)


@dataclass(frozen=True)
class DelayedPrefill:
    """dKV-Cache-Prefill: the prompt is computed once, everything else in every step."""

    interval = None

    def refreshes(self, row: RowState) -> bool:
        return row.clock == 0

    def window(self, row: RowState) -> Window:
        return Window(0 if self.refreshes(row) else row.prompt - row.shift, row.length)


@dataclass(frozen=True)
class DelayedPrefillDecode:
    """dKV-Cache-PD: the prompt is computed once; behind it the rule is that of `Delayed`."""

    interval: int = 8

    def refreshes(self, row: RowState) -> bool:
        return row.clock == 0

    def window(self, row: RowState) -> Window:
        if self.refreshes(row):
            return everything(row)
        again = row.step <= 1 or row.step % self.interval == 0
        return Window(row.prompt - row.shift, row.length, ALL if again else row.clock - 2)


@dataclass(frozen=True)
class DelayedGreedy:
    """dKV-Cache-Greedy: the positions that are committed now and were committed last, and some masks beside them.

    Attributes:
        interval: steps of a block between refreshes.
        around: masked positions beside each of those that come next.
    """

    interval: int = 2
    around: int = 4

    def refreshes(self, row: RowState) -> bool:
        return row.step % self.interval == 0

    def window(self, row: RowState) -> Window:
        return everything(row)

    def positions(self, row: RowState) -> np.ndarray | None:
        """int32, ascending, in the place of the window; None where that is meant."""
        if self.refreshes(row):
            return None
        chosen = {*row.upcoming.tolist(), *row.latest.tolist()}
        masked = row.changed > row.clock
        for center in row.upcoming.tolist():
            chosen |= set(_beside(center, masked, chosen, self.around))
        return np.asarray(sorted(chosen | {p - row.shift for p in chosen}), np.int32)


@dataclass(frozen=True)
class Prefix:
    """Fast-dLLM's prefix cache: the current block and everything behind it.

    Attributes:
        interval: steps of a block between refreshes; None: at its first step only.
    """

    interval: int | None = None

    def refreshes(self, row: RowState) -> bool:
        return row.step == 0 or (self.interval is not None and row.step % self.interval == 0)

    def window(self, row: RowState) -> Window:
        return Window(0 if self.refreshes(row) else row.start - row.shift, row.length)


@dataclass(frozen=True)
class Dual:
    """Fast-dLLM's dual cache: the current block.

    Attributes:
        interval: as for `Prefix`.
    """

    interval: int | None = None

    def refreshes(self, row: RowState) -> bool:
        return row.step == 0 or (self.interval is not None and row.step % self.interval == 0)

    def window(self, row: RowState) -> Window:
        return everything(row) if self.refreshes(row) else Window(row.start - row.shift, row.stop)


@dataclass(frozen=True)
class Vicinity:
    """dInfer's vicinity refresh: the current block and what is near it.

    Attributes:
        before, behind: positions on either side of the block.
        warmup: steps of the generation that compute everything.
        interval: as for `Prefix`.
    """

    before: int = 16
    behind: int = 16
    warmup: int = 4
    interval: int | None = None

    def refreshes(self, row: RowState) -> bool:
        return row.step == 0 or row.clock < self.warmup or (self.interval is not None and row.step % self.interval == 0)

    def window(self, row: RowState) -> Window:
        if self.refreshes(row):
            return everything(row)
        return Window(max(0, row.start - max(self.before, row.shift)), min(row.length, row.stop + self.behind))


@dataclass(frozen=True)
class BlockCausal:
    """The model's current block, where tokens see no later block (LLaDA2, Fast-dLLM v2): exact. With the first step of a block,
    the one before it is computed once more, as its tokens turned out.

    Attributes:
        parts: whether, inside a block of `SubBlocks`, a part whose first token is there is computed alone (Fast-dLLM v2's block
            cache): not exact.
    """

    parts: bool = False
    interval = None

    def refreshes(self, row: RowState) -> bool:
        return row.clock == 0

    def window(self, row: RowState) -> Window:
        stop = row.start if row.leads else min(row.length, -(-row.stop // row.grid) * row.grid)
        if self.refreshes(row):
            return Window(0, stop)
        opens = row.step == 0 and row.previous // row.grid < row.start // row.grid
        computed = row.step > row.shift or row.start % row.grid != 0  # whether a pass over the block has been
        if self.parts and computed and not opens and row.changed[row.start] <= row.clock:
            return Window(row.start, row.stop)
        first = (row.previous if opens else row.start) // row.grid * row.grid  # given tokens in a block see its masks too
        return Window(max(0, first - row.shift), stop)


CachePolicy = NoCache | Delayed | DelayedPrefill | DelayedPrefillDecode | DelayedGreedy | Prefix | Dual | Vicinity | BlockCausal


def everything(row: RowState) -> Window:
    return Window(0, row.length)


def _beside(center: int, masked: np.ndarray, taken: set[int], count: int) -> list[int]:
    """Masked positions that are not taken, walking outwards from the center, left and right in turn."""
    found: list[int] = []
    for distance in range(1, len(masked)):
        for p in (center - distance, center + distance):
            if len(found) < count and 0 <= p < len(masked) and masked[p] and p not in taken:
                found.append(p)
    return found
