"""Arguments and texts of a call, checked and cut."""

from __future__ import annotations

from typing import Sequence

import torch


def seed_or_random(seed: int | None) -> int:
    if seed is None:
        return int(torch.randint(2**62, ()))
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r} must be an integer from 0 to 2**63 - 1")
    return seed


def stop_list(stop: Sequence[str] | str | None) -> list[str]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, (list, tuple, set, frozenset)) or not all(isinstance(s, str) and s for s in stops):
        raise ValueError(f"stop={stop!r} must be a non-empty string or a list of them")
    return list(stops)


def cut_at_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text up to the first stop string in it, and whether there is one."""
    cut = min((text.find(s) for s in stops if s in text), default=None)
    return (text, False) if cut is None else (text[:cut], True)


def with_masks(tokenizer, ids: list[int | None], mask: str) -> str:
    """Text with masks: runs of tokens are decoded together."""
    pieces, run = [], []
    for token in [*ids, None]:
        if token is not None:
            run.append(token)
            continue
        pieces.append(tokenizer.decode(run, skip_special_tokens=True) if run else "")
        pieces.append(mask)
        run = []
    return "".join(pieces[:-1])
