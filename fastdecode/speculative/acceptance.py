"""What drafts of a request promised, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass

MEMORY, FADING = 0.95, 0.99  # decay of what a request's drafts did, per round with and without a draft
PRIOR_LEVELS, PRIOR_RATE = 2.0, 0.7  # levels that were kept at that rate before anything was seen
PRIOR_TOKENS = 2.0  # tokens that were promised and kept before anything was seen
PRIOR_ROUNDS = 2.0  # rounds that had kept them


@dataclass
class Acceptance:
    """What the drafts of one request did lately.

    Attributes:
        promised, accepted: tokens that the drafter's estimates announced, tokens that were kept.
        kept, lost: levels of the tree at which a draft was kept, or none was right.
        rounds: how many of them all this is about.
    """

    promised: float = 0.0
    accepted: float = 0.0
    kept: float = 0.0
    lost: float = 0.0
    rounds: float = 0.0

    def learn(self, promised: float, depth: int, accepted: int) -> None:
        """One round. Without a draft, what is known fades, so that a drafter that was given up gets another chance."""
        decay = MEMORY if depth else FADING
        self.promised = decay * self.promised + promised
        self.accepted = decay * self.accepted + accepted
        self.kept = decay * self.kept + accepted
        self.lost = decay * self.lost + (accepted < depth)
        self.rounds = decay * self.rounds + 1

    @property
    def calibration(self) -> float:
        """By how much the drafter's estimates are to be multiplied."""
        return (self.accepted + PRIOR_TOKENS) / (self.promised + PRIOR_TOKENS)

    @property
    def tokens(self) -> float:
        """Tokens of a round lately."""
        return 1 + (self.accepted + PRIOR_TOKENS) / (self.rounds + PRIOR_ROUNDS)

    @property
    def rate(self) -> float:
        """Chance that a level is kept if the one above it was."""
        return (self.kept + PRIOR_LEVELS * PRIOR_RATE) / (self.kept + self.lost + PRIOR_LEVELS)
