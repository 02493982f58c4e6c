"""Checkpoints of masked-diffusion models whose transformer is a known one under other names, with attention in both directions.

They are read by names and configuration alone; code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable

from transformers import LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast, PretrainedConfig, Qwen2Config, Qwen2TokenizerFast

from fastdecode.errors import UnsupportedModelError


@dataclass(frozen=True)
class Layout:
    """How a checkpoint maps to a model of transformers.

    Attributes:
        config: from the checkpoint's configuration to one of transformers.
        rename: from the name of a parameter to that of a tensor in the checkpoint.
        shift: 1 where the output of position j - 1 proposes the token of j, as in models that were adapted from causal ones.
        mask_id: where the configuration does not say.
        delimiters: ids of tokens that end a line.
        tokenizer: the class that reads its tokenizer's files; what a checkpoint names itself may be code of its own.
    """

    config: Callable[[dict[str, Any]], PretrainedConfig]
    rename: Callable[[str], str]
    shift: int
    mask_id: int
    delimiters: tuple[int, ...]
    tokenizer: type[PreTrainedTokenizerBase]


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
LAYOUTS = {
    "llada": Layout(_llada_config, _llada_name, 0, 126336, (198,), PreTrainedTokenizerFast),
    "Dream": Layout(_dream_config, lambda name: name, 1, 151666, _DREAM_LINES, Qwen2TokenizerFast),
}


def layout_of(name_or_path: str) -> tuple[Layout | None, dict[str, Any]]:
    """The layout of a checkpoint if it is a masked-diffusion model, and its configuration as it stands in the file."""
    raw, _ = PretrainedConfig.get_config_dict(name_or_path)
    return LAYOUTS.get(raw.get("model_type", "")), raw
