"""Decoding a batch of canvases: one loop for every policy. Each step computes an active set, scores proposals, commits some."""

from __future__ import annotations

import time
from typing import Sequence

import numpy as np
import torch

from fastdecode import ops
from fastdecode.diffusion.blocks import BlockWalk
from fastdecode.diffusion.caches import DelayedGreedy
from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.credit import CreditTable
from fastdecode.diffusion.policies import AdaptiveBlocks, LearnedFilter
from fastdecode.diffusion.policy import Policy
from fastdecode.errors import InvalidLogitsError
from fastdecode.ops import VocabStats
from fastdecode.ops.reference.random import stream_uniform
from fastdecode.ops.unmask_commit import MASKED
from fastdecode.targets.active import ActiveRow, DiffusionTarget

SAMPLE, ORDER = 5, 6  # purpose words of random keys, see csrc/include/fastdecode/philox.cuh


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
        self.banned = torch.tensor(list(banned), dtype=torch.int32)
        self.temperature, self.eos = temperature, frozenset(eos)
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

    @property
    def active(self) -> list[Canvas]:
        return [c for c in self.canvases if c.finish_reason is None]

    def step(self) -> None:
        """One pass for every canvas that is not finished."""
        begun = time.perf_counter()
        live = self.active
        self._activate(live)
        owned = [self._parts(c) for c in live]
        parts = [part for own in owned for part in own]
        stats, passed = self._pass([c for c, own in zip(live, owned) for _ in own], parts)
        for canvas, own in zip(live, owned):
            canvas.stats.record_pass(sum(len(p.positions) for p in own), self.policy.cache.refreshes(canvas))
        self._settle(live, owned, stats)
        seconds = time.perf_counter() - begun
        for canvas in live:
            canvas.stats.add_seconds(target=passed, commit=seconds - passed)

    def _pass(self, owners: list[Canvas], parts: list[ActiveRow]) -> tuple[VocabStats, float]:
        """Statistics of what the parts want, and seconds."""
        where = [(c, self._proposed(c, p)) for c, p in zip(owners, parts)]
        ids = None
        if self.credit:
            ids = torch.cat([self.credit.ids[c.row, positions] for c, positions in where])
        drawing = {}
        if self.temperature:
            rows = sum(len(p) for _, p in where)
            drawing = {"key": torch.from_numpy(np.concatenate([_keys(c, p) for c, p in where])), "temperature": torch.full((rows,), self.temperature)}
        begun = time.perf_counter()
        stats = self.target.forward_active(self.slots, parts, ids=ids, banned=self.banned, **drawing)
        passed = time.perf_counter() - begun
        if bool((stats.ints[:, 1] < 0).any()):
            raise InvalidLogitsError("the model returned logits without a finite value (NaN or all -inf); check its weights and dtype")
        return stats, passed

    def _parts(self, canvas: Canvas) -> list[ActiveRow]:
        """What the next pass computes for a canvas."""
        return [self._active_row(canvas)]

    def _settle(self, live: list[Canvas], owned: list[list[ActiveRow]], stats: VocabStats) -> None:
        """Turns what the pass found into tokens."""
        where = [self._proposed(c, own[0]) for c, own in zip(live, owned)]
        sizes = np.cumsum([0, *map(len, where)])
        for i, canvas in enumerate(live):
            if canvas.step == 0:
                self.blocks.settle_length(canvas, rows_of(stats, sizes[i], sizes[i + 1]), where[i])
        self._commit(live, stats, where, sizes)
        for canvas in live:
            self._advance(canvas)

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

    def _active_row(self, canvas: Canvas, tokens: np.ndarray | None = None, wanted: np.ndarray | None = None, branch: int = 0) -> ActiveRow:
        """The active set of a canvas, or of a draft of it with other tokens."""
        positions = canvas.positions
        wanted = (self._wanted(canvas) if wanted is None else wanted) - canvas.shift
        tokens = canvas.tokens if tokens is None else tokens
        return ActiveRow(canvas.row * self.branches + branch, tokens[positions], positions, self._ends(canvas, positions), np.searchsorted(positions, wanted).astype(np.int32))

    @staticmethod
    def _proposed(canvas: Canvas, part: ActiveRow) -> np.ndarray:
        """int32, positions that the wanted outputs propose tokens for."""
        return part.positions[part.wanted] + np.int32(canvas.shift)

    @staticmethod
    def _ends(canvas: Canvas, positions: np.ndarray) -> np.ndarray:
        if canvas.grid:
            return np.minimum((positions // canvas.grid + 1) * canvas.grid, canvas.length).astype(np.int32)
        return np.full(len(positions), canvas.length, np.int32)

    def _wanted(self, canvas: Canvas) -> np.ndarray:
        """Positions whose proposals are needed, ascending."""
        policy = self.policy
        if policy.early_commit:
            reach = canvas.masked(canvas.start, canvas.length) if policy.cache.refreshes(canvas) else canvas.open_positions
            answer = self._answer(canvas)
            return np.union1d(reach, answer).astype(np.int32)
        if isinstance(policy.unmask, LearnedFilter):
            return np.arange(canvas.start, canvas.stop, dtype=np.int32)
        if canvas.step == 0 and isinstance(policy.blocks, AdaptiveBlocks):
            ahead = max(policy.blocks.reach(canvas.start, canvas.prompt, canvas.length), min(policy.blocks.length, canvas.length - canvas.start))
            return canvas.masked(canvas.start, canvas.start + ahead)
        return canvas.upcoming if len(canvas.upcoming) else canvas.open_positions

    def _answer(self, canvas: Canvas) -> np.ndarray:
        offsets = self.policy.early_commit.answer
        if offsets is None:
            return np.arange(canvas.start, canvas.stop, dtype=np.int32)
        return np.asarray(sorted({min(canvas.prompt + o, canvas.length - 1) for o in offsets}), np.int32)

    def _upcoming(self, canvas: Canvas) -> np.ndarray:
        """With a fixed random order and nothing but a quota, the positions that this step will commit."""
        if self.policy.scorer != "random" or self.policy.unmask.rule != "top_k" or isinstance(self.policy.unmask, LearnedFilter) or self.policy.early_commit or canvas.stop == 0:
            return np.empty(0, np.int32)
        masked = canvas.open_positions
        best = np.argsort(-canvas.order[masked], kind="stable")[: canvas.quota]
        return np.sort(masked[best])

    def _next_block(self, canvas: Canvas) -> None:
        """Moves to the next block that has masks; finishes the canvas when there is none."""
        if self.blocks.next(canvas) and self.credit:
            self.credit.clear(canvas.row)

    # Commits.

    def _commit(self, live: list[Canvas], stats: VocabStats, where: list[np.ndarray], sizes: np.ndarray) -> None:
        early = self._early(live, stats, where, sizes) if self.policy.early_commit else [False] * len(live)
        inside = [np.flatnonzero((p >= c.start) & ((p < c.stop) | e)) + first for c, p, e, first in zip(live, where, early, sizes)]
        candidates = np.concatenate(inside)
        positions = np.concatenate(where).astype(np.int32)[candidates]
        if len(candidates) < len(stats.ints):
            stats = VocabStats(stats.floats[candidates], stats.ints[candidates], None if stats.id_logits is None else stats.id_logits[candidates])
        rows = np.repeat([c.row for c in live], [len(i) for i in inside])
        if self.credit:
            stats = self.credit.fuse(stats, torch.from_numpy(rows), torch.from_numpy(positions).long())
        counts = np.zeros(len(self.canvases), np.int32)
        counts[[c.row for c in live]] = [len(i) for i in inside]
        quota = np.zeros(len(self.canvases), np.int32)
        quota[[c.row for c in live]] = [len(i) if e else c.quota for c, i, e in zip(live, inside, early)]
        begin = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        unmask = self.policy.unmask
        commits = ops.unmask_commit(
            stats, torch.from_numpy(begin), torch.from_numpy(positions), self.tokens, self.changed, quota=torch.from_numpy(quota), step=live[0].clock,
            scorer="given" if self.policy.scorer == "random" else self.policy.scorer, rule=unmask.rule, bar=unmask.bar,
            scores=self._orders(live, positions, inside), factor=self._damping(live, stats, inside), accepted=self._accepted(live, stats, inside),
        )  # fmt: skip
        self._record(live, commits, positions, begin)

    def _record(self, live: list[Canvas], commits, positions: np.ndarray, begin: np.ndarray) -> None:
        scores, rank = commits.scores.numpy(), commits.rank.numpy()
        for canvas in live:
            own = slice(begin[canvas.row], begin[canvas.row + 1])
            new = canvas.changed[positions[own]] == canvas.clock
            order = np.argsort(rank[own][new], kind="stable")
            canvas.latest = positions[own][new]
            canvas.commits += [(int(p), canvas.clock, float(s)) for p, s in zip(canvas.latest[order], scores[own][new][order])]

    def _orders(self, live: list[Canvas], positions: np.ndarray, inside: list[np.ndarray]) -> torch.Tensor | None:
        if self.policy.scorer != "random":
            return None
        cuts = np.cumsum([0, *map(len, inside)])
        return torch.from_numpy(np.concatenate([c.order[positions[a:b]] for c, a, b in zip(live, cuts, cuts[1:])]).astype(np.float32))

    def _damping(self, live: list[Canvas], stats: VocabStats, inside: list[np.ndarray]) -> torch.Tensor | None:
        damping = self.policy.end_damping
        if damping is None:
            return None
        ends = torch.isin(stats.ints[:, 1], torch.tensor(sorted(self.eos), dtype=torch.int32))
        factors = torch.tensor([damping.factor(min(c.clock, c.steps - 1), c.steps) for c, i in zip(live, inside) for _ in i])
        return torch.where(ends, factors, 1.0).float()

    def _accepted(self, live: list[Canvas], stats: VocabStats, inside: list[np.ndarray]) -> torch.Tensor | None:
        if not isinstance(self.policy.unmask, LearnedFilter):
            return None
        return self.policy.unmask.accept(confidence(stats), [len(i) for i in inside])

    def _early(self, live: list[Canvas], stats: VocabStats, where: list[np.ndarray], sizes: np.ndarray) -> list[bool]:
        """Which canvases Prophet commits at once: only where every mask that is left was proposed for."""
        result = []
        for i, canvas in enumerate(live):
            answer = np.isin(where[i], self._answer(canvas))
            own = rows_of(stats, sizes[i], sizes[i + 1])
            gap = float((own.top1 - own.top2)[torch.from_numpy(answer)].double().mean())
            progress = (canvas.clock + 1) / max(1, canvas.steps)
            complete = np.isin(canvas.masked(canvas.prompt, canvas.length), where[i]).all()
            result.append(bool(complete and gap >= self.policy.early_commit.bar(progress)))
        return result

    def _advance(self, canvas: Canvas) -> None:
        """Ends the row, goes to the next block, or stays."""
        self._end_at_eos(canvas)
        canvas.clock += 1
        canvas.step += 1
        if canvas.finish_reason is None and len(canvas.open_positions) == 0:
            self._next_block(canvas)

    def _end_at_eos(self, canvas: Canvas) -> None:
        """A row ends with an EOS that no mask stands before: what comes later can no longer change the text."""
        if not self.eos:
            return
        ends = [p for p in canvas.latest if int(canvas.tokens[p]) in self.eos]
        if self.policy.cut_at_eos and ends:
            sure = [p for p, clock, score in canvas.commits if p in ends and clock == canvas.clock and score >= self.policy.cut_confidence]
            if sure:
                cut = min(sure) + 1
                canvas.fill(canvas.masked(cut, canvas.length), min(self.eos))
        if not self.policy.end_at_eos:
            return
        text = canvas.tokens[canvas.prompt : canvas.length]
        settled = canvas.changed[canvas.prompt : canvas.length] != MASKED
        first = next((i for i, token in enumerate(text.tolist()) if token in self.eos and settled[i] and canvas.changed[canvas.prompt + i] >= 0), None)
        if first is not None and settled[: first + 1].all():
            canvas.fill(canvas.masked(canvas.prompt, canvas.length), int(text[first]))
            canvas.finish_reason = "eos"


def confidence(stats: VocabStats) -> torch.Tensor:
    """float32 [R], probability of the proposals at temperature 1."""
    return (stats.sample_logit.double() - stats.logsumexp.double()).exp().float()


def _keys(canvas: Canvas, positions: np.ndarray) -> np.ndarray:
    """int64 [R, 4], keys of this pass's draws."""
    keys = np.empty((len(positions), 4), np.int64)
    keys[:, :2], keys[:, 2], keys[:, 3] = canvas.key, positions + (np.int64(canvas.clock) << 32), SAMPLE
    return keys


def rows_of(stats: VocabStats, begin: int, end: int) -> VocabStats:
    return VocabStats(stats.floats[begin:end], stats.ints[begin:end], None if stats.id_logits is None else stats.id_logits[begin:end])
