"""Training a draft head in the manner of EAGLE-3 (Li et al. 2025, arXiv:2503.01840) on what the target writes itself.

The head reads three of the target's hidden states and the next token, and drafts the token after that; in training it goes on with its own
output for some steps, as it does when it drafts.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from fastdecode.targets.native import NativeTarget
from fastdecode.training.masked_transformer import rotate
from fastdecode.training.on_policy import Conversations
from fastdecode.training.run import ResumableRun


@dataclass(frozen=True)
class HeadShape:
    """Sizes of a head: those of the target's layers, with a smaller vocabulary."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    draft_vocab_size: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


class HeadAttention(nn.Module):
    """Attention from a step of a chain to the true features before it and to the chain's own earlier steps."""

    def __init__(self, shape: HeadShape):
        super().__init__()
        self.heads, self.kv_heads, self.dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.q_proj = nn.Linear(2 * shape.hidden_size, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(2 * shape.hidden_size, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(2 * shape.hidden_size, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, shape.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], bias: torch.Tensor, past: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """x: [B, T, 2H]; turn: cosines and sines [T, D / 2] of this step's positions; bias: [B, 1, T, T] over the first step's keys.

        `past` holds keys and values of the earlier steps, and this step's afterwards.
        """
        batch, length, _ = x.shape
        split = lambda y, heads: y.view(batch, length, heads, self.dim).transpose(1, 2)  # [B, heads, T, D]
        q = rotate(split(self.q_proj(x), self.heads), *turn)
        k, v = rotate(split(self.k_proj(x), self.kv_heads), *turn), split(self.v_proj(x), self.kv_heads)
        group = self.heads // self.kv_heads
        past.append((k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
        scale = self.dim**-0.5
        scores = [(q @ past[0][0].transpose(-1, -2)).float() * scale + bias]  # [B, heads, T, T]
        scores += [(q * key).sum(-1, keepdim=True).float() * scale for key, _ in past[1:]]  # own chain, [B, heads, T, 1]
        weights = torch.cat(scores, -1).softmax(-1).to(v.dtype)
        out = weights[..., :length] @ past[0][1]
        for i, (_, value) in enumerate(past[1:]):
            out = out + weights[..., length + i, None] * value
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class HeadLayer(nn.Module):
    """One decoder layer over [embedding | feature]; names as in EAGLE-3's checkpoints (`midlayer`)."""

    def __init__(self, shape: HeadShape):
        super().__init__()
        norm = lambda: nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.input_layernorm, self.hidden_norm, self.post_attention_layernorm = norm(), norm(), norm()
        self.self_attn = HeadAttention(shape)
        self.mlp = nn.ModuleDict({name: nn.Linear(*sizes, bias=False) for name, sizes in {"gate_proj": (shape.hidden_size, shape.intermediate_size), "up_proj": (shape.hidden_size, shape.intermediate_size), "down_proj": (shape.intermediate_size, shape.hidden_size)}.items()})

    def forward(self, embedding, feature, turn, bias, past) -> torch.Tensor:
        x = torch.cat([self.input_layernorm(embedding), self.hidden_norm(feature)], -1)
        feature = feature + self.self_attn(x, turn, bias, past)
        h = self.post_attention_layernorm(feature)
        return feature + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


class EagleHead(nn.Module):
    """The head.

    Args:
        embedding: [V, H] of the target; frozen.
        rows: [draft vocabulary, H], where the head's output embeddings begin: the target's.
    """

    def __init__(self, shape: HeadShape, embedding: torch.Tensor, rows: torch.Tensor):
        super().__init__()
        self.shape = shape
        self.register_buffer("embedding", embedding.float(), persistent=False)
        self.fc = nn.Linear(3 * shape.hidden_size, shape.hidden_size, bias=False)
        self.midlayer = HeadLayer(shape)
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = nn.Linear(shape.hidden_size, shape.draft_vocab_size, bias=False)
        with torch.no_grad():
            self.lm_head.weight.copy_(rows)

    def forward(self, features: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, steps: int) -> list[torch.Tensor]:
        """Logits over the draft vocabulary, [B, T, draft vocabulary] for each step of the chains.

        Chain t starts from the features of position t; step i reads token t + 1 + i and proposes token t + 2 + i.

        Args:
            features: [B, T, 3H]. tokens: int64 [B, T + steps], padded behind `lengths` int64 [B] of features.
        """
        batch, length, _ = features.shape
        positions = torch.arange(length)
        visible = (positions[None] <= positions[:, None]) & (positions < lengths[:, None, None])  # [B, T, T]
        bias = torch.zeros(visible.shape).masked_fill(~(visible | torch.eye(length, dtype=torch.bool)), -1e9)[:, None]
        frequencies = self.shape.rope_theta ** -(torch.arange(0, self.shape.head_dim, 2) / self.shape.head_dim)
        feature, past, logits = self.fc(features), [], []
        for i in range(steps):
            angles = (positions + i)[:, None] * frequencies
            embedding = F.embedding(tokens[:, 1 + i : 1 + i + length], self.embedding)
            feature = self.midlayer(embedding, feature, (angles.cos(), angles.sin()), bias, past)
            logits.append(self.lm_head(self.norm(feature)))
        return logits


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on besides its data.

    Attributes:
        taps: layers before which hidden states are read: low, middle, high.
        unroll: steps of a chain in training; step i weighs `decay` to the i.
        batch: conversations of a step. longest: tokens of a conversation that are used.
    """

    taps: tuple[int, ...]
    steps: int = 4000
    batch: int = 8
    longest: int = 320
    unroll: int = 4
    decay: float = 0.8
    rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.1
    seed: int = 0


def draft_vocabulary(data: Conversations, size: int) -> torch.Tensor:
    """int64 [size], the most frequent tokens of the answers in ascending order of ids; filled up with the lowest ids that are left."""
    answers = torch.cat([tokens[begin:] for tokens, begin in (data[i] for i in range(len(data)))])
    counts = torch.bincount(answers.long())
    chosen = counts.argsort(descending=True, stable=True)[:size]
    chosen = chosen[counts[chosen] > 0]
    rest = torch.ones(max(len(counts), size) + len(chosen), dtype=torch.bool)
    rest[chosen] = False
    return torch.cat([chosen, torch.nonzero(rest)[: size - len(chosen), 0]]).sort().values


class EagleRun(ResumableRun):
    """Training of a head for a target in the compiled runtime, which is read anew in every step (nothing of it is stored).

    Args:
        embedding: [V, H], the target's input embeddings; heads: [V, H], its output embeddings.
    """

    def __init__(self, recipe: Recipe, directory: Path, target: NativeTarget, data: Conversations, shape: HeadShape, embedding: torch.Tensor, heads: torch.Tensor):
        torch.manual_seed(recipe.seed)
        self.target, self.data = target, data
        self.vocabulary = draft_vocabulary(data, shape.draft_vocab_size)
        self.held_out = list(range(0, len(data), 50))  # conversations that are measured on and not learned from
        self.learned = sorted(set(range(len(data))) - set(self.held_out)) or self.held_out
        super().__init__(recipe, directory, EagleHead(shape, embedding, heads[self.vocabulary].float()))

    def loss(self, step: int) -> torch.Tensor:
        draw = random.Random(self.recipe.seed * 1_000_003 + step)
        return self._loss_of(draw.choices(self.learned, k=self.recipe.batch))

    def _loss_of(self, chosen: list[int]) -> torch.Tensor:
        """Cross entropy with the target's law over the draft vocabulary, where its favourite is in it."""
        recipe, batch = self.recipe, [self._read(i) for i in chosen]
        length = max(len(features) for features, *_ in batch)
        pad = lambda values, size: nn.utils.rnn.pad_sequence([*values, values[0].new_zeros(size, *values[0].shape[1:])], batch_first=True)[:-1]
        features, tokens = pad([b[0] for b in batch], length), pad([b[1] for b in batch], length + recipe.unroll)
        laws, counted = pad([b[2] for b in batch], length + recipe.unroll), pad([b[3] for b in batch], length + recipe.unroll)
        lengths = torch.tensor([len(b[0]) for b in batch])
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(features, tokens, lengths, recipe.unroll)
        total, weight = torch.zeros(()), 0.0
        for i, step_logits in enumerate(logits):
            law, mask = laws[:, 1 + i : 1 + i + length], counted[:, 1 + i : 1 + i + length]
            entropy = -(law * step_logits.float().log_softmax(-1)).sum(-1)
            total = total + recipe.decay**i * (entropy * mask).sum() / mask.sum().clamp(min=1)
            weight += recipe.decay**i
        return total / weight

    def _read(self, i: int) -> tuple[torch.Tensor, ...]:
        """Features [T, 3H], tokens [T], the target's law after every token [T, draft vocabulary], and which of these count."""
        tokens, begin = self.data[i]
        tokens = tokens[: self.recipe.longest]
        hidden, logits = self.target.read(tokens.tolist(), self.recipe.taps)
        counted = torch.isin(logits.argmax(-1), self.vocabulary) & (torch.arange(len(tokens)) >= begin - 1)
        return hidden.permute(1, 0, 2).flatten(1), tokens.long(), logits[:, self.vocabulary].softmax(-1), counted.float()

    @torch.inference_mode()
    def acceptance(self, chosen: list[int]) -> list[float]:
        """1 - total variation distance to the target's law over its whole vocabulary at every step of the chains, on true contexts."""
        sums, counts = [0.0] * self.recipe.unroll, 0.0
        for i in chosen:
            tokens, begin = self.data[i]
            tokens = tokens[: self.recipe.longest]
            hidden, logits = self.target.read(tokens.tolist(), self.recipe.taps)
            law = logits.softmax(-1)[:, self.vocabulary]  # what is outside the draft vocabulary can never be accepted
            steps, length = self.recipe.unroll, len(tokens)
            padded = F.pad(tokens.long(), (0, steps))
            drafts = self.model(hidden.permute(1, 0, 2).flatten(1)[None], padded[None], torch.tensor([length]), steps)
            valid = torch.arange(length) >= begin - 1
            last = length - 1 - steps
            for s, step_logits in enumerate(drafts):
                common = torch.minimum(law[1 + s : 1 + s + last], step_logits[0, :last].softmax(-1)).sum(-1)
                sums[s] += float((common * valid[1 + s : 1 + s + last]).sum())
            counts += float(valid[1 : 1 + last].sum())
        return [s / max(counts, 1.0) for s in sums]

    def export(self, directory: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Writes `model.safetensors` and `config.json` with the names of EAGLE-3's checkpoints; d2t holds offsets, t2d members."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().to(dtype).contiguous() for name, p in self.model.named_parameters()}
        tensors["d2t"] = self.vocabulary - torch.arange(len(self.vocabulary))
        tensors["t2d"] = torch.isin(torch.arange(self.target.vocab_size), self.vocabulary)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        config = {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", **asdict(self.model.shape), "vocab_size": self.target.vocab_size, "num_hidden_layers": 1, "eagle_config": {"eagle_aux_hidden_state_layer_ids": list(self.recipe.taps)}}
        (directory / "config.json").write_text(json.dumps(config, indent=1))
