"""How much to draft: as much as promises the most tokens per second, which may be nothing.

Three things are measured, first when a generator is made and then all the time: what a pass of the target costs by its width
(`StepCost`), what a proposal of the drafter costs per level of its tree, and, for every request, how often drafts were right
lately. With an acceptance rate a per level and costs in seconds, a chain of d drafts gives (1 - a^(d+1)) / (1 - a) tokens in
step(1 + d) + draft(d) (arXiv:2211.17192, section 3.3); trees go by the drafter's own estimates, node by node.
"""

from __future__ import annotations

from typing import Sequence

from fastdecode.speculative.acceptance import Acceptance
from fastdecode.speculative.drafters import Budget, Drafter
from fastdecode.speculative.request import Request
from fastdecode.speculative.step_cost import StepCost
from fastdecode.speculative.tree import Draft, merge

FREE = 0.02  # drafts that take a smaller part of a pass are as long as they may be
LEVEL_RATE = 0.1  # weight of a proposal in the running cost of a level
NARROW = 7  # drafts of a pass by which the cost of one more is told
TYPICAL_LEVELS, HELD = 4, 0.4  # of a draft whose levels are weighed one by one; share of a level's or a token's chances that what is behind it keeps


class Controller:
    """Decides how much the requests of one generator draft; costs are shared by all its calls.

    Args:
        step: what a pass of the target costs.
        drafter: asked for `level_seconds()`, if it has that: what one level of a draft costs; 0 until it was measured.
    """

    def __init__(self, step: StepCost, drafter: Drafter | None = None):
        self.step = step
        self._measure = getattr(drafter, "level_seconds", None)
        self.level_seconds: float = self._measure() if self._measure else 0.0
        self.judged = getattr(drafter, "judges_levels", False)  # the drafter weighs every level itself,
        self.settled = getattr(drafter, "judges_nodes", False)  # and what every node adds to the pass that verifies it

    def depth(self, acceptance: Acceptance, most: int) -> int:
        """Levels of a draft, up to `most`, that give the most tokens per second; 0 says that plain decoding is faster."""
        if self.level_seconds * most <= FREE * self.step.narrowest:
            return most
        tokens, rate, speeds = 0.0, 1.0, []
        for level, seconds in enumerate(self.step.seconds(1, 1 + most)):
            tokens += rate
            rate *= acceptance.rate
            speeds.append(tokens / (seconds + self.level_seconds * level))
        return speeds.index(max(speeds))

    def least(self, acceptance: Acceptance) -> float:
        """Expected tokens that a level of a draft must bring: at the pace of the last rounds, they would take as long as the level."""
        return self._tokens_in(self.level_seconds, acceptance) / HELD

    def open_score(self, acceptance: Acceptance) -> float:
        """Chance of a token below which what comes behind it adds more to a pass, at the pace of the last rounds, than it brings."""
        first, *_, last = self.step.seconds(1, 1 + NARROW)
        return self._tokens_in((last - first) / NARROW, acceptance) / HELD

    def _tokens_in(self, seconds: float, acceptance: Acceptance) -> float:
        """Tokens at the pace of the last rounds, as the drafter's estimates count them."""
        rounds = self.step.narrowest + self.level_seconds * TYPICAL_LEVELS
        return acceptance.tokens * seconds / (rounds * acceptance.calibration)

    def lowest_score(self, scores: Sequence[Sequence[float]]) -> float:
        """Of the nodes that are worth their place in one pass over the pending tokens of all rows and these nodes."""
        rows = len(scores)
        ranked = sorted((s for row in scores for s in row), reverse=True)
        costs = self.step.estimates(rows, rows + len(ranked))
        tokens, best, lowest = float(rows), rows / costs[0], float("inf")
        for score, cost in zip(ranked, costs[1:]):
            tokens += min(score, 1.0)
            if tokens / cost > best:
                best, lowest = tokens / cost, score
        return lowest

    def trim(self, drafts: Sequence[Draft], acceptances: Sequence[Acceptance]) -> list[Draft]:
        """The drafts without the nodes that cost more than they promise. Drawn drafts stay whole: what is kept must not
        depend on what was drawn."""
        if self.settled or not any(map(len, drafts)) or any(d.draws for d in drafts):
            return list(drafts)
        scores = [[a.calibration * s for s in d.scores.tolist()] for d, a in zip(drafts, acceptances)]
        lowest = self.lowest_score(scores)
        sizes = [sum(s >= lowest for s in row) for row in scores]
        return [d if n == len(d) else merge([d], n) if n else Draft.empty() for d, n in zip(drafts, sizes)]

    def record_proposal(self, depth: int, seconds: float) -> None:
        """A proposal of that many levels took that long."""
        if self.judged:
            self.level_seconds = self._measure()
        elif depth:
            self.level_seconds += (LEVEL_RATE if self.level_seconds else 1) * (seconds / depth - self.level_seconds)


class Plan:
    """The decisions for the requests of one call.

    Args:
        max_draft, min_score: bounds of every draft. adaptive: whether anything is decided at all; else all drafts are as large
            as the bounds allow.
    """

    def __init__(self, controller: Controller, requests: Sequence[Request], max_draft: int, min_score: float, adaptive: bool):
        self.controller, self.requests, self.max_draft, self.min_score, self.adaptive = controller, requests, max_draft, min_score, adaptive
        self.acceptances = [Acceptance() for _ in requests]

    def budgets(self, rows: Sequence[int], round_number: int) -> list[Budget]:
        return [self._budget(r, round_number) for r in rows]

    def _budget(self, row: int, round_number: int) -> Budget:
        room = min(self.max_draft, self.requests[row].remaining - 1)  # the last token of a round is the target's own
        if not self.adaptive:
            return Budget(self.max_draft if room else 0, room, self.min_score, round_number)
        acceptance = self.acceptances[row]
        if self.controller.judged:
            return Budget(self.max_draft if room else 0, room, self.min_score, round_number, self.controller.least(acceptance), self.controller.open_score(acceptance))
        depth = self.controller.depth(acceptance, room)
        return Budget(self.max_draft if depth else 0, depth, self.min_score, round_number)

    def trim(self, rows: Sequence[int], drafts: Sequence[Draft]) -> list[Draft]:
        return self.controller.trim(drafts, [self.acceptances[r] for r in rows]) if self.adaptive else list(drafts)

    def learn(self, row: int, draft: Draft, accepted: int) -> None:
        """What became of the draft of a row."""
        self.acceptances[row].learn(sum(draft.scores.tolist()), draft.depth, accepted)
