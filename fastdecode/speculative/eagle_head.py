"""EAGLE heads: one decoder layer that goes on from the target's hidden states, in the compiled runtime.

Reads checkpoints by their public names: EAGLE-1 and 2 (Li et al. 2024, arXiv:2401.15077, arXiv:2406.16858) and EAGLE-3
(Li et al. 2025, arXiv:2503.01840).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from fastdecode import _C
from fastdecode.errors import UnsupportedModelError
from fastdecode.ops._dispatch import DTYPE_CODES
from fastdecode.targets.base import TargetModel
from fastdecode.targets.native import NativeTarget
from fastdecode.targets.packing import ACTIVATIONS, GATED_BLOCKS, attention_blocks, pack_matrix


class EagleHead:
    """A head that fits its target.

    Args:
        tensors: by their names in the checkpoint. config: the keys of its config.json.
        target: whose hidden states it reads; embeddings, and where the head has none, output embeddings are the target's.

    Attributes:
        taps: layers of the target before which it reads hidden states.
        vocabulary: int32 [draft vocabulary], the target's id of every column of its logits.

    Raises:
        ValueError: a tensor is missing, or the sizes do not fit each other or the target; says which.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], config: dict, target: TargetModel):
        tensors = {name.removeprefix("model.").replace("midlayer.", "layers.0."): tensor for name, tensor in tensors.items()}
        self.fuses = "layers.0.hidden_norm.weight" in tensors  # EAGLE-3: hidden states are fused once, and meet the embedding in the layer
        self.config = LlamaConfig(**{key: value for key, value in config.items() if key not in ("architectures", "model_type", "torch_dtype", "dtype", "eagle_config", "fastdecode_target")})
        self.width, self.vocab_size = self.config.hidden_size, target.vocab_size
        self.native = target if isinstance(target, NativeTarget) else None
        self.model = target.model
        self.taps = self._taps(config, target.layers) if self.fuses else (target.layers,)
        self.vocabulary = self._vocabulary(tensors)
        self._check(tensors, target)
        self._norm = None if self.fuses else _final_norm(target)
        self.transformer = self._pack(tensors, _element(target))

    @classmethod
    def load(cls, path: str | Path, target: TargetModel) -> "EagleHead":
        """From a directory with config.json and model.safetensors.

        Raises:
            FileNotFoundError: they are not there; says what to do about pickled weights, which are never read.
        """
        path = Path(path)
        for name in ("config.json", "model.safetensors"):
            if not (path / name).is_file():
                pickled = " It holds pickled weights, which can run any code when they are read; convert them where you trust them: safetensors.torch.save_file(torch.load('pytorch_model.bin', weights_only=True), 'model.safetensors')" if (path / "pytorch_model.bin").exists() else ""
                raise FileNotFoundError(f"{path} holds no {name}, so it is not the directory of an EAGLE head.{pickled}")
        return cls(load_file(path / "model.safetensors"), json.loads((path / "config.json").read_text()), target)

    @staticmethod
    def _taps(config: dict, layers: int) -> tuple[int, ...]:
        """Checkpoints name layers whose output is read; without names it is the input of an early, a middle and a late one."""
        named = (config.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
        taps = tuple(int(i) + 1 for i in named) if named else (2, layers // 2, layers - 3)
        if any(not 0 <= t <= layers for t in taps) or list(taps) != sorted(set(taps)):
            raise ValueError(f"eagle_config.eagle_aux_hidden_state_layer_ids={named} does not ascend within the {layers} layers of the target; the head belongs to another model")
        return taps

    def _vocabulary(self, tensors: dict[str, torch.Tensor]) -> np.ndarray:
        if "d2t" not in tensors:
            return np.arange(self.vocab_size, dtype=np.int32)
        ids = tensors["d2t"].long() + torch.arange(len(tensors["d2t"]))  # stored as distances
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if len(outside) or not len(ids):
            raise ValueError(f"d2t maps to {f'token {int(outside[0])}' if len(outside) else 'nothing'}, the target's vocabulary is 0 .. {self.vocab_size - 1}; the head belongs to another model")
        return ids.int().numpy()

    def _window(self) -> int:
        """Keys that a token sees, itself included; 0 for all. Some configurations name a window and say that it is not used."""
        window = getattr(self.config, "sliding_window", None) if getattr(self.config, "use_sliding_window", True) else None
        if window is not None and (not isinstance(window, int) or isinstance(window, bool) or not 1 <= window < 2**31):
            raise ValueError(f"sliding_window={window!r} of the head must be a number of tokens from 1 to 2^31 - 1, or null; correct the head's config.json")
        return window or 0

    def _check(self, tensors: dict[str, torch.Tensor], target: TargetModel) -> None:
        hidden = target.model.config.get_text_config(decoder=True).hidden_size
        if self.width != hidden:
            raise ValueError(f"hidden_size={self.width} of the head is not the target's {hidden}; the head belongs to another model")
        c, pair = self.config, 2 if self.fuses else 1
        if c.num_key_value_heads < 1 or c.num_attention_heads % c.num_key_value_heads:
            raise ValueError(f"num_attention_heads={c.num_attention_heads} of the head is not a multiple of num_key_value_heads={c.num_key_value_heads}")
        dim = c.head_dim or self.width // c.num_attention_heads
        shapes = {
            "fc.weight": (self.width, (len(self.taps) if self.fuses else 2) * self.width),
            "layers.0.self_attn.q_proj.weight": (c.num_attention_heads * dim, pair * self.width), "layers.0.self_attn.k_proj.weight": (c.num_key_value_heads * dim, pair * self.width),
            "layers.0.self_attn.v_proj.weight": (c.num_key_value_heads * dim, pair * self.width), "layers.0.self_attn.o_proj.weight": (self.width, c.num_attention_heads * dim),
            "layers.0.mlp.gate_proj.weight": (c.intermediate_size, self.width), "layers.0.mlp.up_proj.weight": (c.intermediate_size, self.width), "layers.0.mlp.down_proj.weight": (self.width, c.intermediate_size),
            "layers.0.post_attention_layernorm.weight": (self.width,),
        }  # fmt: skip
        if self.fuses:
            shapes |= {"layers.0.input_layernorm.weight": (self.width,), "layers.0.hidden_norm.weight": (self.width,), "norm.weight": (self.width,)}
        if "lm_head.weight" in tensors:
            shapes["lm_head.weight"] = (len(self.vocabulary), self.width)
        for name, shape in shapes.items():
            if name not in tensors:
                raise ValueError(f"the checkpoint of the head has no tensor {name}; it holds {', '.join(sorted(tensors)[:8])}, ...")
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} has shape {list(tensors[name].shape)}, config.json and the target ask for {list(shape)}")
        if c.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act={c.hidden_act!r} of the head is unknown: use {', '.join(ACTIVATIONS)}")
        if self.width % 16 or dim % 16 or c.intermediate_size % 16:
            raise ValueError(f"the head's width {self.width}, head dimension {dim} and MLP width {c.intermediate_size} must be multiples of 16")

    def _pack(self, tensors: dict[str, torch.Tensor], element: str) -> "_C.Transformer":
        c = self.config
        dim = c.head_dim or self.width // c.num_attention_heads
        head = _C.Transformer(
            element=element, vocab=self.vocab_size, width=self.width, heads=c.num_attention_heads, kv_heads=c.num_key_value_heads, dim=dim, inner=c.intermediate_size,
            epsilon=c.rms_norm_eps, attention_scale=dim**-0.5, embedding_scale=1.0, activation=ACTIVATIONS[c.hidden_act], outputs=len(self.vocabulary),
        )  # fmt: skip
        rotary = LlamaRotaryEmbedding(c)
        head.add_rotary(rotary.inv_freq.float().tolist(), float(rotary.attention_scaling))
        part = lambda names, blocks=(): pack_matrix([tensors[f"layers.0.{name}.weight"] for name in names], element, [tensors.get(f"layers.0.{name}.bias") for name in names], blocks)
        layer = _C.Layer()
        layer.rotary = 0
        layer.window = self._window()
        layer.set_matrix("qkv", part(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), attention_blocks(c.num_attention_heads, c.num_key_value_heads, dim)))
        layer.set_matrix("out", part(("self_attn.o_proj",)))
        layer.set_matrix("gate_up", part(("mlp.gate_proj", "mlp.up_proj"), GATED_BLOCKS))
        layer.set_matrix("down", part(("mlp.down_proj",)))
        norms = {"mlp": "post_attention_layernorm"} | ({"token": "input_layernorm", "attention": "hidden_norm"} if self.fuses else {})
        for slot, name in norms.items():
            layer.set_norm(slot, tensors[f"layers.0.{name}.weight"].float().tolist())
        head.add_layer(layer)
        head.set_fusion(pack_matrix([tensors["fc.weight"]], element, [tensors.get("fc.bias")]))
        if self.fuses:
            head.set_norm(tensors["norm.weight"].float().tolist())
        rows = tensors["lm_head.weight"] if "lm_head.weight" in tensors else self._output_rows()
        head.set_head(pack_matrix([rows], element))
        if self.native:
            head.read_words_of(self.native.transformer)
        else:
            embedding = self.model.get_input_embeddings().weight.detach().cpu().contiguous()
            head.set_embedding(embedding.data_ptr(), DTYPE_CODES[embedding.dtype])
        head.check()
        return head

    def _output_rows(self) -> torch.Tensor:
        if self.native:
            return torch.from_numpy(self.native.transformer.head_rows(self.vocabulary))
        return self.model.get_output_embeddings().weight.detach().cpu()[torch.from_numpy(self.vocabulary).long()]

    def features(self, hidden: torch.Tensor) -> np.ndarray:
        """What the head reads of the target: float32 [n, F] from hidden states float32 [taps, n, width].

        Copied by numpy, on this thread: torch would share out even so little, and wait for a core that another process holds.
        """
        if self.fuses:
            return hidden.numpy().transpose(1, 0, 2).reshape(hidden.shape[1], -1)
        return F.rms_norm(hidden[0], (self.width,), *self._norm).numpy()


def is_head(path: str | Path) -> bool:
    """Whether a directory holds an EAGLE head."""
    weights = Path(path) / "model.safetensors"
    if not weights.is_file():
        return False
    with safe_open(weights, "pt") as tensors:
        return "fc.weight" in {name.removeprefix("model.") for name in tensors.keys()}


def digest(norm: torch.Tensor) -> str:
    """What a model is told by: its last norm, which is the same in every dtype that it is run in."""
    return hashlib.sha256(norm.detach().cpu().bfloat16().view(torch.int16).numpy().tobytes()).hexdigest()[:16]


def trained_for(path: Path, target: TargetModel) -> bool:
    """Whether the head in a directory says that it was trained for this model."""
    try:
        norm, _ = _final_norm(target)
    except (AttributeError, UnsupportedModelError):  # a target of its own kind, or a family with another kind of norm
        return False
    return json.loads((path / "config.json").read_text()).get("fastdecode_target") == digest(norm)


def _element(target: TargetModel) -> str:
    """What the head's weights become: bytes, because drafts are read again and again and need not be exact, beside a target whose weights
    are rounded too."""
    element = target.element if isinstance(target, NativeTarget) else str(target.model.dtype).removeprefix("torch.")
    return "float32" if element == "float32" else "int8"


def _final_norm(target: TargetModel) -> tuple[torch.Tensor, float]:
    """Weights and epsilon of the target's last norm, whose result EAGLE-1 reads. Raises UnsupportedModelError where that is no RMS norm."""
    epsilon = getattr(target.model.config.get_text_config(decoder=True), "rms_norm_eps", None)
    norm = target.transformer.norm if isinstance(target, NativeTarget) else getattr(getattr(target.model.base_model, "norm", None), "weight", None)
    if epsilon is None or norm is None:
        raise UnsupportedModelError(f"{type(target.model).__name__} has no RMS norm behind its layers, whose result an EAGLE-1 head reads; such heads are for Llama's relatives")
    return torch.as_tensor(norm).detach().float().cpu(), epsilon
