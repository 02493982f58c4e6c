"""CreditDecoding (arXiv:2510.06133): bonuses for tokens that kept coming up, as a correction of what one pass over the logits found."""

from __future__ import annotations

import torch

from fastdecode.diffusion.policies import Credit
from fastdecode.ops import VocabStats

SLOTS = 16  # tokens per position that hold credit; the least credited one makes room
FORGET = 1e-6


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
        c = self.credit
        ids, values = self.ids[rows, positions], self.values[rows, positions] * c.beta
        argmax, top1, total = stats.argmax, stats.top1.double(), stats.logsumexp.double()
        logits = stats.id_logits.double().masked_fill(ids < 0, -torch.inf)
        found = ids == argmax[:, None]
        slot = torch.where(found.any(1), found.int().argmax(1), values.masked_fill(found, -1).argmin(1))[:, None]
        kept = torch.where(found.any(1), values.gather(1, slot)[:, 0], 0.0)
        values = values.scatter(1, slot, (kept + (top1 - total).exp().float() ** c.gamma)[:, None])
        ids, logits = ids.scatter(1, slot, argmax[:, None]), logits.scatter(1, slot, top1[:, None])
        forgotten = values < FORGET
        self.ids[rows, positions] = ids.masked_fill(forgotten, -1)
        self.values[rows, positions] = values.masked_fill(forgotten, 0.0)
        return self._corrected(stats, ids, values.double(), logits, top1, total)

    def _corrected(self, stats, ids, values, logits, top1, total) -> VocabStats:
        bonus = self.credit.alpha * torch.log1p(values)
        fused = logits + bonus
        weight = (total - top1).exp() + ((logits - top1[:, None]).exp() * torch.expm1(bonus)).nan_to_num(0.0).sum(1)
        best = fused.max(1).values
        # The raw argmax always holds credit, so the best of the credited tokens is the best of all; ties take the lowest id.
        choice = torch.where(fused == best[:, None], ids, 2**31 - 1).min(1).values.int()
        floats = stats.floats.clone()
        floats[:, 0], floats[:, 3], floats[:, 5] = best.float(), (top1 + weight.log()).float(), best.float()
        return VocabStats(floats, torch.stack([choice, choice], 1), None)
