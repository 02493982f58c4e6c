"""From a transformers model to the packed weights of the compiled runtime: what each family calls its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from fastdecode import _C
from fastdecode.errors import UnsupportedModelError
from fastdecode.ops._dispatch import DTYPE_CODES
from fastdecode.targets.weights import CheckpointWeights, empty, filled

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu"}
WEIGHTS = ("float32", "bfloat16", "int8")
GATED_BLOCKS = (16, 16)  # columns of gate and up that the runtime multiplies with each other while it has both
DYNAMIC_ROTARIES = {"dynamic", "longrope"}  # frequencies that change with the length of the text


@dataclass(frozen=True)
class Family:
    """How a family departs from Llama.

    Attributes:
        name: for the documentation.
        norms: runtime name -> attribute of a decoder layer.
        norm_offset: what is added to the stored weights of RMS norms.
        window: sliding window of one attention module, None without one.
    """

    name: str
    norms: dict[str, str]
    norm_offset: float = 0.0
    window: Callable[[nn.Module], int | None] = lambda attention: getattr(attention, "sliding_window", None)


_LLAMA_NORMS = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}
_GEMMA_NORMS = {"attention": "input_layernorm", "after_attention": "post_attention_layernorm", "mlp": "pre_feedforward_layernorm", "after_mlp": "post_feedforward_layernorm"}
NATIVE_FAMILIES = {
    "llama": Family("Llama (SmolLM2, Llama 3)", _LLAMA_NORMS),
    "mistral": Family("Mistral", _LLAMA_NORMS, window=lambda attention: attention.config.sliding_window),
    "qwen2": Family("Qwen2, Qwen2.5", _LLAMA_NORMS),
    "qwen3": Family("Qwen3", _LLAMA_NORMS),
    "smollm3": Family("SmolLM3", _LLAMA_NORMS),
    "gemma3_text": Family("Gemma 3 (text)", _GEMMA_NORMS, norm_offset=1.0),
}


def refuse_unsupported(model: PreTrainedModel, device: str = "cpu") -> None:
    """Raises UnsupportedModelError that says why the compiled runtime cannot run this model.

    Args:
        device: where its parameters have to be; "meta" for a skeleton whose values are still in files.
    """
    config = model.config
    problem = None
    if config.model_type not in NATIVE_FAMILIES:
        problem = f"model type {config.model_type!r} is not one of {', '.join(NATIVE_FAMILIES)}"
    elif model.device.type != device:
        problem = f"it is on {model.device}"
    elif model.dtype not in (torch.float32, torch.bfloat16):
        problem = f"its dtype is {model.dtype}, not float32 or bfloat16"
    elif any(not isinstance(m.weight, nn.Parameter) or type(m) is not nn.Linear for m in model.modules() if isinstance(m, nn.Linear)) or len({p.dtype for p in model.parameters()}) > 1:
        problem = "its weights are quantised, adapted or of several dtypes"
    elif len({p.device for p in model.parameters()}) > 1:
        problem = "some of its weights are offloaded"
    elif hasattr(model, "peft_config"):
        problem = "it has adapters"
    elif _activation(config) not in ACTIVATIONS:
        problem = f"its activation is {_activation(config)!r}"
    elif any(kind in DYNAMIC_ROTARIES for kind in _rotary_kinds(model)):
        problem = "its rotary frequencies change with the length"
    elif getattr(config, "final_logit_softcapping", None) or getattr(config, "attn_logit_softcapping", None):
        problem = "it caps logits"
    elif getattr(config, "use_bidirectional_attention", False):
        problem = "its attention is bidirectional"
    elif model.model.layers[0].self_attn.head_dim % 16 or config.hidden_size % 16 or config.intermediate_size % 16:
        problem = "its head dimension, hidden size or MLP width is not a multiple of 16"
    if problem:
        raise UnsupportedModelError(f"the native runtime cannot run this {type(model).__name__}: {problem}; use target='hf'")


def element_of(model: PreTrainedModel, weights: str) -> str:
    """The element type that `weights` asks for: "auto" is the dtype of the model."""
    if weights != "auto" and weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is unknown: use auto, {', '.join(WEIGHTS)}")
    return str(model.dtype).removeprefix("torch.") if weights == "auto" else weights


def pack_model(model: PreTrainedModel, element: str, weights: CheckpointWeights | None = None) -> "_C.Transformer":
    """Packed copy of a model that `refuse_unsupported` let pass.

    Args:
        element: of the packed weights.
        weights: where the values are when `model` is a skeleton without any.
    """
    config, body, family = model.config, model.model, NATIVE_FAMILIES[model.config.model_type]
    first = body.layers[0].self_attn
    head = model.get_output_embeddings()
    transformer = _C.Transformer(
        element=element, vocab=head.weight.shape[0], width=config.hidden_size, heads=config.num_attention_heads, kv_heads=config.num_key_value_heads,
        dim=first.head_dim, inner=config.intermediate_size, epsilon=config.rms_norm_eps, attention_scale=first.scaling,
        embedding_scale=_embedding_scale(body.embed_tokens), activation=ACTIVATIONS[_activation(config)],
    )  # fmt: skip
    for frequencies, scale in (tables := _rotary_tables(body)).values():
        transformer.add_rotary(frequencies.float().tolist(), float(scale))
    for i, layer in enumerate(body.layers):
        with filled(layer, weights, f"model.layers.{i}"):
            transformer.add_layer(_pack_layer(layer, config, family, element, list(tables)))
    with filled(body.norm, weights, "model.norm"):
        transformer.set_norm(_norm_weights(body.norm, family))
    tied = head.weight is body.embed_tokens.weight
    with filled(body.embed_tokens, weights, "model.embed_tokens") as embedding:
        if tied:
            transformer.set_head(pack_matrix([embedding.weight], element))
        else:
            transformer.set_embedding(embedding.weight.contiguous().data_ptr(), DTYPE_CODES[embedding.weight.dtype])
    if not tied:
        with filled(head, weights, "lm_head"):
            transformer.set_head(pack_matrix([head.weight], element))
    elif weights is not None:
        empty(head)
    transformer.check()
    return transformer


def _pack_layer(layer: nn.Module, config: PretrainedConfig, family: Family, element: str, rotaries: list[str]) -> "_C.Layer":
    attention, mlp = layer.self_attn, layer.mlp
    packed = _C.Layer()
    packed.set_matrix("qkv", _pack_linear([attention.q_proj, attention.k_proj, attention.v_proj], element, attention_blocks(config.num_attention_heads, config.num_key_value_heads, attention.head_dim)))
    packed.set_matrix("out", _pack_linear([attention.o_proj], element))
    packed.set_matrix("gate_up", _pack_linear([mlp.gate_proj, mlp.up_proj], element, GATED_BLOCKS))
    packed.set_matrix("down", _pack_linear([mlp.down_proj], element))
    for name, attribute in family.norms.items():
        packed.set_norm(name, _norm_weights(getattr(layer, attribute), family))
    for name, attribute in (("query", "q_norm"), ("key", "k_norm")):
        if hasattr(attention, attribute):
            packed.set_norm(name, _norm_weights(getattr(attention, attribute), family))
    packed.window = family.window(attention) or 0
    if getattr(attention, "use_rope", True):
        packed.rotary = rotaries.index(attention.layer_type) if len(rotaries) > 1 else 0
    return packed


def _pack_linear(linears: list[nn.Linear], element: str, blocks: Sequence[int] = ()) -> "_C.PackedMatrix":
    return pack_matrix([linear.weight for linear in linears], element, [linear.bias for linear in linears], blocks)


def pack_matrix(weights: list[torch.Tensor], element: str, biases: Sequence[torch.Tensor | None] = (), blocks: Sequence[int] = ()) -> "_C.PackedMatrix":
    """One matrix from weights [outputs, inputs] of equal inputs, which alternate in `blocks` of so many rows of each."""
    packed = _C.PackedMatrix(element, sum(w.shape[0] for w in weights), weights[0].shape[1])
    first, period = 0, sum(blocks or (w.shape[0] for w in weights))
    for i, weight in enumerate(weights):
        place = (first, blocks[i] if blocks else weight.shape[0], period)
        weight = weight.detach().contiguous()
        packed.pack(weight.data_ptr(), DTYPE_CODES[weight.dtype], weight.shape[0], *place)
        if biases and biases[i] is not None:
            bias = biases[i].detach().contiguous()
            packed.set_bias(bias.data_ptr(), DTYPE_CODES[bias.dtype], bias.shape[0], *place)
        first += place[1]
    return packed


def attention_blocks(heads: int, kv_heads: int, dim: int) -> tuple[int, int, int]:
    """Rows of the query, key and value projections that belong to one key/value head: side by side they are one thread's."""
    return (heads // kv_heads * dim, dim, dim)


def _norm_weights(norm: nn.Module, family: Family) -> list[float]:
    return (norm.weight.detach().float() + family.norm_offset).tolist()


def _embedding_scale(embedding: nn.Module) -> float:
    scale = getattr(embedding, "scalar_embed_scale", 1.0)
    return float(torch.tensor(scale).to(embedding.weight.dtype))  # rounded as the model rounds it


def _activation(config) -> str:
    return getattr(config, "hidden_activation", None) or config.hidden_act


def _rotary_kinds(model: PreTrainedModel) -> list[str]:
    kinds = getattr(model.model.rotary_emb, "rope_type", "default")
    return list(kinds.values()) if isinstance(kinds, dict) else [kinds]


def _rotary_tables(body: nn.Module) -> dict[str, tuple[torch.Tensor, float]]:
    """Frequencies [pairs] and scale by layer type; one entry when all layers share them."""
    rotary = body.rotary_emb
    if hasattr(rotary, "inv_freq"):
        return {"": (rotary.inv_freq, rotary.attention_scaling)}
    return {kind: (getattr(rotary, f"{kind}_inv_freq"), getattr(rotary, f"{kind}_attention_scaling")) for kind in rotary.rope_type}
