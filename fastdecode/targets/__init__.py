"""Target models: how a model runs over draft trees."""

from __future__ import annotations

import logging

from transformers import PreTrainedModel

from fastdecode.errors import UnsupportedModelError
from fastdecode.targets.base import TargetModel
from fastdecode.targets.hf import HFTarget
from fastdecode.targets.native import NativeTarget

TARGETS = {"native": NativeTarget, "hf": HFTarget}


def make_target(target: str, model: PreTrainedModel) -> TargetModel:
    """The target of that name; "auto" is the compiled runtime for models on the CPU that it knows, else transformers."""
    if target != "auto" and target not in TARGETS:
        raise ValueError(f"target={target!r} is unknown: use auto, native or hf")
    if target != "auto":
        return TARGETS[target](model)
    if isinstance(model, PreTrainedModel) and model.device.type == "cpu":
        try:
            return NativeTarget(model)
        except UnsupportedModelError as reason:
            fallback = HFTarget(model)
            logging.getLogger("fastdecode").warning("%s runs through transformers: %s", type(model).__name__, str(reason).partition(": ")[2].partition(";")[0])
            return fallback
    return HFTarget(model)
