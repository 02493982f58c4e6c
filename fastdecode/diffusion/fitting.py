"""What a diffusion generator is made of, fitted to its model: the target, the filter, the blocks."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import cached_file

from fastdecode.diffusion.caches import BlockCausal
from fastdecode.diffusion.facts import Facts
from fastdecode.diffusion.policies import AdaptiveBlocks, AscendingSteps, FixedBlocks, LearnedFilter, SubBlocks
from fastdecode.diffusion.policy import Policy
from fastdecode.diffusion.sampling import Sampling
from fastdecode.errors import UnsupportedModelError
from fastdecode.ops.vocab_stats import MAX_BANNED, MAX_IDS
from fastdecode.targets import log_fallback
from fastdecode.targets.active import DiffusionTarget
from fastdecode.targets.hf_diffusion import HFDiffusionTarget
from fastdecode.targets.native import NativeTarget
from fastdecode.training.unmask_filter import UnmaskFilter

FILTER_FILE = "unmask_filter.safetensors"


def config_of(model: PreTrainedModel | DiffusionTarget):
    """Configuration of the model behind it, if there is one."""
    return getattr(model if isinstance(model, PreTrainedModel) else getattr(model, "model", None), "config", None)


def own_filter(name_or_path: str) -> LearnedFilter:
    """The unmask filter that a checkpoint brings. Raises ValueError where it brings none."""
    path = cached_file(name_or_path, FILTER_FILE, _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise ValueError(f"preset='learn2pd' needs a filter that was trained for the model and {name_or_path} has no {FILTER_FILE}; pass unmask=LearnedFilter(UnmaskFilter.load(path)), or train one with fastdecode train filter")
    return LearnedFilter(UnmaskFilter.load(path))


def target_of(target: str, model, weights: str) -> DiffusionTarget:
    """Runs a model: compiled, or by its own modules. Arguments as for `DiffusionGenerator`."""
    if target not in ("auto", "native", "hf"):
        raise ValueError(f"target={target!r} is unknown: use auto, native or hf")
    if getattr(getattr(model, "config", None), "model_type", "") == "diffusion_gemma":
        raise UnsupportedModelError(f"{type(model).__name__} denoises random tokens and has no masks; use DiffusionGemmaGenerator")
    if not isinstance(model, PreTrainedModel):
        if not all(callable(getattr(model, method, None)) for method in ("new_slots", "forward_active", "logits_active", "copy_slots")):
            raise TypeError(f"model is {type(model).__name__}, expected a transformers PreTrainedModel or a DiffusionTarget; DiffusionGenerator.from_pretrained loads a checkpoint")
        return model
    if target == "native":
        return NativeTarget(model, weights)
    if target == "auto" and model.device.type == "cpu":
        try:
            return NativeTarget(model, weights)
        except UnsupportedModelError as reason:
            log_fallback(type(model).__name__, reason)
    return HFDiffusionTarget(model)


def own_parts(policy: Policy, facts: Facts) -> dict[str, Any]:
    """What a model whose tokens see no later block needs in the place of a policy's parts."""
    if facts.block_length is None:
        return {}
    parts = {} if isinstance(policy.cache, BlockCausal) else {"cache": BlockCausal()}
    return parts if isinstance(policy.blocks, SubBlocks) else {**parts, "blocks": FixedBlocks(facts.block_length)}


def check_fit(policy: Policy, facts: Facts) -> None:
    """Raises ValueError where the parts of a policy do not fit the model; gives adaptive blocks the model's delimiters."""
    causal = isinstance(policy.cache, BlockCausal)
    if causal != (facts.block_length is not None):
        raise ValueError("cache=BlockCausal is exact for models whose tokens see no later block, and they need it; this model has " + (f"blocks of {facts.block_length}" if facts.block_length else "no such blocks (block_length=None)"))
    if causal and isinstance(policy.blocks, SubBlocks) and facts.block_length % policy.blocks.length:
        raise ValueError(f"blocks={policy.blocks} does not divide the model's blocks of {facts.block_length}; use a length that does")
    if causal and isinstance(policy.blocks, FixedBlocks) and policy.blocks.length != facts.block_length:
        raise ValueError(f"blocks={policy.blocks} does not fit the model's blocks of {facts.block_length}")
    if isinstance(policy.blocks, AdaptiveBlocks) and not (policy.blocks.delimiters or facts.delimiters):
        raise ValueError("blocks=AdaptiveBlocks needs delimiters: the model names none; pass AdaptiveBlocks(delimiters=(...,))")
    if isinstance(policy.blocks, AdaptiveBlocks) and not policy.blocks.delimiters:
        object.__setattr__(policy, "blocks", dataclasses.replace(policy.blocks, delimiters=facts.delimiters))
    _check_ends(policy.sampling, facts)
    if isinstance(policy.steps, AscendingSteps) and policy.end_damping and not facts.eos:
        raise ValueError("end_damping needs eos_token_id, which the model does not name; pass eos_token_id=")


def _check_ends(sampling: Sampling, facts: Facts) -> None:
    for name, most in (("logits_eos_inf", MAX_BANNED - 1), ("confidence_eos_eot_inf", MAX_IDS)):
        value, ends = getattr(sampling, name), len({*facts.eos, *facts.end_of_turn})
        if value and not facts.eos:
            raise ValueError(f"{name}={value!r} needs the id that ends a text, which the model does not name; pass eos_token_id=")
        if value and ends > most:
            raise ValueError(f"{name}={value!r} works for at most {most} ids that end a text or a turn, there are {ends}; pass fewer as eos_token_id=")
