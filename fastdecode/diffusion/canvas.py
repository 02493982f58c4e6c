"""One sequence on its way from masks to text."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fastdecode.ops.unmask_commit import MASKED
from fastdecode.results import DecodeStats

NOWHERE = np.empty(0, np.int32)  # no positions


@dataclass
class Canvas:
    """A prompt and the positions that are to be filled, as views of the rows of a batch.

    Attributes:
        row: of the batch.
        tokens, changed: int32 [L]: ids, and the clock at which they were chosen (-1: given, MASKED: not yet).
        prompt: where the canvas begins. length: where it ends.
        shift: 1 where the output of position j - 1 proposes the token of j.
        key: (seed, request) words of its random numbers.
        grid: length of the model's own blocks, which begin at position 0, if its tokens see no later block.
        start, stop, previous: the current block, and where the one before it began.
        leads: whether this step commits the first token of the block alone.
        step, clock: in the block, and of the generation.
        planned: tokens per step of the blocks that are still to come, where that is known.
        quotas: least number of tokens for each step of the block.
        order: fixed random scores of positions, for scorer "random".
        positions: int32, what the next pass computes.
        upcoming, latest: positions committed by this step (where that is known before) and by the step before.
        steps: passes that the whole canvas is planned to take, where a part of the policy asks for that.
    """

    row: int
    tokens: np.ndarray
    changed: np.ndarray
    prompt: int
    length: int
    shift: int
    key: tuple[int, int]
    grid: int | None = None
    planned: list[list[int]] = field(default_factory=list)
    start: int = 0
    stop: int = 0
    previous: int = 0
    leads: bool = False
    step: int = 0
    clock: int = 0
    quotas: list[int] = field(default_factory=list)
    order: np.ndarray | None = None
    upcoming: np.ndarray = field(default_factory=lambda: NOWHERE)
    latest: np.ndarray = field(default_factory=lambda: NOWHERE)
    positions: np.ndarray = field(default_factory=lambda: NOWHERE)
    steps: int = 0
    finish_reason: str | None = None
    stats: DecodeStats = field(default_factory=DecodeStats)
    commits: list[tuple[int, int, float]] = field(default_factory=list)

    def masked(self, start: int, stop: int) -> np.ndarray:
        """int32, masked positions from start to stop - 1."""
        return ((self.changed[start:stop] == MASKED).nonzero()[0] + start).astype(np.int32)

    @property
    def open_positions(self) -> np.ndarray:
        """Masked positions of the current block."""
        return self.masked(self.start, self.stop)

    @property
    def quota(self) -> int:
        """Least number of tokens for this step."""
        return max(1, self.quotas[self.step]) if self.step < len(self.quotas) else 1

    def end(self, eos: np.ndarray) -> None:
        """Finishes the canvas: the first generated id of `eos` takes the place of all masks."""
        masks = self.masked(self.prompt, self.length)
        if len(masks):
            ends = (self.tokens[:, None] == eos).any(1)
            first = np.flatnonzero(ends & (self.changed >= 0) & (self.changed != MASKED))[0]
            self.tokens[masks], self.changed[masks] = self.tokens[first], self.clock
        self.finish_reason = "eos"
