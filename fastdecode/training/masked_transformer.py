"""A masked-diffusion transformer in the layout of LLaDA, small enough to train on a CPU."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes under the names that a LLaDA configuration has."""

    vocab_size: int
    d_model: int = 192
    n_heads: int = 6
    n_layers: int = 6
    mlp_hidden_size: int = 512
    max_sequence_length: int = 256
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    def config(self, mask_token_id: int, eos_token_id: int) -> dict:
        """`config.json` of a checkpoint."""
        return {
            "model_type": "llada", "architectures": ["LLaDAModelLM"], **asdict(self), "embedding_size": self.vocab_size, "n_kv_heads": self.n_heads, "weight_tying": True, "block_type": "llama",
            "activation_type": "silu", "layer_norm_type": "rms", "rope": True, "include_bias": False, "include_qkv_bias": False, "attention_layer_norm": False, "input_emb_norm": False,
            "scale_logits": False, "mask_token_id": mask_token_id, "eos_token_id": eos_token_id, "pad_token_id": eos_token_id, "torch_dtype": "bfloat16",
        }  # fmt: skip


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        d, inner = shape.d_model, shape.mlp_hidden_size
        self.heads, self.eps = shape.n_heads, shape.rms_norm_eps
        self.attn_norm, self.ff_norm = nn.RMSNorm(d, shape.rms_norm_eps), nn.RMSNorm(d, shape.rms_norm_eps)
        self.q_proj, self.k_proj, self.v_proj, self.attn_out = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.ff_proj, self.up_proj, self.ff_out = nn.Linear(d, inner, bias=False), nn.Linear(d, inner, bias=False), nn.Linear(inner, d, bias=False)

    def forward(self, x, cos, sin, bias):
        batch, length, width = x.shape
        h = self.attn_norm(x)
        q, k, v = (proj(h).view(batch, length, self.heads, -1).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))  # [B, H, L, D]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        # Plain products: their backward pass is several times faster on CPUs than that of the fused attention.
        weights = torch.softmax((q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5 + bias, -1).to(v.dtype)
        x = x + self.attn_out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        h = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding over the two halves of every head, [B, H, L, D] by [L, D / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class MaskedTransformer(nn.Module):
    """Bidirectional transformer with tied embeddings; parameters are named as in LLaDA's checkpoints, without `model.transformer.`."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab_size, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.ln_f = nn.RMSNorm(shape.d_model, shape.rms_norm_eps)
        self._init()

    @torch.no_grad()
    def _init(self) -> None:
        """Normal embeddings, attention as trained models have it (Trockman & Kolter 2023, arXiv:2305.09828): keys near queries, outputs against values."""
        nn.init.normal_(self.wte.weight, std=self.shape.d_model**-0.5)
        noise = lambda: torch.randn(self.shape.d_model, self.shape.d_model) * self.shape.d_model**-0.5
        for block in self.blocks:
            block.k_proj.weight.copy_(0.7 * block.q_proj.weight.copy_(noise()) + 0.7 * noise())
            block.attn_out.weight.copy_(-0.5 * block.v_proj.weight.copy_(noise()).T + 0.2 * noise())
            block.ff_out.weight.mul_(0.5)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor, first: torch.Tensor, count: int) -> torch.Tensor:
        """Logits of `count` positions from `first` on.

        Args:
            tokens: int64 [B, L], padded behind `lengths` int64 [B].
            first: int64 [B].
        """
        batch, length = tokens.shape
        positions = torch.arange(length)
        angles = positions[:, None] * self.shape.rope_theta ** -(torch.arange(0, self.shape.d_model // self.shape.n_heads, 2) / (self.shape.d_model // self.shape.n_heads))
        bias = torch.zeros(batch, 1, 1, length).masked_fill(positions >= lengths[:, None, None, None], -1e9)
        x = self.wte(tokens)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin(), bias)
        rows = first[:, None] + torch.arange(count)  # [B, count]
        return F.linear(self.ln_f(x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))), self.wte.weight)
