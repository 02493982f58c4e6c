"""Drafters by name. A new one is a file, its test and a line in `DRAFTERS`."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from transformers import PreTrainedModel

from fastdecode import assets
from fastdecode.speculative.drafters.adaptive_trigram import AdaptiveTrigramDrafter
from fastdecode.speculative.drafters.alternating import AlternatingDrafter
from fastdecode.speculative.drafters.base import Budget, Drafter
from fastdecode.speculative.drafters.composite import CompositeDrafter
from fastdecode.speculative.drafters.eagle import EagleDrafter
from fastdecode.speculative.drafters.early_exit import EarlyExitDrafter
from fastdecode.speculative.drafters.model import ModelDrafter
from fastdecode.speculative.drafters.prompt_lookup import PromptLookupDrafter
from fastdecode.speculative.drafters.suffix import SuffixDrafter
from fastdecode.speculative.eagle_head import trained_for
from fastdecode.targets.base import TargetModel
from fastdecode.targets.native import NativeTarget

DRAFTERS = {"prompt_lookup": PromptLookupDrafter, "suffix": SuffixDrafter, "adaptive_trigram": AdaptiveTrigramDrafter, "early_exit": EarlyExitDrafter}
HEAD = "eagle"  # the trained head of the model at hand

__all__ = ["DRAFTERS", "AdaptiveTrigramDrafter", "AlternatingDrafter", "Budget", "CompositeDrafter", "Drafter", "EagleDrafter", "EarlyExitDrafter", "ModelDrafter", "PromptLookupDrafter", "SuffixDrafter", "make_drafter"]


def make_drafter(drafter: str | Drafter | PreTrainedModel | Sequence | None, target: TargetModel | None = None) -> Drafter | None:
    """A drafter from what a user may pass: a name, "auto", a drafter, a draft model, a list of these, or None.

    Args:
        target: what it drafts for: to what the text says, "auto" adds the head that was trained for this model, where one is installed, or
            else, in the compiled runtime, the model's own first layers.

    Raises:
        ValueError: the name is unknown, or there is no head for the target.
        TypeError: none of these.
    """
    if drafter is None or drafter == "none":
        return None
    if drafter == "auto":
        head = trained_head(target)
        if head:
            return CompositeDrafter([SuffixDrafter(), EagleDrafter(head)])
        return AlternatingDrafter(SuffixDrafter(), EarlyExitDrafter()) if isinstance(target, NativeTarget) and target.layers > 1 else SuffixDrafter()
    if drafter == HEAD:
        head = trained_head(target)
        if head is None:
            raise ValueError("drafter='eagle': no installed package brings a head for this model; install fastdecode-assets (pip install ./assets in the source tree), pass EagleDrafter(directory), or use drafter='suffix'")
        return EagleDrafter(head)
    if isinstance(drafter, str):
        if drafter not in DRAFTERS:
            raise ValueError(f"drafter={drafter!r} is unknown: use auto, none, {HEAD}, {', '.join(DRAFTERS)}, a draft model, a drafter or a list of them")
        return DRAFTERS[drafter]()
    if isinstance(drafter, PreTrainedModel):
        return ModelDrafter(drafter)
    if isinstance(drafter, (list, tuple)):
        members = [make_drafter(d, target) for d in drafter]
        members = [m.text if d == "auto" and isinstance(m, AlternatingDrafter) else m for d, m in zip(drafter, members)]  # what can be merged
        if None in members:
            raise ValueError(f"drafter[{members.index(None)}] is none; leave it out of the list, or pass drafter='none' to decode without drafts")
        return CompositeDrafter(members)
    if isinstance(drafter, type):
        raise TypeError(f"drafter is the class {drafter.__name__}; pass an object of it, e.g. {drafter.__name__}()")
    if not all(callable(getattr(drafter, method, None)) for method in ("begin", "propose", "observe", "end")):
        raise TypeError(f"drafter is {type(drafter).__name__}, expected a name, a transformers model, an object with begin/propose/observe/end, or a list of these")
    return drafter


def trained_head(target: TargetModel | None) -> Path | None:
    """The directory of the installed head that was trained for this model."""
    return next((path for path in assets.installed("heads") if target is not None and trained_for(path, target)), None)
