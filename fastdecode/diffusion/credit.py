"""CreditDecoding (arXiv:2510.06133): bonuses for tokens that kept coming up, kept position by position between passes."""

from __future__ import annotations

import numpy as np
import torch

from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.policies import AdaptiveBlocks, AdaptiveCredit, Credit
from fastdecode.diffusion.policy import Policy
from fastdecode.ops import TokenCredit

SLOTS = 16  # tokens per position that hold credit; the least credited one makes room


class CreditTable:
    """Sparse credit of every position of a batch of canvases of `length` positions.

    Attributes:
        ids: int32 [batch * length, SLOTS], -1 where empty. values: float32 of the same shape.
    """

    def __init__(self, policy: Policy, batch: int, length: int, device: torch.device):
        self.policy, self.length = policy, length
        self.ids = torch.full((batch * length, SLOTS), -1, dtype=torch.int32, device=device)
        self.values = torch.zeros(batch * length, SLOTS, device=device)

    def clear(self, row: int) -> None:
        """Forgets a row's credit, at the start of a block."""
        own = slice(row * self.length, (row + 1) * self.length)
        self.ids[own], self.values[own] = -1, 0.0

    def of(self, owners: list[Canvas], where: list[np.ndarray]) -> TokenCredit:
        """Of the positions that a pass proposes tokens for; credit is for the masks of the current block alone."""
        rows = np.concatenate([self._rows(c, p) for c, p in zip(owners, where)])
        rates = np.repeat(np.asarray([rates_of(self.policy.credit, c) for c in owners], np.float32), list(map(len, where)), 0)
        return TokenCredit(torch.from_numpy(rows).to(self.ids.device), self.ids, self.values, torch.from_numpy(rates).to(self.ids.device))

    def _rows(self, canvas: Canvas, positions: np.ndarray) -> np.ndarray:
        unsettled = canvas.step == 0 and isinstance(self.policy.blocks, AdaptiveBlocks)  # this pass finds where the block ends
        stop = canvas.length if unsettled else canvas.stop
        own = (positions >= canvas.start) & (positions < stop) & (canvas.changed[positions] > canvas.clock)
        return np.where(own, canvas.row * self.length + positions, -1).astype(np.int32)


def rates_of(credit: Credit | AdaptiveCredit, canvas: Canvas) -> tuple[float, float, float]:
    """alpha, gamma and beta of the canvas's next pass."""
    if isinstance(credit, Credit):
        return credit.alpha, credit.gamma, credit.beta
    filled = 1 - len(canvas.open_positions) / (canvas.stop - canvas.start)
    return filled, 1.0, filled
