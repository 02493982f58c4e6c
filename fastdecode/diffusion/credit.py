"""CreditDecoding (arXiv:2510.06133): bonuses for tokens that kept coming up, as a correction of what one pass over the logits found."""

from __future__ import annotations

import dataclasses

import torch

from fastdecode import ops
from fastdecode.diffusion.policies import Credit
from fastdecode.ops import VocabStats

SLOTS = 16  # tokens per position that hold credit; the least credited one makes room


class CreditTable:
    """Sparse credit of every position of a batch.

    Attributes:
        ids: int32 [B, L, SLOTS], -1 where empty. values: float32 of the same shape.
    """

    def __init__(self, credit: Credit, batch: int, length: int):
        self.credit = credit
        self.ids = torch.full((batch, length, SLOTS), -1, dtype=torch.int32)
        self.values = torch.zeros(batch, length, SLOTS)

    def clear(self, row: int) -> None:
        """Forgets a row's credit, at the start of a block."""
        self.ids[row] = -1
        self.values[row] = 0.0

    def fuse(self, stats: VocabStats, rows: torch.Tensor, positions: torch.Tensor) -> VocabStats:
        """Gives credit to the most probable tokens and returns the statistics of logits + alpha log(1 + credit).

        Args:
            stats: with the logits of `ids[rows, positions]`.
            rows, positions: int64 [R], where the rows of statistics belong.
        """
        ids, values = self.ids[rows, positions], self.values[rows, positions]
        fused = ops.credit_fuse(stats, ids, values, **dataclasses.asdict(self.credit))
        self.ids[rows, positions], self.values[rows, positions] = ids, values
        return fused
