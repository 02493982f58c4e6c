"""Policies by the names of their papers."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from fastdecode.diffusion.caches import BlockCausal, Delayed, DelayedGreedy, DelayedPrefillDecode, Dual
from fastdecode.diffusion.policies import (
    AdaptiveBlocks,
    AscendingSteps,
    Credit,
    EarlyCommit,
    EndDamping,
    EntropyBelow,
    FreeDraft,
    LearnedFilter,
    SubBlocks,
    Threshold,
    WholeCanvas,
)
from fastdecode.diffusion.policy import Policy
from fastdecode.diffusion.sampling import Sampling


class Preset(NamedTuple):
    """A policy by the name of its paper.

    Attributes:
        parts: makes what differs from one token per step without a cache.
        what: for the documentation.
        source: where it is described.
    """

    parts: Callable[[], dict[str, Any]]
    what: str
    source: str


PRESETS: dict[str, Preset] = {
    "auto": Preset(lambda: {"unmask": Threshold(0.9)}, "All tokens with confidence 0.9 or more; everything computed again, so that nothing but haste can cost quality", "arXiv:2505.22618"),
    "llada": Preset(lambda: {}, "One token per step, the most confident one; everything computed again", "arXiv:2502.09992"),
    "dkv-decode": Preset(lambda: {"cache": Delayed(8)}, "One token per step; tokens are cached one step after they were committed", "arXiv:2505.15781"),
    "dkv-greedy": Preset(lambda: {"scorer": "random", "cache": DelayedGreedy()}, "Random order; only what is committed now or was last, and some masks beside it, is computed", "arXiv:2505.15781"),
    "dkv-pd": Preset(lambda: {"cache": DelayedPrefillDecode(4)}, "As dkv-decode, with a prompt that is computed once", "arXiv:2505.15781"),
    "fast-dllm": Preset(lambda: {"unmask": Threshold(0.9), "cache": Dual()}, "Confidence threshold, dual cache", "arXiv:2505.22618"),
    "fast-dllm-v2": Preset(lambda: {"blocks": SubBlocks(), "unmask": Threshold(0.9), "cache": BlockCausal(parts=True)}, "Parts of 8 of a block-causal model's blocks, confidence threshold, a cache inside blocks", "arXiv:2509.26328"),
    "dream": Preset(lambda: {"blocks": WholeCanvas(), "scorer": "neg_entropy", "sampling": Sampling(temperature=0.2, top_p=0.95)}, "Dream's sampler: nucleus sampling, least entropy first, over the whole canvas", "arXiv:2508.15487"),
    "adablock": Preset(lambda: {"blocks": AdaptiveBlocks(), "unmask": Threshold(0.9), "cache": Dual()}, "Blocks that end where a line ends", "arXiv:2509.26432"),
    "freedave": Preset(lambda: {"drafts": FreeDraft(), "cache": Dual()}, "The next states are drafted and verified in one pass: the text of one token per step", "arXiv:2510.00294"),
    "prophet": Preset(lambda: {"early_commit": EarlyCommit()}, "Commits everything once the leading tokens are far ahead", "arXiv:2508.19982"),
    "credit": Preset(lambda: {"unmask": Threshold(0.9), "credit": Credit()}, "Tokens that keep coming up get a bonus", "arXiv:2510.06133"),
    "learn2pd": Preset(lambda: {"unmask": _filter()}, "A trained filter says which proposals are final", "arXiv:2509.25188"),
    "dparallel": Preset(lambda: {"scorer": "neg_entropy", "unmask": EntropyBelow(0.5)}, "Entropy threshold", "arXiv:2509.26488"),
    "eoser-ass": Preset(lambda: {"blocks": WholeCanvas(), "steps": AscendingSteps(), "end_damping": EndDamping(0.01, 1.0, ascending=True)}, "1, 2, 4, ... tokens per step, EOS damped at first", "arXiv:2509.23924"),
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
    preset_parts = {} if preset == "learn2pd" and "unmask" in parts else PRESETS[preset].parts()
    return Policy(**{**preset_parts, **parts})
