"""The way of a canvas from block to block."""

from __future__ import annotations

import numpy as np
import torch

from fastdecode import ops
from fastdecode.diffusion.canvas import NOWHERE, Canvas
from fastdecode.diffusion.policies import AdaptiveBlocks, AscendingBlocks, FixedBlocks, IndependentSteps, SubBlocks
from fastdecode.diffusion.policy import Policy
from fastdecode.ops import VocabStats
from fastdecode.ops.unmask_commit import MASKED


class BlockWalk:
    """Sets where the current block of a canvas begins and ends, and how many tokens its steps commit."""

    def __init__(self, policy: Policy):
        self.policy = policy

    def open(self, canvas: Canvas) -> None:
        """In front of the first block."""
        canvas.start = canvas.stop = canvas.previous = canvas.prompt
        if isinstance(self.policy.blocks, AscendingBlocks):
            canvas.planned = self.policy.blocks.plan(canvas.length - canvas.prompt)
        if self.policy.end_damping or self.policy.early_commit:  # which go by the share of the way
            canvas.steps = len(self._quotas(canvas, canvas.masked(canvas.prompt, canvas.length)))

    def next(self, canvas: Canvas) -> None:
        """Moves to the next block that has masks; there must be one."""
        canvas.previous = canvas.start
        masks = NOWHERE
        while len(masks) == 0:  # only given text in a block: go on
            canvas.start, canvas.stop = canvas.stop, self._end(canvas, canvas.stop)
            masks = canvas.open_positions
        canvas.step = 0
        canvas.leads = isinstance(self.policy.blocks, SubBlocks) and canvas.shift == 1 and canvas.start % canvas.grid == 0 and bool(canvas.changed[canvas.start] == MASKED)
        canvas.latest = NOWHERE
        canvas.quotas = canvas.planned.pop(0) if canvas.planned else self._quotas(canvas, masks)

    def settle_length(self, canvas: Canvas, stats: VocabStats, where: np.ndarray) -> None:
        """The length of an adaptive block depends on what its first pass proposes, at the positions int32 `where`."""
        blocks = self.policy.blocks
        number = lambda n: torch.tensor([n], dtype=torch.int32)
        reach, left = blocks.reach(canvas.start, canvas.prompt, canvas.length), canvas.length - canvas.start
        delimiters, begin = torch.tensor(blocks.delimiters, dtype=torch.int32), torch.tensor([0, len(where)], dtype=torch.int32)
        length = ops.adaptive_block_size(stats, begin, torch.from_numpy(where), number(canvas.start), number(reach), number(left), delimiters=delimiters, bar=blocks.bar, default=blocks.length)
        canvas.stop = canvas.start + int(length)
        canvas.quotas = self._quotas(canvas, canvas.open_positions)

    def _quotas(self, canvas: Canvas, masks: np.ndarray) -> list[int]:
        steps = self.policy.steps
        return steps.quotas(canvas.order[masks] if isinstance(steps, IndependentSteps) else len(masks))

    def _end(self, canvas: Canvas, start: int) -> int:
        """Of the block that begins there."""
        blocks = self.policy.blocks
        if isinstance(blocks, (FixedBlocks, SubBlocks, AdaptiveBlocks)):
            return min(canvas.length, (start // blocks.length + 1) * blocks.length if canvas.grid else start + blocks.length)
        return min(canvas.length, start + sum(canvas.planned[0])) if canvas.planned else canvas.length
