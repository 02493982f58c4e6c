from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

from fastdecode.speculative.acceptance import Acceptance
from fastdecode.speculative.drafters.base import Budget, Drafter
from fastdecode.speculative.drafters.early_exit import EarlyExitDrafter
from fastdecode.speculative.tree import Draft, DraftTree


@dataclass
class _State:
    text: Any
    exits: Any
    acceptances: list[Acceptance]  # by row, of the text's drafts
    by_exits: bool = False  # who drafted this round
    promised: dict[int, float] = field(default_factory=dict)  # by row, where the text did


class AlternatingDrafter:
    """Drafts from the text or from the model's first layers, round by round whichever promises more tokens per second.

    The text promises what its drafts are expected to keep, corrected by what the request kept of such promises. The first layers promise
    what DEL's accounts say; they are watched in rounds for which the text has nothing to say.

    Args:
        text: a drafter whose drafts cost next to nothing. exits: with layer "auto".
    """

    judges_levels = adaptive = True

    def __init__(self, text: Drafter, exits: EarlyExitDrafter):
        if not hasattr(text, "propose"):
            raise TypeError(f"text is {type(text).__name__}, expected a drafter, e.g. SuffixDrafter()")
        if not isinstance(exits, EarlyExitDrafter):
            raise TypeError(f"exits is {type(exits).__name__}, expected EarlyExitDrafter('auto')")
        if not exits.adaptive:
            raise ValueError(f"exits has layer={exits.exit.layer}, which promises nothing; pass EarlyExitDrafter('auto'), or a list of drafters to merge their drafts")
        self.text, self.exits = text, exits
        self.name = f"{text.name}/{exits.name}"

    def pair(self, target) -> None:
        self.exits.pair(target)

    def level_seconds(self) -> float:
        return 0.0  # the text's drafts are free, DEL weighs the length of the others

    def begin(self, requests: Sequence) -> _State:
        return _State(self.text.begin(requests), self.exits.begin(requests), [Acceptance() for _ in requests])

    def attach(self, state: _State, cache: Any) -> None:
        self.exits.attach(state.exits, cache)

    def propose(self, state: _State, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        drafts = self.text.propose(state.text, rows, budgets)
        promised = {r: float(d.scores.clip(max=1).sum()) for r, d in zip(rows, drafts) if len(d)}
        expected = sum(p * state.acceptances[r].calibration for r, p in promised.items())
        state.by_exits = self.exits.promise > 1 + expected / len(rows)
        state.promised = {} if state.by_exits else promised
        if promised and not state.by_exits:
            self.exits.stand_by(state.exits)
            return drafts
        return self.exits.propose(state.exits, rows, budgets)  # which may be nothing: then it looks on

    def entered(self, state: _State, rows: Sequence[int], tree: DraftTree):
        return self.exits.entered(state.exits, rows, tree) if state.by_exits else None

    def observe(self, state: _State, row: int, tokens: Sequence[int]) -> None:
        self.text.observe(state.text, row, tokens)
        self.exits.observe(state.exits, row, tokens)
        if row in state.promised:
            state.acceptances[row].learn(state.promised[row], len(tokens), len(tokens) - 1)

    def end(self, state: _State, row: int) -> None:
        self.text.end(state.text, row)
        self.exits.end(state.exits, row)
