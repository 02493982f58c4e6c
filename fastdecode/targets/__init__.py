"""Target models: how a model runs over draft trees."""

from __future__ import annotations

import logging

from transformers import PreTrainedModel

from fastdecode.errors import UnsupportedModelError
from fastdecode.targets.base import TargetModel
from fastdecode.targets.hf import HFTarget
from fastdecode.targets.native import NativeTarget


def log_fallback(name: str, reason: UnsupportedModelError) -> None:
    """One line that says why a model does not run in the compiled runtime."""
    why = str(reason)
    logging.getLogger("fastdecode").warning("%s runs through transformers: %s", name, why.partition(": ")[2].partition(";")[0] or why)


def make_target(target: str | TargetModel, model: PreTrainedModel, weights: str = "auto") -> TargetModel:
    """The target of that name, or the object itself; "auto" is the compiled runtime for models on the CPU that it knows, else transformers.

    Args:
        weights: as for `NativeTarget`; transformers computes with the weights that the model has, whatever this says in a
            fallback of "auto".
    """
    if not isinstance(target, str):
        if isinstance(target, type) or not all(callable(getattr(target, method, None)) for method in ("new_state", "prefill", "forward", "commit")):
            raise TypeError(f"target is {target!r}, expected auto, native, hf or an object with new_state/prefill/forward/commit, e.g. NativeTarget.from_pretrained(...)")
        return target
    if target not in ("auto", "native", "hf"):
        raise ValueError(f"target={target!r} is unknown: use auto, native or hf")
    if target == "hf":
        if weights != "auto":
            raise ValueError(f"weights={weights!r} needs the compiled runtime; use target='native' or 'auto', or load the model in another dtype")
        return HFTarget(model)
    if target == "native":
        return NativeTarget(model, weights)
    if isinstance(model, PreTrainedModel) and model.device.type == "cpu":
        try:
            return NativeTarget(model, weights)
        except UnsupportedModelError as reason:
            fallback = HFTarget(model)
            log_fallback(type(model).__name__, reason)
            return fallback
    return HFTarget(model)
