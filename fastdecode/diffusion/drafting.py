"""FreeDave (arXiv:2510.00294): the states that come next are guessed from confidences and verified side by side in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastdecode import ops
from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.decoding import Decoding, rows_of
from fastdecode.diffusion.caches import NoCache
from fastdecode.ops import VocabStats
from fastdecode.ops.unmask_commit import MASKED
from fastdecode.targets.active import ActiveRow


@dataclass
class Proposals:
    """What a pass proposes for the masks of a state of a canvas.

    Attributes:
        positions: int32 [m], ascending. ids: int32 [m].
        order: int [m], indices from best to worst. scores: float32 [m].
        sure: how many of the best one step of the policy commits.
    """

    positions: np.ndarray
    ids: np.ndarray
    order: np.ndarray
    scores: np.ndarray
    sure: int

    def next_tokens(self) -> dict[int, int]:
        """Position -> id of what one step commits."""
        best = self.order[: self.sure]
        return dict(zip(self.positions[best].tolist(), self.ids[best].tolist()))


class DraftingDecoding(Decoding):
    """Decoding with drafts: a pass verifies D(1), D(2), ..., the states with the surest 1, 2, ... tokens more.

    D(1) is the next state for certain. D(j) is, if all its tokens are in U(a), the successor of a state D(a) that is. The pass over
    D(a) has then found the proposals for it, so that nothing is computed twice.
    """

    def __init__(self, *args, **kwargs):
        self.known: dict[int, Proposals] = {}
        self.drafts: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        super().__init__(*args, **kwargs)

    def _parts(self, canvas: Canvas) -> list[ActiveRow]:
        known = self.known.get(canvas.row)
        if known is None:
            return [self._active_row(canvas)]
        drafts = self.drafts[canvas.row] = self._draft(canvas, known)
        wanted = [canvas.start + np.flatnonzero(changed[canvas.start : canvas.stop] == MASKED).astype(np.int32) for _, changed in drafts]
        return [self._active_row(canvas, tokens, w, branch) for branch, ((tokens, _), w) in enumerate(zip(drafts, wanted))]

    def _draft(self, canvas: Canvas, known: Proposals) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokens and `changed` of D(1), which is what the canvas holds, D(2), ...; one mask at least is left in each."""
        result = []
        for count in range(known.sure, min(known.sure + self.branches, len(known.positions))):
            tokens, changed = canvas.tokens.copy(), canvas.changed.copy()
            new = known.order[:count]
            tokens[known.positions[new]] = known.ids[new]
            changed[known.positions[new]] = canvas.clock
            result.append((tokens, changed))
        return result

    def _settle(self, live: list[Canvas], owned: list[list[ActiveRow]], stats: VocabStats) -> None:
        first = 0
        for canvas, own in zip(live, owned):
            sizes = np.cumsum([0, *(len(p.wanted) for p in own)]) + first
            first = sizes[-1]
            found = rows_of(stats, sizes[0], first)
            if canvas.row in self.known:
                self._accept(canvas, own, found, sizes - sizes[0])
            else:
                self._first(canvas, own[0], found)
            canvas.clock += 1
            canvas.step += 1
            if canvas.finish_reason is None and len(canvas.open_positions) == 0:
                del self.known[canvas.row]
                self._next_block(canvas)

    def _first(self, canvas: Canvas, part: ActiveRow, stats: VocabStats) -> None:
        """After the pass that opens a block."""
        where = self._proposed(canvas, part)
        if canvas.step == 0:
            self.blocks.settle_length(canvas, stats, where)
        inside = np.flatnonzero((where >= canvas.start) & (where < canvas.stop))
        stats = VocabStats(stats.floats[inside], stats.ints[inside])
        self._keep(canvas, self._propose([canvas.changed], [where[inside]], stats)[0])
        if not isinstance(self.policy.cache, NoCache):
            for branch in range(1, self.branches):
                self.target.copy_slots(self.slots, canvas.row * self.branches, canvas.row * self.branches + branch, canvas.length)

    def _accept(self, canvas: Canvas, own: list[ActiveRow], stats: VocabStats, sizes: np.ndarray) -> None:
        """Follows the chain of drafts that are successors of each other."""
        drafts, known = self.drafts.pop(canvas.row), self.known[canvas.row]
        found = self._propose([changed for _, changed in drafts], [self._proposed(canvas, p) for p in own], stats)
        reached = 0  # index of D(1)
        while True:
            step = found[reached].next_tokens()
            further = reached
            for later in range(reached + 1, len(drafts)):
                added = known.order[known.sure + reached : known.sure + later]
                if all(step.get(int(known.positions[i])) == int(known.ids[i]) for i in added):
                    further = later
            if further == reached:
                break
            reached = further
        self._write(canvas, known, known.sure, known.sure + reached)
        canvas.stats.record_drafts(len(drafts) - 1, reached)
        self._keep(canvas, found[reached])

    def _keep(self, canvas: Canvas, known: Proposals) -> None:
        """Writes what is certain and keeps the rest as drafts of the next pass."""
        if canvas.finish_reason is None:
            self.known[canvas.row] = known
            self._write(canvas, known, 0, known.sure)

    def _propose(self, states: list[np.ndarray], positions: list[np.ndarray], stats: VocabStats) -> list[Proposals]:
        """Scores what was proposed for the masks of some states."""
        changed = torch.from_numpy(np.stack(states))
        counts = np.cumsum([0, *map(len, positions)]).astype(np.int32)
        unmask = self.policy.unmask
        commits = ops.unmask_commit(
            stats, torch.from_numpy(counts), torch.from_numpy(np.concatenate(positions)), torch.empty_like(changed), changed, quota=torch.ones(len(states), dtype=torch.int32), step=0,
            scorer=self.policy.scorer, rule=unmask.rule, bar=unmask.bar,
        )  # fmt: skip
        ids, scores, rank = stats.ints[:, 1].numpy(), commits.scores.numpy(), commits.rank.numpy()
        cut = lambda values, i: values[counts[i] : counts[i + 1]]
        return [Proposals(p, cut(ids, i), np.argsort(cut(rank, i)), cut(scores, i), int(n)) for i, (p, n) in enumerate(zip(positions, commits.chosen.tolist()))]

    def _write(self, canvas: Canvas, known: Proposals, begin: int, end: int) -> None:
        new = known.order[begin:end]
        canvas.latest = known.positions[new]
        canvas.tokens[canvas.latest] = known.ids[new]
        canvas.changed[canvas.latest] = canvas.clock
        canvas.commits += [(int(known.positions[i]), canvas.clock, float(known.scores[i])) for i in new]
        self._end_at_eos(canvas)
