"""What a drafter is: it guesses how a text goes on, and learns from what was kept."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Sequence

from fastdecode.speculative.tree import Draft


class Budget(NamedTuple):
    """What one request may draft in a round.

    Attributes:
        nodes: draft tokens at most.
        depth: length of a path at most.
        min_score: drop nodes whose estimated chance of acceptance is lower; they cost more than they bring.
        round: number of the round; part of the random key of drafts that are drawn.
    """

    nodes: int
    depth: int
    min_score: float
    round: int = 0


class Drafter(Protocol):
    """Proposes continuations for the rows of a batch. All state of a batch lives in what `begin` returns.

    A drafter whose drafts cost time may also have `level_seconds()`, which measures what one more level of a draft costs.

    Attributes:
        name: what statistics call it.
    """

    name: str

    def begin(self, requests: Sequence) -> Any:
        """State for a batch of requests (row r = requests[r]); their prompts are known."""

    def propose(self, state: Any, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        """One draft per row, below the last token of its text. May be empty."""

    def observe(self, state: Any, row: int, tokens: Sequence[int]) -> None:
        """Tells that `tokens` were emitted for a row."""

    def end(self, state: Any, row: int) -> None:
        """The request of a row is finished."""
