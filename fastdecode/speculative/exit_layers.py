"""Where to exit, and how far to draft: DEL (arXiv:2504.05598).

For every candidate layer an account is kept of how often its would-be token was the target's, by how sure it was. With an acceptance
rate a and costs in seconds, a draft of g tokens from layer l gives (1 - a^(g+1)) / (1 - a) tokens in pass + g * token(l).
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

FADE = 0.95  # of the accounts, per analysis
BINS, PRIOR = 10, 2.0  # of probabilities; tokens that a bin is thought to have seen before any, at the rate of all
PACE = 0.1  # weight of a round in running costs
FIRST, OFTEN, SELDOM, LONGEST = 4, 16, 32, 256  # rounds that are all analysed at first; of a drafting layer every so many; of others ever fewer


class Exit(NamedTuple):
    """A layer to draft with.

    Attributes:
        drafts: how many tokens promise the most; 0: plain decoding is faster. pace: tokens per second that this promises.
        chances: [BINS], of a token to be right, by the layer's confidence in it.
        least: one more token is worth its time behind a draft that is right with this chance.
        unbeaten: no other layer would promise more even if it were always right.
    """

    layer: int
    drafts: int
    pace: float = 0.0
    chances: Sequence[float] = ()
    least: float = 0.0
    unbeaten: bool = False

    def chance(self, confidence: float) -> float:
        return self.chances[min(int(confidence * BINS), BINS - 1)] if self.chances else confidence


class ExitChoice:
    """Accounts of candidate layers and the choice among them.

    Args:
        layers: candidates, ascending. most: tokens of a draft at most.
        step_seconds: of a round without drafts.
        early_seconds: of drafting one token, for every candidate. late_seconds: what a drafted token adds to the pass that verifies it.
    """

    def __init__(self, layers: Sequence[int], most: int, step_seconds: float, early_seconds: Sequence[float], late_seconds: Sequence[float]):
        self.layers, self.most, self.step_seconds = list(layers), most, step_seconds
        self.early_seconds, self.late_seconds = list(early_seconds), list(late_seconds)
        self.right, self.wrong = np.zeros((len(layers), BINS)), np.zeros((len(layers), BINS))  # tokens by confidence
        self._drafts: list[tuple[int, Sequence[bool], Sequence[float]]] = []  # whose tokens are not counted yet

    def learn(self, matches: np.ndarray, confidences: np.ndarray) -> None:
        """One analysis, [layers, n]: whether each position's token was the target's, and its probability. What was known fades."""
        bins = np.minimum((confidences * BINS).astype(np.int64), BINS - 1) + BINS * np.arange(len(self.layers))[:, None]
        count = lambda which: np.bincount(bins[which], minlength=self.right.size).reshape(self.right.shape)
        self.right, self.wrong = FADE * self.right + count(matches), FADE * self.wrong + count(~matches)

    def learn_draft(self, layer: int, matches: Sequence[bool], confidences: Sequence[float]) -> None:
        """The same of one layer, from a draft up to its first wrong token."""
        self._drafts.append((self.layers.index(layer), matches, confidences))

    def _count_drafts(self) -> None:
        """All at once, when they are asked for: little code runs between two passes of the model."""
        for at, matches, confidences in self._drafts:
            self.right[at] *= FADE
            self.wrong[at] *= FADE
            for match, confidence in zip(matches, confidences):
                (self.right if match else self.wrong)[at, min(int(confidence * BINS), BINS - 1)] += 1
        self._drafts.clear()

    @property
    def rates(self) -> np.ndarray:
        """float64 [layers], share of right tokens, as if one more had been wrong: of many layers, the best looks better than it is."""
        self._count_drafts()
        right, wrong = self.right.sum(1), self.wrong.sum(1)
        return right / (right + wrong + 1)

    def tokens_per_second(self, rates: np.ndarray) -> np.ndarray:
        """float64 [layers, most + 1], for every number of drafts."""
        drafts, token = np.arange(self.most + 1), np.add(self.early_seconds, self.late_seconds)[:, None]
        return np.cumsum(rates[:, None] ** drafts, 1) / (self.step_seconds + drafts * token)

    def best(self) -> Exit:
        """What promises the most tokens per second, the first of equals; a layer of which nothing is known promises nothing."""
        rates = self.rates
        speeds = self.tokens_per_second(rates)
        at, drafts = divmod(int(speeds.argmax()), self.most + 1)
        pace, rate = float(speeds[at, drafts]), float(rates[at])
        chances = (self.right[at] + PRIOR * rate) / (self.right[at] + self.wrong[at] + PRIOR)
        least = pace * (self.early_seconds[at] + self.late_seconds[at]) / max(rate, 1e-9)
        perfect = self.tokens_per_second(np.ones(len(rates))).max(1)
        return Exit(self.layers[at], drafts, pace, chances.tolist(), least, bool((np.delete(perfect, at) <= pace).all()))

    def learn_costs(self, layer: int, drafted: int, drafting: float, rest: float) -> None:
        """A round took that many seconds for drafts from that layer, and for all else. All layers' costs are moved as that one's."""
        at = self.layers.index(layer)
        if drafted:
            factor = 1 + PACE * (min(drafting / drafted / self.early_seconds[at], 2.0) - 1)
            self.early_seconds = [factor * seconds for seconds in self.early_seconds]
        self.step_seconds += PACE * (min(rest - drafted * self.late_seconds[at], 2 * self.step_seconds) - self.step_seconds)


class Watch:
    """Which rounds are analysed: the first ones, some of those with drafts, and ever fewer where drafts do not pay."""

    def __init__(self):
        self.seen, self.rest, self.pause, self.drafting = 0, 0, SELDOM, False

    def begin(self) -> None:
        """A new text, of which the first round is analysed, unless drafts will tell what it is like."""
        if not self.drafting:
            self.rest = 0

    def due(self, drafting: bool) -> bool:
        self.drafting = drafting
        if self.rest:
            self.rest -= 1
            return False
        self.seen += 1
        if self.seen < FIRST:
            return True
        if drafting:
            self.pause, self.rest = SELDOM, OFTEN - 1
        else:
            self.pause, self.rest = min(2 * self.pause, LONGEST), self.pause - 1
        return True
