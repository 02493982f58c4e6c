"""FreeDave (arXiv:2510.00294): the states that come next are guessed from confidences and verified side by side in one pass."""

from __future__ import annotations

import numpy as np
import torch

from fastdecode import ops
from fastdecode.diffusion.caches import NoCache
from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.decoding import Chosen, Decoding
from fastdecode.diffusion.sampling import Proposals
from fastdecode.ops import Commits
from fastdecode.ops.unmask_commit import MASKED
from fastdecode.targets.active import ActiveRow


class DraftingDecoding(Decoding):
    """Decoding with drafts: a pass verifies the states with the surest 0, 1, 2, ... tokens more than the canvas has.

    The canvas itself is a draft that is certain. Another one is if all its tokens are in the successor of one that is: what a step
    of the policy makes of it. The pass over the last that is certain has then found the proposals for what comes next, so that
    nothing is computed twice. Drafts of row b have the rows b * depth, b * depth + 1, ... of slots and states.
    """

    def __init__(self, *args, **kwargs):
        self.known: dict[int, Chosen] = {}  # row -> proposals for the masks of its canvas, in a block that has been opened
        super().__init__(*args, **kwargs)

    def _parts(self, live: list[Canvas]) -> list[list[ActiveRow]]:
        known = joined([self.known.get(c.row) for c in self.canvases])
        begin, positions = torch.from_numpy(known.begin), torch.from_numpy(known.positions)
        self.drafts = ops.draft_states(known.ints, begin, positions, known.commits, self.tokens, self.changed, depth=self.branches, step=live[0].clock)
        return [[self._draft(c, k) for k in range(self.drafts.count[c.row])] for c in live]

    def _draft(self, canvas: Canvas, k: int) -> ActiveRow:
        tokens, changed = (states[canvas.row, k].numpy() for states in self.drafts[:2])
        masks = (np.flatnonzero(changed[canvas.start : canvas.stop] == MASKED) + canvas.start).astype(np.int32)
        return self._active_row(canvas, canvas.row * self.branches + k, tokens, masks if canvas.row in self.known else self._wanted(canvas))

    def _settle(self, live: list[Canvas], owners: list[Canvas], parts: list[ActiveRow], proposals: Proposals) -> None:
        tokens, changed = (states.clone() for states in self.drafts[:2])
        chosen = self._commit(owners, parts, proposals, tokens.flatten(0, 1), changed.flatten(0, 1))
        reached = ops.verify_states(self.drafts, tokens, changed).tolist()
        for canvas in live:
            last = reached[canvas.row]
            canvas.tokens[:], canvas.changed[:] = (states[canvas.row, last, : canvas.length].numpy() for states in (tokens, changed))
            self._follow(canvas, chosen, last)

    def _follow(self, canvas: Canvas, chosen: Chosen, last: int) -> None:
        """Keeps books of what the canvas has become by its draft `last` and the step from there."""
        row, known = canvas.row * self.branches + last, self.known.get(canvas.row)
        if known is not None:
            sure = int(known.commits.chosen[0])
            self._log(canvas, *known.best(0, sure, sure + last))
            canvas.stats.record_drafts(int(self.drafts.count[canvas.row]) - 1, last)
        elif not isinstance(self.policy.cache, NoCache):
            self._copy_slots(canvas)
        self.known[canvas.row] = chosen.of(row)
        self._log(canvas, *chosen.best(row, 0, int(chosen.commits.chosen[row])))
        self._advance(canvas, chosen.finish(row))

    def _copy_slots(self, canvas: Canvas) -> None:
        """What the pass that opens a block has computed is what all drafts see."""
        first = canvas.row * self.branches
        for source in (first, self.rows + first) if self.policy.sampling.cfg_scale else (first,):
            for branch in range(1, self.branches):
                self.target.copy_slots(self.slots, source, source + branch, canvas.length)

    def _next_block(self, canvas: Canvas) -> None:
        self.known.pop(canvas.row, None)
        super()._next_block(canvas)


def joined(parts: list[Chosen | None]) -> Chosen:
    """Of one state each (None: without proposals), as states of one batch."""
    sizes = [0 if part is None else len(part.positions) for part in parts]
    parts = [part or EMPTY for part in parts]
    commits = Commits(*(torch.cat([part.commits[i] for part in parts]) for i in range(4)))
    return Chosen(torch.cat([part.ints for part in parts]), np.concatenate([part.positions for part in parts]), np.cumsum([0, *sizes]).astype(np.int32), commits)


_NONE = torch.empty(0, dtype=torch.int32)
EMPTY = Chosen(_NONE.view(0, 2), np.empty(0, np.int32), np.zeros(2, np.int32), Commits(torch.empty(0), _NONE, torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)))
