from __future__ import annotations

import functools
from typing import Sequence

from fastdecode.speculative.drafters.base import Budget, Drafter
from fastdecode.speculative.tree import Draft, merge


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
        self.name = "+".join(d.name for d in self.drafters)

    def pair(self, target) -> None:
        for d in self.drafters:
            if hasattr(d, "pair"):
                d.pair(target)

    @functools.cached_property  # asked for when all are paired
    def taps(self) -> tuple[int, ...]:
        return tuple(sorted({tap for d in self.drafters for tap in getattr(d, "taps", ())}))

    def level_seconds(self) -> float:
        judges = [d for d in self.drafters if getattr(d, "judges_levels", False)]
        return max((d.level_seconds() for d in judges or self.drafters if hasattr(d, "level_seconds")), default=0.0)

    def read(self, state, row: int, hidden) -> None:
        taps = self.taps
        for d, s in self._readers(state):
            d.read(s, row, hidden if d.taps == taps else hidden[[taps.index(tap) for tap in d.taps]])

    def resume(self, state, row: int, before, shared: int) -> None:
        for i, (d, s) in enumerate(zip(self.drafters, state)):
            if getattr(d, "taps", ()):
                d.resume(s, row, before[i] if before else None, shared)

    def _readers(self, state):
        return [(d, s) for d, s in zip(self.drafters, state) if getattr(d, "taps", ())]

    @property
    def learn(self):
        """Of the members that have it; None without any."""
        pupils = [(i, d) for i, d in enumerate(self.drafters) if getattr(d, "learn", None)]
        return (lambda state, *lesson: [d.learn(state[i], *lesson) for i, d in pupils]) if pupils else None

    def begin(self, requests: Sequence) -> list:
        return [d.begin(requests) for d in self.drafters]

    def attach(self, state, target_state) -> None:
        for d, s in zip(self.drafters, state):
            if hasattr(d, "attach"):
                d.attach(s, target_state)

    @property
    def judges_levels(self) -> bool:
        return any(getattr(d, "judges_levels", False) for d in self.drafters)

    def propose(self, state, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        proposals: list[list[Draft]] = [[] for _ in rows]
        for d, s in sorted(zip(self.drafters, state), key=lambda pair: getattr(pair[0], "judges_levels", False)):
            if getattr(d, "judges_levels", False):  # it is told what the cheap ones have found
                budgets = [b._replace(covered=_covered(drafts)) for b, drafts in zip(budgets, proposals)]
            for drafts, proposal in zip(proposals, d.propose(s, rows, budgets)):
                drafts.append(proposal)
        return [self._combine([p for p in row if len(p)], b) for row, b in zip(proposals, budgets)]

    def _combine(self, drafts: list[Draft], budget: Budget) -> Draft:
        fixed = [d for d in drafts if not d.draws]
        if fixed:
            return merge(fixed, budget.nodes)
        return drafts[0] if drafts else Draft.empty()

    def observe(self, state, row: int, tokens: Sequence[int]) -> None:
        for d, s in zip(self.drafters, state):
            d.observe(s, row, tokens)

    def end(self, state, row: int) -> None:
        for d, s in zip(self.drafters, state):
            d.end(s, row)


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
