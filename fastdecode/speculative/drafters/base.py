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
        least: a level of a draft is worth its cost if it is expected to bring more tokens than this.
        open_score: a token of a draft whose chance is lower is not gone on from: what comes behind it would not be worth its place in the pass.
        covered: chance, level by level, that another draft for the same round is right up to there.
    """

    nodes: int
    depth: int
    min_score: float
    round: int = 0
    least: float = 0.0
    open_score: float = 0.0
    covered: tuple[float, ...] = ()


class Drafter(Protocol):
    """Proposes continuations for the rows of a batch. All state of a batch lives in what `begin` returns.

    A drafter whose drafts cost time may also have `level_seconds()`, what one more level of a draft costs; with
    `judges_levels` it is asked again after every draft, and decides itself, by `Budget.least` and `Budget.covered`, which levels are
    worth that, and with `judges_nodes` also which tokens are worth what they add to the pass that verifies them. One that
    needs the target has `pair(target)`, called once before anything else. One that reads the target's hidden states names layers in
    `taps` (before which they are read) and has `read(state, row, hidden)`, which takes those [taps, n, width] of the next n tokens of
    a row, from its prompt's first on (the last token of a text has none), and `resume(state, row, before, shared)`, which takes over
    from the state of an earlier call what it knew of the first tokens, whose hidden states will not be read again.
    One that runs the target's first layers itself has `attach(state, target_state)` and `entered(state, rows, tree)`, which gives the layer that the
    pass over the trees begins with and the hidden states before it.
    One with `learn(state, row, contexts, candidates)` is told after every pass, for every node of a row's tree, two tokens
    int32 [n, 2], the one before the node and its own, and the two that the target holds most probable after them, int32 [n, 2] (-1: none).

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
