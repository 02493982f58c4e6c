"""Policies by the names of their papers."""

from __future__ import annotations

from typing import Any, Callable

from fastdecode.diffusion.caches import Delayed, DelayedGreedy, DelayedPrefillDecode, Dual
from fastdecode.diffusion.policies import (
    AdaptiveBlocks,
    AscendingSteps,
    Credit,
    EarlyCommit,
    EndDamping,
    EntropyBelow,
    FreeDraft,
    LearnedFilter,
    Policy,
    Threshold,
    WholeCanvas,
)

PRESETS: dict[str, Callable[[], dict[str, Any]]] = {
    "auto": lambda: {"unmask": Threshold(0.9), "cache": Dual()},
    "llada": lambda: {},
    "dkv-decode": lambda: {"cache": Delayed(8)},
    "dkv-greedy": lambda: {"scorer": "random", "cache": DelayedGreedy()},
    "dkv-pd": lambda: {"cache": DelayedPrefillDecode(4)},
    "fast-dllm": lambda: {"unmask": Threshold(0.9), "cache": Dual()},
    "adablock": lambda: {"blocks": AdaptiveBlocks(), "unmask": Threshold(0.9), "cache": Dual()},
    "freedave": lambda: {"drafts": FreeDraft(), "cache": Dual()},
    "prophet": lambda: {"early_commit": EarlyCommit()},
    "credit": lambda: {"unmask": Threshold(0.9), "credit": Credit()},
    "learn2pd": lambda: {"unmask": _filter()},
    "dparallel": lambda: {"scorer": "neg_entropy", "unmask": EntropyBelow(0.5)},
    "eoser-ass": lambda: {"blocks": WholeCanvas(), "steps": AscendingSteps(), "end_damping": EndDamping(0.01, 1.0, ascending=True)},
}


def _filter() -> LearnedFilter:
    raise ValueError("preset='learn2pd' needs a filter that was trained for the model: pass unmask=LearnedFilter(UnmaskFilter.load(path)), or use a model that brings one")


def make_policy(preset: str = "auto", **parts: Any) -> Policy:
    """The policy of a preset, with some of its parts replaced.

    Raises:
        ValueError: the preset is unknown, or the parts do not go together. TypeError: a part is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is unknown: use {', '.join(PRESETS)}")
    unknown = set(parts) - set(Policy.__dataclass_fields__)
    if unknown:
        raise TypeError(f"{', '.join(sorted(unknown))}: no part of a policy has this name; there are {', '.join(Policy.__dataclass_fields__)}")
    preset_parts = {} if preset == "learn2pd" and "unmask" in parts else PRESETS[preset]()
    return Policy(**{**preset_parts, **parts})
