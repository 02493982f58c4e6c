"""Small random masked-diffusion models and the plainest sampler there is."""

import functools
import json

import torch
from safetensors.torch import save_file

from fastdecode import DiffusionGenerator
from fastdecode.targets.layouts import LAYOUTS
from tests.models import byte_tokenizer, small_model

MASK, EOS = 255, 7


@functools.lru_cache(maxsize=None)
def diffusion_model(shift: int = 0, layers: int = 3, dtype: torch.dtype = torch.float64):
    """A random transformer in the shape of LLaDA, or of Dream where outputs are shifted."""
    model = small_model("qwen2" if shift else "llama", scale=6.0).to(dtype)
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = len(model.model.layers)
    return model


def generator(target: str = "hf", shift: int = 0, layers: int = 3, preset: str = "llada", eos: int | None = None, **options) -> DiffusionGenerator:
    """A generator over a random model: float64 on modules of transformers, float32 (or `weights`) in the runtime."""
    model = diffusion_model(shift, layers, torch.float64 if target == "hf" else torch.float32)
    return DiffusionGenerator(model, byte_tokenizer(), preset, target=target, mask_token_id=MASK, eos_token_id=-1 if eos is None else eos, shift=shift, **options)


def all_logits(model, tokens: list[int], shift: int = 0, block: int | None = None) -> torch.Tensor:
    """[L, V], row j proposes token j; every position sees every other one, or those up to the end of its block."""
    length = len(tokens)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        ends = (torch.arange(length) // (block or length) + 1) * (block or length)
        bias = torch.zeros(length, length, dtype=model.dtype).masked_fill(torch.arange(length) >= ends[:, None], -torch.inf)[None, None]
        logits = model(torch.tensor([tokens]), attention_mask=bias, use_cache=False).logits[0]
    model.set_attn_implementation(before)
    return torch.cat([logits[:1], logits[:-1]]) if shift else logits


def plain_sampler(model, prompt: list[int], canvas: int, block: int, shift: int = 0, causal: bool = False) -> list[int]:
    """LLaDA's sampler at one token per step, from its specification; with `causal` blocks, which then begin at position 0, see no later ones."""
    tokens = prompt + [MASK] * canvas
    stop = len(prompt)
    while stop < len(tokens):
        begin, stop = stop, min((stop // block + 1) * block if causal else stop + block, len(tokens))
        for _ in range(stop - begin):
            logits = all_logits(model, tokens, shift, block if causal else None)
            logits[:, MASK] = -torch.inf
            confidence, proposal = logits.softmax(-1).max(-1)
            masked = [p for p in range(begin, stop) if tokens[p] == MASK]
            best = max(masked, key=lambda p: (float(confidence[p]), -p))
            tokens[best] = int(proposal[best])
    return tokens[len(prompt) :]


def checkpoint(kind: str, folder, shards: bool = False, model=None, **changes):
    """A small random checkpoint with the names and configuration keys of LLaDA or Dream, and the model that it holds."""
    model = model or small_model("llama" if kind == "llada" else "qwen2", scale=6.0)
    c = model.config
    tensors = {LAYOUTS[kind].rename(name): t.clone() for name, t in model.state_dict().items()}
    raw = {**c.to_dict(), "model_type": "Dream", "architectures": ["DreamModel"], "auto_map": {"AutoModel": "modeling_dream.DreamModel"}, "mask_token_id": MASK, "eos_token_id": EOS, "torch_dtype": "float32"}
    if kind == "llada":
        raw = dict(model_type="llada", architectures=["LLaDAModelLM"], auto_map={"AutoModel": "modeling_llada.LLaDAModelLM"}, d_model=c.hidden_size, n_layers=c.num_hidden_layers, n_heads=c.num_attention_heads, n_kv_heads=c.num_key_value_heads, mlp_hidden_size=c.intermediate_size, rope_theta=c.rope_parameters["rope_theta"], rms_norm_eps=c.rms_norm_eps, embedding_size=c.vocab_size, vocab_size=c.vocab_size - 1, weight_tying=False, max_sequence_length=512, rope=True, rope_full_precision=True, include_bias=False, include_qkv_bias=False, block_type="llama", layer_norm_type="rms", activation_type="silu", mask_token_id=MASK, eos_token_id=EOS, pad_token_id=EOS, torch_dtype="float32")  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**raw, **changes}))
    byte_tokenizer().save_pretrained(folder)
    if not shards:
        save_file(tensors, folder / "model.safetensors")
        return model
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, own in parts.items():
        save_file({n: tensors[n] for n in own}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {n: file for file, own in parts.items() for n in own}}))
    return model
