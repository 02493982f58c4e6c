"""How close an order of commits is to left to right (DiffuCoder, arXiv:2506.20639)."""

from __future__ import annotations

from typing import Sequence


def local_ar_ness(order: Sequence[int], k: int = 1) -> float:
    """Share of commits whose k predecessors in time are its k predecessors in place; 0 for an empty order."""
    matches = sum(set(order[t - k : t]) == {p - i for i in range(1, k + 1)} for t, p in enumerate(order) if t >= k)
    return matches / len(order) if order else 0.0


def global_ar_ness(order: Sequence[int], k: int = 1) -> float:
    """Share of commits that took one of the k leftmost masks there were; 0 for an empty order."""
    left, matches = sorted(order), 0
    for p in order:
        matches += p in left[:k]
        left.remove(p)
    return matches / len(order) if order else 0.0
