"""Decoding a batch of canvases: one loop for every policy. Each step computes an active set, scores proposals, commits some."""

from __future__ import annotations

import functools
import itertools
import time
from typing import NamedTuple, Sequence

import numpy as np
import torch

from fastdecode import ops
from fastdecode.diffusion.blocks import BlockWalk
from fastdecode.diffusion.caches import ALL, DelayedGreedy, Window
from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.credit import CreditTable
from fastdecode.diffusion.early_commit import commits_all, wanted_positions
from fastdecode.diffusion.policies import AdaptiveBlocks, LearnedFilter
from fastdecode.diffusion.policy import Policy
from fastdecode.diffusion.facts import Facts
from fastdecode.diffusion.sampling import Proposals, processed, without
from fastdecode.diffusion.scoring import ORDER, SAMPLE, keys, last_ids, scoring
from fastdecode.errors import InvalidLogitsError
from fastdecode.ops import Commits, VocabStats
from fastdecode.ops.reference.random import stream_uniform
from fastdecode.ops.unmask_commit import FINISH
from fastdecode.targets.active import ActiveRow, DiffusionTarget


class Chosen(NamedTuple):
    """What a step made of proposals, for the rows of some states of canvases.

    Attributes:
        ints: int32 [R, 2], proposals as in `VocabStats`. positions: int32 [R], what they are for.
        begin: int32 [N + 1], first proposal of each state.
        commits: of `unmask_commit`.
    """

    ints: torch.Tensor
    positions: np.ndarray
    begin: np.ndarray
    commits: Commits

    def finish(self, row: int) -> str:
        return FINISH[self.commits.finish.numpy()[row]]

    def of(self, row: int) -> "Chosen":
        """Of one state."""
        own, commits = slice(self.begin[row], self.begin[row + 1]), self.commits
        return Chosen(self.ints[own], self.positions[own], self.begin[row : row + 2] - self.begin[row], Commits(commits.scores[own], commits.rank[own], commits.chosen[row : row + 1], commits.finish[row : row + 1]))

    def best(self, row: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and scores of the proposals of one state from rank `first` to `last` - 1, best first."""
        own = slice(self.begin[row], self.begin[row + 1])
        order = self.commits.rank.numpy()[own].argsort()[first:last]
        return self.positions[own][order], self.commits.scores.numpy()[own][order]


class Decoding:
    """The canvases of one call.

    Args:
        canvases: rows 0, 1, ... of `tokens` and `changed`, int32 [B, L].
        facts: of the model, whose mask is never proposed.
    """

    def __init__(self, target: DiffusionTarget, policy: Policy, facts: Facts, canvases: Sequence[Canvas], tokens: torch.Tensor, changed: torch.Tensor):
        self.target, self.policy, self.facts, self.canvases = target, policy, facts, list(canvases)
        self.tokens, self.changed = tokens, changed
        known = lambda *ids: _ids(tuple(i for i in ids if i < target.vocab_size))
        self.banned = known(facts.mask, *(facts.eos if policy.sampling.logits_eos_inf else ()))
        self.eos, self.last = known(*facts.eos), known(*last_ids(policy.sampling, facts))
        self.branches = policy.drafts.depth if policy.drafts else 1
        self.rows = len(self.canvases) * self.branches  # of the slots; with guidance as many more, without the prompt
        self.slots = target.new_slots(self.rows * (2 if policy.sampling.cfg_scale else 1), tokens.shape[1])
        self.credit = CreditTable(policy, *tokens.shape, target.device) if policy.credit else None
        self.blocks = BlockWalk(policy)
        for canvas in self.canvases:
            self._open(canvas)

    def _open(self, canvas: Canvas) -> None:
        if self.policy.scorer == "random":
            canvas.order = stream_uniform(torch.from_numpy(keys(canvas, np.arange(canvas.length), ORDER)), 1)[:, 0].numpy()
        self.blocks.open(canvas)
        self._next_block(canvas)

    def _next_block(self, canvas: Canvas) -> None:
        self.blocks.next(canvas)
        if self.credit:
            self.credit.clear(canvas.row)

    @property
    def active(self) -> list[Canvas]:
        return [c for c in self.canvases if c.finish_reason is None]

    def step(self) -> None:
        """One pass for every canvas that is not finished."""
        begun = time.perf_counter()
        live = self.active
        self._activate(live)
        owned = self._parts(live)
        owners, parts = [c for c, own in zip(live, owned) for _ in own], [part for own in owned for part in own]
        proposals, passed = self._pass(owners, parts)
        copies = 2 if self.policy.sampling.cfg_scale else 1
        for canvas, own in zip(live, owned):
            canvas.stats.record_pass(copies * sum(len(p.positions) for p in own), self.policy.cache.refreshes(canvas))
        self._settle(live, owners, parts, proposals)
        seconds = time.perf_counter() - begun
        for canvas in live:
            canvas.stats.add_seconds(target=passed, commit=seconds - passed)

    def _pass(self, owners: list[Canvas], parts: list[ActiveRow]) -> tuple[Proposals, float]:
        """What the parts want to know, and seconds."""
        sampling, where = self.policy.sampling, [_proposed(c, p) for c, p in zip(owners, parts)]
        key = torch.from_numpy(np.concatenate([keys(c, p, SAMPLE) for c, p in zip(owners, where)])) if sampling.temperature else None
        active = [*parts, *(self._unconditional(c, p) for c, p in zip(owners, parts))] if sampling.cfg_scale else parts
        ids = self.last.repeat(sum(map(len, where)), 1) if self.lacks_ends else None
        begun = time.perf_counter()
        if sampling.processed:
            proposals = processed(self.target.logits_active(self.slots, active, sampling.cfg_scale), sampling, self.banned, key)
        else:
            drawing = {} if key is None else {"key": key, "temperature": torch.full((len(key),), sampling.temperature)}
            credit = self.credit.of(owners, where) if self.credit else None
            stats = self.target.forward_active(self.slots, active, guidance=sampling.cfg_scale, ids=ids, banned=self.banned, credit=credit, **drawing)
            proposals = Proposals(without(stats, len(self.last)) if self.lacks_ends else stats, stats.without_credit() if credit else stats)
        passed = time.perf_counter() - begun
        if (proposals.stats.ints.numpy()[:, 1] < 0).any():
            raise InvalidLogitsError("the model returned logits without a finite value (NaN or all -inf); check its weights and dtype")
        return proposals, passed

    @property
    def lacks_ends(self) -> bool:
        """Whether probabilities are those among all other tokens than ends of text and turn."""
        return self.policy.sampling.confidence_eos_eot_inf == "reference" and len(self.last) > 0

    def _unconditional(self, canvas: Canvas, part: ActiveRow) -> ActiveRow:
        """The same positions with masks in the place of given tokens."""
        tokens = np.where(canvas.changed[part.positions] == -1, np.int32(self.facts.mask), part.tokens)
        return ActiveRow(self.rows + part.row, tokens, part.positions, part.ends, part.wanted)

    # What a pass computes.

    def _activate(self, live: list[Canvas]) -> None:
        """Finds the positions that the next pass computes for every canvas."""
        cache = self.policy.cache
        for canvas in live:
            canvas.upcoming = self._upcoming(canvas)
        windows = [cache.window(c) for c in live]
        whole = all(w.since == ALL for w in windows)  # then there is nothing to look for
        found = [np.arange(w.low, w.high, dtype=np.int32) for w in windows] if whole else self._changed_in(windows, live)
        for canvas, positions in zip(live, found):
            chosen = cache.positions(canvas) if isinstance(cache, DelayedGreedy) else None
            canvas.positions = positions if chosen is None else chosen

    def _changed_in(self, windows: list[Window], live: list[Canvas]) -> list[np.ndarray]:
        changed = self.changed if len(live) == len(self.changed) else self.changed[[c.row for c in live]]
        positions, count = ops.active_set(changed, *map(torch.from_numpy, np.array(windows, np.int32).T.copy()), live[0].shift)
        return [own[:n] for own, n in zip(positions.numpy(), count.tolist())]

    def _parts(self, live: list[Canvas]) -> list[list[ActiveRow]]:
        """What the next pass computes, for every canvas."""
        return [[self._active_row(c, c.row, c.tokens, self._wanted(c))] for c in live]

    @staticmethod
    def _active_row(canvas: Canvas, row: int, tokens: np.ndarray, wanted: np.ndarray) -> ActiveRow:
        """The active set of a state of a canvas, in a row of the slots."""
        positions = canvas.positions
        return ActiveRow(row, tokens[positions], positions, _ends(canvas, positions), positions.searchsorted(wanted - canvas.shift).astype(np.int32))

    def _wanted(self, canvas: Canvas) -> np.ndarray:
        """Positions whose proposals are needed, ascending."""
        policy = self.policy
        if canvas.leads:
            return np.asarray([canvas.start], np.int32)
        if policy.early_commit:
            return wanted_positions(policy, canvas)
        if isinstance(policy.unmask, LearnedFilter):
            return np.arange(canvas.start, canvas.stop, dtype=np.int32)
        if canvas.step == 0 and isinstance(policy.blocks, AdaptiveBlocks):
            ahead = max(policy.blocks.reach(canvas.start, canvas.prompt, canvas.length), min(policy.blocks.length, canvas.length - canvas.start))
            return canvas.masked(canvas.start, canvas.start + ahead)
        return canvas.upcoming if len(canvas.upcoming) else canvas.open_positions

    def _upcoming(self, canvas: Canvas) -> np.ndarray:
        """With a fixed random order and nothing but a quota, the positions that this step will commit."""
        if self.policy.scorer != "random" or self.policy.unmask.rule != "top_k" or isinstance(self.policy.unmask, LearnedFilter) or self.policy.early_commit:
            return np.empty(0, np.int32)
        masked = canvas.open_positions
        best = np.argsort(-canvas.order[masked], kind="stable")[: canvas.quota]
        return np.sort(masked[best])

    # From proposals to tokens.

    def _settle(self, live: list[Canvas], owners: list[Canvas], parts: list[ActiveRow], proposals: Proposals) -> None:
        """Turns what the pass found into tokens."""
        chosen = self._commit(owners, parts, proposals, self.tokens, self.changed)
        for canvas in live:
            self._log(canvas, *chosen.best(canvas.row, 0, chosen.commits.chosen.numpy()[canvas.row]))
            self._advance(canvas, chosen.finish(canvas.row))

    def _commit(self, owners: list[Canvas], parts: list[ActiveRow], proposals: Proposals, tokens: torch.Tensor, changed: torch.Tensor) -> Chosen:
        """Commits what the policy takes, in place: `tokens` and `changed` int32 [N, L] hold the states that the parts are of, each in
        the row that its part has in the slots."""
        where = [_proposed(c, p) for c, p in zip(owners, parts)]
        cuts = list(itertools.accumulate(map(len, where), initial=0))
        for canvas, positions, a, b in zip(owners, where, cuts, cuts[1:]) if isinstance(self.policy.blocks, AdaptiveBlocks) else ():
            if canvas.step == 0:
                self.blocks.settle_length(canvas, rows_of(proposals.model, slice(a, b)), positions)
        early = [self.policy.early_commit is not None and commits_all(self.policy, c, p, rows_of(proposals.model, slice(a, b))) for c, p, a, b in zip(owners, where, cuts, cuts[1:])]
        spans = [p.searchsorted((c.start, c.length if e else c.stop)).tolist() for c, p, e in zip(owners, where, early)]  # what may be committed
        sizes = [last - first for first, last in spans]
        positions = np.concatenate([p[slice(*span)] for p, span in zip(where, spans)])
        stats, tie = proposals.stats, proposals.tie
        if len(positions) < cuts[-1]:
            candidates = np.concatenate([np.arange(a + first, a + last) for (first, last), a in zip(spans, cuts)])
            stats, tie = rows_of(stats, candidates), None if tie is None else tie[candidates]
        begin, quota, bounds = np.zeros(len(tokens) + 1, np.int32), np.zeros(len(tokens), np.int32), np.zeros((len(tokens), 3), np.int32)
        for canvas, part, everything, n in zip(owners, parts, early, sizes):
            begin[part.row + 1], quota[part.row], bounds[part.row] = n, n if everything else canvas.quota, (canvas.prompt, canvas.stop, canvas.length)
        begin.cumsum(out=begin)
        commits = ops.unmask_commit(
            stats, torch.from_numpy(begin), torch.from_numpy(positions), tokens, changed, quota=torch.from_numpy(quota), step=owners[0].clock, canvas=torch.from_numpy(bounds),
            eos=self.eos if self.policy.end_at_eos else None, cut=self.policy.cut_confidence if self.policy.cut_at_eos else np.inf,
            tie=tie, **scoring(self.policy, self.facts, owners, sizes, positions, stats),
        )  # fmt: skip
        return Chosen(stats.ints, positions, begin, commits)

    @staticmethod
    def _log(canvas: Canvas, positions: np.ndarray, scores: np.ndarray) -> None:
        canvas.commits += [(p, canvas.clock, s) for p, s in zip(positions.tolist(), scores.tolist())]

    def _advance(self, canvas: Canvas, finish: str) -> None:
        """Ends the row, goes to the next block, or stays."""
        canvas.latest = (canvas.changed == canvas.clock).nonzero()[0].astype(np.int32)
        if finish == "text_ended":  # what comes later can no longer change the text
            canvas.end(self.eos.numpy())
        elif finish == "canvas_full":
            canvas.finish_reason = "length"
        canvas.clock += 1
        canvas.step += 1
        canvas.leads = False
        if finish == "block_full":
            self._next_block(canvas)


@functools.lru_cache(maxsize=64)
def _ids(ids: tuple[int, ...]) -> torch.Tensor:
    """int32, the same for all calls: not to be written to."""
    return torch.tensor(ids, dtype=torch.int32)


def _proposed(canvas: Canvas, part: ActiveRow) -> np.ndarray:
    """int32, positions that the wanted outputs propose tokens for."""
    return part.positions[part.wanted] + np.int32(canvas.shift)


def _ends(canvas: Canvas, positions: np.ndarray) -> np.ndarray:
    """int32, where what the positions see ends."""
    if canvas.grid:
        return np.minimum((positions // canvas.grid + 1) * canvas.grid, canvas.length).astype(np.int32)
    return np.full(len(positions), canvas.length, np.int32)


def rows_of(stats: VocabStats, rows: slice | np.ndarray) -> VocabStats:
    return VocabStats(*(None if part is None else part[rows] for part in stats))
