"""Decoding a batch of canvases: one loop for every policy. Each step computes an active set, scores proposals, commits some."""

from __future__ import annotations

import time
from typing import NamedTuple, Sequence

import numpy as np
import torch

from fastdecode import ops
from fastdecode.diffusion.blocks import BlockWalk
from fastdecode.diffusion.caches import DelayedGreedy
from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.credit import CreditTable
from fastdecode.diffusion.early_commit import commits_all, wanted_positions
from fastdecode.diffusion.policies import AdaptiveBlocks, LearnedFilter
from fastdecode.diffusion.policy import Policy
from fastdecode.diffusion.scoring import scoring
from fastdecode.errors import InvalidLogitsError
from fastdecode.ops import Commits, VocabStats
from fastdecode.ops.reference.random import stream_uniform
from fastdecode.ops.unmask_commit import FINISH
from fastdecode.targets.active import ActiveRow, DiffusionTarget

SAMPLE, ORDER = 5, 6  # purpose words of random keys, see csrc/include/fastdecode/philox.cuh


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
        return FINISH[int(self.commits.finish[row])]

    def of(self, row: int) -> "Chosen":
        """Of one state."""
        own, commits = slice(self.begin[row], self.begin[row + 1]), self.commits
        return Chosen(self.ints[own], self.positions[own], self.begin[row : row + 2] - self.begin[row], Commits(commits.scores[own], commits.rank[own], commits.chosen[row : row + 1], commits.finish[row : row + 1]))

    def best(self, row: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and scores of the proposals of one state from rank `first` to `last` - 1, best first."""
        own = slice(self.begin[row], self.begin[row + 1])
        order = np.argsort(self.commits.rank[own].numpy())[first:last]
        return self.positions[own][order], self.commits.scores[own].numpy()[order]


class Decoding:
    """The canvases of one call.

    Args:
        canvases: rows 0, 1, ... of `tokens` and `changed`, int32 [B, L].
        banned: ids that are never proposed (the mask itself).
        temperature: 0 takes the most probable token.
        eos: ids that end a text.
    """

    def __init__(self, target: DiffusionTarget, policy: Policy, canvases: Sequence[Canvas], tokens: torch.Tensor, changed: torch.Tensor, *, banned: Sequence[int], temperature: float, eos: Sequence[int]):  # fmt: skip
        self.target, self.policy, self.canvases = target, policy, list(canvases)
        self.tokens, self.changed = tokens, changed
        self.banned, self.eos = (torch.tensor(list(ids), dtype=torch.int32) for ids in (banned, eos))
        self.temperature = temperature
        self.branches = policy.drafts.depth if policy.drafts else 1
        self.slots = target.new_slots(len(self.canvases) * self.branches, tokens.shape[1])
        self.credit = CreditTable(policy.credit, *tokens.shape) if policy.credit else None
        self.blocks = BlockWalk(policy)
        for canvas in self.canvases:
            self._open(canvas)

    def _open(self, canvas: Canvas) -> None:
        if self.policy.scorer == "random":
            keys = torch.tensor([[*canvas.key, p, ORDER] for p in range(canvas.length)])
            canvas.order = stream_uniform(keys, 1)[:, 0].numpy()
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
        stats, passed = self._pass(owners, parts)
        for canvas, own in zip(live, owned):
            canvas.stats.record_pass(sum(len(p.positions) for p in own), self.policy.cache.refreshes(canvas))
        self._settle(live, owners, parts, stats)
        seconds = time.perf_counter() - begun
        for canvas in live:
            canvas.stats.add_seconds(target=passed, commit=seconds - passed)

    def _pass(self, owners: list[Canvas], parts: list[ActiveRow]) -> tuple[VocabStats, float]:
        """Statistics of what the parts want, and seconds."""
        where = [_proposed(c, p) for c, p in zip(owners, parts)]
        ids = torch.cat([self.credit.ids[c.row, positions] for c, positions in zip(owners, where)]) if self.credit else None
        drawing = {}
        if self.temperature:
            rows = sum(map(len, where))
            drawing = {"key": torch.from_numpy(np.concatenate([_keys(c, p) for c, p in zip(owners, where)])), "temperature": torch.full((rows,), self.temperature)}
        begun = time.perf_counter()
        stats = self.target.forward_active(self.slots, parts, ids=ids, banned=self.banned, **drawing)
        passed = time.perf_counter() - begun
        if bool((stats.ints[:, 1] < 0).any()):
            raise InvalidLogitsError("the model returned logits without a finite value (NaN or all -inf); check its weights and dtype")
        return stats, passed

    # What a pass computes.

    def _activate(self, live: list[Canvas]) -> None:
        """Finds the positions that the next pass computes for every canvas."""
        cache = self.policy.cache
        for canvas in live:
            canvas.upcoming = self._upcoming(canvas)
        windows = torch.tensor([cache.window(c) for c in live], dtype=torch.int32).T.contiguous()
        changed = self.changed if len(live) == len(self.changed) else self.changed[[c.row for c in live]]
        positions, count = ops.active_set(changed, *windows, live[0].shift)
        for canvas, own, n in zip(live, positions.numpy(), count.tolist()):
            chosen = cache.positions(canvas) if isinstance(cache, DelayedGreedy) else None
            canvas.positions = own[:n] if chosen is None else chosen

    def _parts(self, live: list[Canvas]) -> list[list[ActiveRow]]:
        """What the next pass computes, for every canvas."""
        return [[self._active_row(c, c.row, c.tokens, self._wanted(c))] for c in live]

    @staticmethod
    def _active_row(canvas: Canvas, row: int, tokens: np.ndarray, wanted: np.ndarray) -> ActiveRow:
        """The active set of a state of a canvas, in a row of the slots."""
        positions = canvas.positions
        return ActiveRow(row, tokens[positions], positions, _ends(canvas, positions), np.searchsorted(positions, wanted - canvas.shift).astype(np.int32))

    def _wanted(self, canvas: Canvas) -> np.ndarray:
        """Positions whose proposals are needed, ascending."""
        policy = self.policy
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

    def _settle(self, live: list[Canvas], owners: list[Canvas], parts: list[ActiveRow], stats: VocabStats) -> None:
        """Turns what the pass found into tokens."""
        chosen = self._commit(owners, parts, stats, self.tokens, self.changed)
        for canvas in live:
            self._log(canvas, *chosen.best(canvas.row, 0, int(chosen.commits.chosen[canvas.row])))
            self._advance(canvas, chosen.finish(canvas.row))

    def _commit(self, owners: list[Canvas], parts: list[ActiveRow], stats: VocabStats, tokens: torch.Tensor, changed: torch.Tensor) -> Chosen:
        """Commits what the policy takes, in place: `tokens` and `changed` int32 [N, L] hold the states that the parts are of, each in
        the row that its part has in the slots."""
        where = [_proposed(c, p) for c, p in zip(owners, parts)]
        cuts = np.cumsum([0, *map(len, where)])
        for canvas, positions, a, b in zip(owners, where, cuts, cuts[1:]):
            if canvas.step == 0:
                self.blocks.settle_length(canvas, rows_of(stats, slice(a, b)), positions)
        early = [self.policy.early_commit is not None and commits_all(self.policy, c, p, rows_of(stats, slice(a, b))) for c, p, a, b in zip(owners, where, cuts, cuts[1:])]
        inside = [np.flatnonzero((p >= c.start) & ((p < c.stop) | e)) + a for c, p, e, a in zip(owners, where, early, cuts)]
        sizes, candidates = list(map(len, inside)), np.concatenate(inside)
        positions = np.concatenate(where)[candidates].astype(np.int32)
        stats = rows_of(stats, candidates) if len(candidates) < cuts[-1] else stats
        if self.credit:
            rows = torch.from_numpy(np.repeat([c.row for c in owners], sizes))
            stats = self.credit.fuse(stats, rows, torch.from_numpy(positions).long())
        state = np.zeros((len(tokens), 5), np.int32)  # proposals, least number to commit, canvas
        state[[p.row for p in parts]] = [(n, n if e else c.quota, c.prompt, c.stop, c.length) for c, e, n in zip(owners, early, sizes)]
        begin = np.concatenate([[0], np.cumsum(state[:, 0])]).astype(np.int32)
        quota, canvas = torch.from_numpy(state[:, 1].copy()), torch.from_numpy(state[:, 2:].copy())
        commits = ops.unmask_commit(
            stats, torch.from_numpy(begin), torch.from_numpy(positions), tokens, changed, quota=quota, step=owners[0].clock, canvas=canvas,
            eos=self.eos if self.policy.end_at_eos else None, cut=self.policy.cut_confidence if self.policy.cut_at_eos else np.inf,
            **scoring(self.policy, self.eos, owners, sizes, positions, stats),
        )  # fmt: skip
        return Chosen(stats.ints, positions, begin, commits)

    @staticmethod
    def _log(canvas: Canvas, positions: np.ndarray, scores: np.ndarray) -> None:
        canvas.commits += [(int(p), canvas.clock, float(s)) for p, s in zip(positions, scores)]

    def _advance(self, canvas: Canvas, finish: str) -> None:
        """Ends the row, goes to the next block, or stays."""
        canvas.latest = np.flatnonzero(canvas.changed == canvas.clock).astype(np.int32)
        if finish == "text_ended":  # what comes later can no longer change the text
            canvas.end(self.eos.numpy())
        elif finish == "canvas_full":
            canvas.finish_reason = "length"
        canvas.clock += 1
        canvas.step += 1
        if finish == "block_full":
            self._next_block(canvas)


def _proposed(canvas: Canvas, part: ActiveRow) -> np.ndarray:
    """int32, positions that the wanted outputs propose tokens for."""
    return part.positions[part.wanted] + np.int32(canvas.shift)


def _ends(canvas: Canvas, positions: np.ndarray) -> np.ndarray:
    """int32, where what the positions see ends."""
    if canvas.grid:
        return np.minimum((positions // canvas.grid + 1) * canvas.grid, canvas.length).astype(np.int32)
    return np.full(len(positions), canvas.length, np.int32)


def _keys(canvas: Canvas, positions: np.ndarray) -> np.ndarray:
    """int64 [R, 4], keys of this pass's draws."""
    keys = np.empty((len(positions), 4), np.int64)
    keys[:, :2], keys[:, 2], keys[:, 3] = canvas.key, positions + (np.int64(canvas.clock) << 32), SAMPLE
    return keys


def rows_of(stats: VocabStats, rows: slice | np.ndarray) -> VocabStats:
    return VocabStats(*(None if part is None else part[rows] for part in stats))
