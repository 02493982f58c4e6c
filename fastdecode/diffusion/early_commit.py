"""Prophet (arXiv:2508.19982): committing everything at once when the answer's tokens lead by far."""

from __future__ import annotations

import numpy as np
import torch

from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.policy import Policy
from fastdecode.ops import VocabStats


def answer_positions(policy: Policy, canvas: Canvas) -> np.ndarray:
    """int32, ascending: positions whose proposals are looked at."""
    offsets = policy.early_commit.answer
    if offsets is None:
        return np.arange(canvas.start, canvas.stop, dtype=np.int32)
    return np.asarray(sorted({min(canvas.prompt + o, canvas.length - 1) for o in offsets}), np.int32)


def wanted_positions(policy: Policy, canvas: Canvas) -> np.ndarray:
    """int32, ascending: positions whose proposals a pass needs."""
    reach = canvas.masked(canvas.start, canvas.length) if policy.cache.refreshes(canvas) else canvas.open_positions
    return np.union1d(reach, answer_positions(policy, canvas)).astype(np.int32)


def commits_all(policy: Policy, canvas: Canvas, where: np.ndarray, stats: VocabStats) -> bool:
    """Whether all masks of a canvas become tokens now; only where every one of them was proposed for, at the positions `where`."""
    answer = torch.from_numpy(np.isin(where, answer_positions(policy, canvas)))
    gap = float((stats.top1 - stats.top2)[answer].double().mean())
    progress = (canvas.clock + 1) / max(1, canvas.steps)
    complete = np.isin(canvas.masked(canvas.prompt, canvas.length), where).all()
    return bool(complete and gap >= policy.early_commit.bar(progress))

