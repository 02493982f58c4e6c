from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Sequence

from fastdecode.speculative.acceptance import Acceptance
from fastdecode.speculative.drafters.base import Budget, Drafter
from fastdecode.speculative.tree import Draft, merge


@dataclass
class _State:
    members: list[Any]  # states of the drafters
    acceptances: list[Acceptance]  # by row, of the first tokens that nobody but a judge of levels proposes
    alone: dict[int, dict[int, float]] = field(default_factory=dict)  # by row, these tokens and their chances in the last draft


class CompositeDrafter:
    """Merges the drafts of several drafters into one tree; the nodes of highest score stay.

    Drafts that were drawn at random cannot be merged without changing their law: where one drafter draws, its draft is used
    alone, and only when the deterministic ones have nothing to say.

    Args:
        drafters: asked in this order.
    """

    def __init__(self, drafters: Sequence[Drafter]):
        if not drafters:
            raise ValueError("drafters is empty; pass at least one, e.g. ['suffix', 'prompt_lookup']")
        alone = [d.name for d in drafters if getattr(d, "adaptive", False)]
        if alone:
            raise ValueError(f"drafters holds {alone[0]!r} with layer='auto', which watches whole passes of the model and must draft alone; give early_exit a layer, or leave the others out")
        self.drafters = list(drafters)
        self.order = sorted(range(len(self.drafters)), key=lambda i: _judges(self.drafters[i]))  # these hear what the others have found
        self.name = "+".join(d.name for d in self.drafters)

    def pair(self, target) -> None:
        for d in self.drafters:
            if hasattr(d, "pair"):
                d.pair(target)

    @functools.cached_property  # asked for when all are paired
    def taps(self) -> tuple[int, ...]:
        return tuple(sorted({tap for d in self.drafters for tap in getattr(d, "taps", ())}))

    def level_seconds(self) -> float:
        judges = [d for d in self.drafters if _judges(d)]
        return max((d.level_seconds() for d in judges or self.drafters if hasattr(d, "level_seconds")), default=0.0)

    def read(self, state, row: int, hidden) -> None:
        taps = self.taps
        for d, s in self._readers(state):
            d.read(s, row, hidden if d.taps == taps else hidden[[taps.index(tap) for tap in d.taps]])

    def resume(self, state, row: int, before, shared: int) -> None:
        for i, (d, s) in enumerate(zip(self.drafters, state.members)):
            if getattr(d, "taps", ()):
                d.resume(s, row, before.members[i] if before else None, shared)

    def _readers(self, state):
        return [(d, s) for d, s in zip(self.drafters, state.members) if getattr(d, "taps", ())]

    @property
    def learn(self):
        """Of the members that have it; None without any."""
        pupils = [(i, d) for i, d in enumerate(self.drafters) if getattr(d, "learn", None)]
        return (lambda state, *lesson: [d.learn(state.members[i], *lesson) for i, d in pupils]) if pupils else None

    def begin(self, requests: Sequence) -> list:
        return _State([d.begin(requests) for d in self.drafters], [Acceptance() for _ in requests])

    def attach(self, state, target_state) -> None:
        for d, s in zip(self.drafters, state.members):
            if hasattr(d, "attach"):
                d.attach(s, target_state)

    @property
    def judges_levels(self) -> bool:
        return any(map(_judges, self.drafters))

    def propose(self, state, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        proposals: list[list[Draft]] = [[] for _ in rows]
        for i in self.order:
            judges = _judges(self.drafters[i])
            if judges:
                budgets = [_told(b, drafts, state.acceptances[r]) for r, b, drafts in zip(rows, budgets, proposals)]
            for r, drafts, proposal in zip(rows, proposals, self.drafters[i].propose(state.members[i], rows, budgets)):
                if judges:
                    known = set().union(*map(_first_tokens, drafts))
                    state.alone[r] = {token: score for token, score in _first_tokens(proposal).items() if token not in known}
                drafts.append(proposal)
        return [self._combine([p for p in row if len(p)], b) for row, b in zip(proposals, budgets)]

    def _combine(self, drafts: list[Draft], budget: Budget) -> Draft:
        fixed = [d for d in drafts if not d.draws]
        if fixed:
            return merge(fixed, budget.nodes)
        return drafts[0] if drafts else Draft.empty()

    def observe(self, state, row: int, tokens: Sequence[int]) -> None:
        alone = state.alone.pop(row, {})
        state.acceptances[row].learn(sum(alone.values()), len(alone), tokens[0] in alone)
        for d, s in zip(self.drafters, state.members):
            d.observe(s, row, tokens)

    def end(self, state, row: int) -> None:
        for d, s in zip(self.drafters, state.members):
            d.end(s, row)


def _judges(drafter: Drafter) -> bool:
    return getattr(drafter, "judges_levels", False)


def _told(budget: Budget, drafts: Sequence[Draft], acceptance: Acceptance) -> Budget:
    """What a drafter that judges levels must know of the others: what they have found, and how much its own chances count beside that."""
    trust = acceptance.calibration
    return budget._replace(covered=_covered(drafts), least=budget.least / trust, open_score=budget.open_score / trust)


def _first_tokens(draft: Draft) -> dict[int, float]:
    """The tokens right behind the text, and their chances."""
    return {token: score for token, parent, score in zip(*(a.tolist() for a in draft.arrays)) if parent < 0}


def _covered(drafts: Sequence[Draft]) -> tuple[float, ...]:
    """Level by level, the chance that the best of some drafts is right up to there."""
    best: list[float] = []
    for draft in drafts:
        depths: list[int] = []
        for parent, score in zip(draft.parents.tolist(), draft.scores.tolist()):
            depth = depths[parent] + 1 if parent >= 0 else 0
            depths.append(depth)
            if depth == len(best):
                best.append(0.0)
            best[depth] = max(best[depth], min(score, 1.0))
    return tuple(best)
