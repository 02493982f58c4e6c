"""Drafters by name. A new one is a file, its test and a line in `DRAFTERS`."""

from __future__ import annotations

from typing import Sequence

from transformers import PreTrainedModel

from fastdecode.speculative.drafters.base import Budget, Drafter
from fastdecode.speculative.drafters.composite import CompositeDrafter
from fastdecode.speculative.drafters.eagle import EagleDrafter
from fastdecode.speculative.drafters.model import ModelDrafter
from fastdecode.speculative.drafters.prompt_lookup import PromptLookupDrafter
from fastdecode.speculative.drafters.suffix import SuffixDrafter

DRAFTERS = {"prompt_lookup": PromptLookupDrafter, "suffix": SuffixDrafter}

__all__ = ["DRAFTERS", "Budget", "CompositeDrafter", "Drafter", "EagleDrafter", "ModelDrafter", "PromptLookupDrafter", "SuffixDrafter", "make_drafter"]


def make_drafter(drafter: str | Drafter | PreTrainedModel | Sequence | None) -> Drafter | None:
    """A drafter from what a user may pass: a name, "auto", a drafter, a draft model, a list of these, or None.

    Raises:
        ValueError: the name is unknown.
        TypeError: none of these.
    """
    if drafter is None or drafter == "none":
        return None
    if isinstance(drafter, str):
        name = "suffix" if drafter == "auto" else drafter
        if name not in DRAFTERS:
            raise ValueError(f"drafter={drafter!r} is unknown: use auto, none, {', '.join(DRAFTERS)}, a draft model, a drafter or a list of them")
        return DRAFTERS[name]()
    if isinstance(drafter, PreTrainedModel):
        return ModelDrafter(drafter)
    if isinstance(drafter, (list, tuple)):
        members = [make_drafter(d) for d in drafter]
        if None in members:
            raise ValueError(f"drafter[{members.index(None)}] is none; leave it out of the list, or pass drafter='none' to decode without drafts")
        return CompositeDrafter(members)
    if isinstance(drafter, type):
        raise TypeError(f"drafter is the class {drafter.__name__}; pass an object of it, e.g. {drafter.__name__}()")
    if not all(callable(getattr(drafter, method, None)) for method in ("begin", "propose", "observe", "end")):
        raise TypeError(f"drafter is {type(drafter).__name__}, expected a name, a transformers model, an object with begin/propose/observe/end, or a list of these")
    return drafter
