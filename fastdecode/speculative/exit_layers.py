"""Where to exit, and how far to draft: DEL (arXiv:2504.05598).

For every candidate layer an account is kept of how often its would-be token was the target's, and how sure it was of right and of wrong
ones. With an acceptance rate a and costs in seconds, a draft of g tokens from layer l gives (1 - a^(g+1)) / (1 - a) tokens in
pass + g * early(l).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Sequence

FADE = 0.95  # of the accounts, per analysis


@dataclass
class Account:
    """What one layer's tokens were worth lately; sums fade."""

    right: float = 0.0
    wrong: float = 0.0
    right_confidence: float = 0.0
    wrong_confidence: float = 0.0

    @property
    def rate(self) -> float | None:
        """Share of right tokens; None without any."""
        seen = self.right + self.wrong
        return self.right / seen if seen > 0 else None

    @property
    def threshold(self) -> float | None:
        """Between the mean confidence of right and of wrong tokens; None while either is unknown."""
        if self.right <= 0 or self.wrong <= 0:
            return None
        return (self.right_confidence / self.right + self.wrong_confidence / self.wrong) / 2

    def learn(self, matches: Sequence[bool], confidences: Sequence[float]) -> None:
        """One analysis: whether each position's token was the target's, and its probability."""
        right, wrong = sum(matches), len(matches) - sum(matches)
        self.right, self.wrong = FADE * self.right + right, FADE * self.wrong + wrong
        self.right_confidence = FADE * self.right_confidence + sum(c for c, m in zip(confidences, matches) if m)
        self.wrong_confidence = FADE * self.wrong_confidence + sum(c for c, m in zip(confidences, matches) if not m)


class ExitChoice:
    """Accounts of candidate layers and the choice among them.

    Args:
        layers: candidates, ascending. most: tokens of a draft at most.
        step_seconds: of a pass of the target. early_seconds: of the layers below a candidate and the head, for one token.
    """

    def __init__(self, layers: Sequence[int], most: int, step_seconds: float, early_seconds: Callable[[int], float]):
        self.accounts = {layer: Account() for layer in layers}
        self.most, self.step_seconds, self.early_seconds = most, step_seconds, early_seconds

    def tokens_per_second(self, layer: int, drafts: int) -> float:
        rate = self.accounts[layer].rate or 0.0
        return math.fsum(rate**i for i in range(drafts + 1)) / (self.step_seconds + drafts * self.early_seconds(layer))

    def best(self) -> tuple[int, int]:
        """Layer and number of drafts that promise the most tokens per second, the first of equals; 0 drafts: plain decoding is faster.

        Layers without data are left out; without any data at all the answer is no drafts.
        """
        known = [layer for layer, account in self.accounts.items() if account.rate is not None]
        options = [(layer, drafts) for layer in known for drafts in range(self.most + 1)]
        return max(options, key=lambda o: self.tokens_per_second(*o), default=(next(iter(self.accounts)), 0))
