"""Checkpoints of masked-diffusion models whose transformer is a known one under other names, with attention in both directions.

They are read by names and configuration alone; code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable

import torch
from transformers import Glm4MoeConfig, LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast, PretrainedConfig, Qwen2Config, Qwen2TokenizerFast, Qwen3MoeConfig

from fastdecode.errors import UnsupportedModelError


Get = Callable[[str], torch.Tensor]  # a tensor of the checkpoint by its name


@dataclass(frozen=True)
class Layout:
    """How a checkpoint maps to a model of transformers.

    Attributes:
        config: from the checkpoint's configuration to one of transformers.
        rename: from the name of a parameter to that of a tensor in the checkpoint.
        mask_id: where the configuration does not say.
        delimiters: ids of tokens that end a line.
        tokenizer: the class that reads its tokenizer's files; what a checkpoint names itself may be code of its own.
        shift: 1 where the output of position j - 1 proposes the token of j, as in models that were adapted from causal ones.
        end_of_turn: id that ends a turn of a chat, where the configuration does not say.
        block_length: key of the configuration and default, for models whose tokens see no later block.
        assemble: for parameters that are made of several tensors or of a part of one: from name, configuration and checkpoint
            to the tensor, None where `rename` is all.
    """

    config: Callable[[dict[str, Any]], PretrainedConfig]
    rename: Callable[[str], str]
    mask_id: int
    delimiters: tuple[int, ...]
    tokenizer: type[PreTrainedTokenizerBase]
    shift: int = 0
    end_of_turn: int | None = None
    block_length: tuple[str, int] | None = None
    assemble: Callable[[str, PretrainedConfig, Get], torch.Tensor | None] = lambda name, config, get: None


_LLADA_NAMES = {
    "self_attn.q_proj": "q_proj", "self_attn.k_proj": "k_proj", "self_attn.v_proj": "v_proj", "self_attn.o_proj": "attn_out",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj", "mlp.down_proj": "ff_out",
}  # fmt: skip
_LLADA_TOP = {"model.embed_tokens": "wte", "model.norm": "ln_f", "lm_head": "ff_out"}  # ff_out is the head there and the down projection in a block
_LLADA_REFUSED = {"include_bias": False, "include_qkv_bias": False, "input_emb_norm": False, "scale_logits": False, "attention_layer_norm": False, "rope": True, "block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu"}


def _llada_config(raw: dict[str, Any]) -> LlamaConfig:
    """LLaDA (arXiv:2502.09992) has the transformer of Llama and the configuration of OLMo."""
    for key, expected in _LLADA_REFUSED.items():
        if key in raw and (raw[key] or False) != expected:
            raise UnsupportedModelError(f"its configuration has {key}={raw[key]!r}; only {expected!r} is known")
    heads = raw["n_heads"]
    return LlamaConfig(
        vocab_size=raw.get("embedding_size") or raw["vocab_size"], hidden_size=raw["d_model"], num_hidden_layers=raw["n_layers"], num_attention_heads=heads,
        num_key_value_heads=raw.get("n_kv_heads") or heads, intermediate_size=raw.get("mlp_hidden_size") or raw["mlp_ratio"] * raw["d_model"],
        rms_norm_eps=raw.get("rms_norm_eps", 1e-5), rope_parameters={"rope_type": "default", "rope_theta": raw["rope_theta"]},
        max_position_embeddings=raw["max_sequence_length"], tie_word_embeddings=bool(raw.get("weight_tying")), dtype=raw.get("torch_dtype") or raw.get("dtype") or "bfloat16",
    )  # fmt: skip


def _llada_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module in _LLADA_TOP:
        return f"model.transformer.{_LLADA_TOP[module]}.{kind}"
    block, part = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module).groups()
    return f"model.transformer.blocks.{block}.{_LLADA_NAMES[part]}.{kind}"


def _dream_config(raw: dict[str, Any]) -> Qwen2Config:
    """Dream (arXiv:2508.15487) has the transformer, names and configuration of Qwen2."""
    known = Qwen2Config().to_dict()
    return Qwen2Config(**{key: value for key, value in raw.items() if key in known and key not in ("model_type", "architectures", "auto_map")})


_DREAM_LINES = (198, 271, 280, 319, 340, 382, 401, 532, 624, 630, 692, 698, 921, 1248, 1837, 1939, 2219, 2533, 3276, 3876, 4894, 5267, 14750, 68327)


def _stacked_experts(name: str, experts: int, get: Get) -> torch.Tensor | None:
    """transformers keeps the experts of a layer in one tensor, gates above ups; checkpoints have them one by one."""
    prefix, _, part = name.rpartition(".experts.")
    one = lambda e, projection: get(f"{prefix}.experts.{e}.{projection}.weight")
    if part == "gate_up_proj":
        return torch.stack([torch.cat([one(e, "gate_proj"), one(e, "up_proj")]) for e in range(experts)])
    return torch.stack([one(e, "down_proj") for e in range(experts)]) if part == "down_proj" else None


def _rope(raw: dict[str, Any], **more: Any) -> dict[str, Any]:
    if raw.get("rope_scaling"):
        raise UnsupportedModelError(f"its configuration has rope_scaling={raw['rope_scaling']!r}; only None is known")
    return {"rope_type": "default", "rope_theta": raw["rope_theta"], **more}


_SHARED_KEYS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps", "max_position_embeddings", "num_experts_per_tok", "norm_topk_prob", "tie_word_embeddings")


def _moe_keys(raw: dict[str, Any], **expected: Any) -> dict[str, Any]:
    for key, value in expected.items():
        if key in raw and raw[key] != value:
            raise UnsupportedModelError(f"its configuration has {key}={raw[key]!r}; only {value!r} is known")
    heads = raw["num_attention_heads"]
    sizes = {"num_key_value_heads": raw.get("num_key_value_heads") or heads, "head_dim": raw.get("head_dim") or raw["hidden_size"] // heads}
    return {key: raw[key] for key in _SHARED_KEYS if key in raw} | sizes | {"dtype": raw.get("torch_dtype") or raw.get("dtype") or "bfloat16"}


def _llada_moe_config(raw: dict[str, Any]) -> Qwen3MoeConfig:
    """LLaDA-MoE has the transformer of Qwen3-MoE: norms of every head, a softmax router."""
    if raw.get("shared_expert_intermediate_size"):
        raise UnsupportedModelError(f"its configuration has shared_expert_intermediate_size={raw['shared_expert_intermediate_size']!r}; only models without shared experts are known")
    frequency = raw.get("moe_layer_freq") or []
    return Qwen3MoeConfig(
        **_moe_keys(raw, qk_layernorm=True, attention_bias=False), intermediate_size=raw.get("dense_intermediate_size") or raw["intermediate_size"], moe_intermediate_size=raw["expert_intermediate_size"],
        num_experts=raw["num_experts"], mlp_only_layers=[i for i, sparse in enumerate(frequency) if not sparse], rope_parameters=_rope(raw),
    )  # fmt: skip


def _llada2_config(raw: dict[str, Any]) -> Glm4MoeConfig:
    """LLaDA2 has the transformer of GLM-4 MoE: sigmoid router with groups, shared experts, a rotary part of every head."""
    keys = ("intermediate_size", "moe_intermediate_size", "n_group", "topk_group", "routed_scaling_factor", "first_k_dense_replace")
    return Glm4MoeConfig(
        **_moe_keys(raw, use_qk_norm=True, use_bias=False, use_qkv_bias=False, score_function="sigmoid"), **{key: raw[key] for key in keys if key in raw},
        n_routed_experts=raw["num_experts"], n_shared_experts=raw.get("num_shared_experts") or 1, use_qk_norm=True, rope_parameters=_rope(raw, partial_rotary_factor=raw.get("partial_rotary_factor", 0.5)),
    )  # fmt: skip


_LLADA2_NAMES = {"self_attn.o_proj": "attention.dense", "self_attn.q_norm": "attention.query_layernorm", "self_attn.k_norm": "attention.key_layernorm", "gate.e_score_correction_bias": "gate.expert_bias", "embed_tokens": "word_embeddings"}


def _llada2_name(name: str) -> str:
    for ours, theirs in _LLADA2_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _llada2_tensor(name: str, config: PretrainedConfig, get: Get) -> torch.Tensor | None:
    prefix, _, part = name.rpartition(".self_attn.")
    if part in ("q_proj.weight", "k_proj.weight", "v_proj.weight"):
        heads = config.num_attention_heads * config.head_dim, *[config.num_key_value_heads * config.head_dim] * 2
        return get(f"{prefix}.attention.query_key_value.weight").split(heads)["qkv".index(part[0])].contiguous()
    return _stacked_experts(name, config.n_routed_experts, get)


LAYOUTS = {
    "llada": Layout(_llada_config, _llada_name, 126336, (198,), PreTrainedTokenizerFast, end_of_turn=126348),
    "llada_moe": Layout(_llada_moe_config, str, 156895, (198,), PreTrainedTokenizerFast, assemble=lambda name, config, get: _stacked_experts(name, config.num_experts, get)),
    "llada2_moe": Layout(_llada2_config, _llada2_name, 156895, (198,), PreTrainedTokenizerFast, block_length=("block_size", 32), assemble=_llada2_tensor),
    "Dream": Layout(_dream_config, str, 151666, _DREAM_LINES, Qwen2TokenizerFast, shift=1, end_of_turn=151645),
    "Fast_dLLM_Qwen": Layout(_dream_config, str, 151665, _DREAM_LINES, Qwen2TokenizerFast, shift=1, block_length=("bd_size", 32)),
}


def layout_of(name_or_path: str) -> tuple[Layout | None, dict[str, Any]]:
    """The layout of a checkpoint if it is a masked-diffusion model, and its configuration as it stands in the file."""
    raw, _ = PretrainedConfig.get_config_dict(name_or_path)
    kind = raw.get("model_type", "")
    if kind == "llada" and "num_experts" in raw:
        kind = "llada_moe"
    return LAYOUTS.get(kind), raw
