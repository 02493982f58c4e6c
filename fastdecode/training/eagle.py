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
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from fastdecode.speculative.eagle_head import digest
from fastdecode.training.cross_entropy import cross_entropy
from fastdecode.training.masked_transformer import rotate
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
        """x: [B, C, 2H]; turn: cosines and sines [B, 1, C, D / 2] of this step's positions; bias: [B, 1, C, T] over the keys of the true features.

        `past` holds the true features' keys and values [B, heads, T, D], then those of the chains' own steps [B, heads, C, D], this one's
        afterwards. In the first step the chains are the true features (C = T).
        """
        batch, count, _ = x.shape
        split = lambda y, heads: y.view(batch, count, heads, self.dim).transpose(1, 2)  # [B, heads, C, D]
        q = rotate(split(self.q_proj(x), self.heads), *turn)
        k, v = rotate(split(self.k_proj(x), self.kv_heads), *turn), split(self.v_proj(x), self.kv_heads)
        group = self.heads // self.kv_heads
        past.append((k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
        scale, length = self.dim**-0.5, bias.shape[-1]
        scores = [(q @ past[0][0].transpose(-1, -2)).float() * scale + bias]  # [B, heads, C, T]
        scores += [(q * key).sum(-1, keepdim=True).float() * scale for key, _ in past[1:]]  # own chain, [B, heads, C, 1]
        weights = torch.cat(scores, -1).softmax(-1).to(v.dtype)
        out = weights[..., :length] @ past[0][1]
        for i, (_, value) in enumerate(past[1:]):
            out = out + weights[..., length + i, None] * value
        return self.o_proj(out.transpose(1, 2).reshape(batch, count, -1))


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
        target: whose embeddings it reads, and whose final norm its own begins as.
        rows: [draft vocabulary, H], output embeddings of the target. scale: [taps * H], what features are divided by.
    """

    def __init__(self, shape: HeadShape, target: "Target", rows: torch.Tensor, scale: torch.Tensor):
        super().__init__()
        self.shape = shape
        for name, tensor in {"embedding": target.embedding, "rows": rows, "scale": scale}.items():
            self.register_buffer(name, tensor.float(), persistent=False)
        self.fc = nn.Linear(len(scale), shape.hidden_size, bias=False)
        self.midlayer = HeadLayer(shape)
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        with torch.no_grad():
            self.norm.weight.copy_(target.norm)

    def load(self, directory: Path) -> None:
        """Takes the weights of a head that `EagleRun.export` wrote. Raises ValueError if it is one of other sizes."""
        stored = load_file(directory / "model.safetensors")
        own = dict(self.named_parameters())
        wrong = [name for name, p in own.items() if name not in stored or stored[name].shape != p.shape]
        if wrong:
            raise ValueError(f"start: the head in {directory} has not the sizes of this one (first difference: {wrong[0]}, here {list(own[wrong[0]].shape)}); start from a head for the same model")
        stored["fc.weight"] = stored["fc.weight"].float() * self.scale
        self.load_state_dict({name: stored[name] for name in own}, strict=False)

    def forward(self, features: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, steps: int, chains: torch.Tensor | None = None) -> list[torch.Tensor]:
        """What the norm gives to the output embeddings: [B, T, H] for the first step of the chains, [B, C, H] for the later ones.

        Chain t starts from the features of position t; step i reads token t + 1 + i and proposes token t + 2 + i.

        Args:
            features: [B, T, taps * H]. tokens: int64 [B, T + steps], padded behind `lengths` int64 [B] of features.
            chains: int64 [B, C], the chains that go on after the first step; all by default.
        """
        batch, length, _ = features.shape
        positions = torch.arange(length)
        visible = (positions[None] <= positions[:, None]) & (positions < lengths[:, None, None])  # [B, T, T]
        bias = torch.zeros(visible.shape).masked_fill(~(visible | torch.eye(length, dtype=torch.bool)), -1e9)[:, None]
        frequencies = self.shape.rope_theta ** -(torch.arange(0, self.shape.head_dim, 2) / self.shape.head_dim)
        at = positions.expand(batch, -1)  # [B, C], where the chains start
        feature, past, normed = self.fc(features / self.scale), [], []
        for i in range(steps):
            if i == 1 and chains is not None:
                at, bias = chains, bias.gather(2, chains[:, None, :, None].expand(-1, -1, -1, length))
                feature = feature.gather(1, chains[..., None].expand(-1, -1, feature.shape[-1]))
            angles = (at + i)[:, None, :, None] * frequencies
            embedding = F.embedding(tokens.gather(1, at + 1 + i), self.embedding)
            feature = self.midlayer(embedding, feature, (angles.cos(), angles.sin()), bias, past)
            normed.append(self.norm(feature))
        return normed


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on besides its data.

    Attributes:
        taps: layers before which hidden states were kept, ascending; the last is behind all layers. The head reads all of them.
        unroll: steps of a chain in training; step i weighs `decay` to the i.
        chains: share of the chains that go on after their first step.
        question: weight of the user's words beside those of answers.
        batch: conversations of a step. longest: tokens of a conversation that are used, and how far the head looks back when it drafts:
            it has not learned from more.
        start: directory of a head whose weights the run begins with; random ones if empty.
    """

    taps: tuple[int, ...]
    steps: int = 4000
    batch: int = 8
    longest: int = 352
    unroll: int = 4
    decay: float = 0.8
    chains: float = 0.5
    question: float = 0.3
    rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.1
    seed: int = 0
    start: str = ""


@dataclass(frozen=True)
class Target:
    """What a head shares with its target.

    Attributes:
        embedding: [V, H] input embeddings. rows: [V, H] output embeddings. norm: [H], weights of the final RMS norm; epsilon: its.
    """

    embedding: torch.Tensor
    rows: torch.Tensor
    norm: torch.Tensor
    epsilon: float

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """[..., N] from hidden states [..., H] behind the last layer, over output embeddings [N, H]."""
        return F.linear(F.rms_norm(hidden.float(), self.norm.shape, self.norm, self.epsilon).to(rows.dtype), rows).float()


def draft_vocabulary(data, size: int) -> torch.Tensor:
    """int64 [size], the most frequent tokens of the answers in ascending order of ids; filled up with the lowest ids that are left."""
    counts = torch.bincount(torch.cat([tokens[answer:] for tokens, _, _, answer in (data[i] for i in range(len(data)))]).long())
    chosen = counts.argsort(descending=True, stable=True)[:size]
    chosen = chosen[counts[chosen] > 0]
    rest = torch.ones(max(len(counts), size) + len(chosen), dtype=torch.bool)
    rest[chosen] = False
    return torch.cat([chosen, torch.nonzero(rest)[: size - len(chosen), 0]]).sort().values


def feature_scale(data, conversations: int = 64) -> torch.Tensor:
    """[taps * H], root mean square of the hidden states of the first conversations behind their first tokens (which are far larger)."""
    hidden = torch.cat([data[i][1][1:] for i in range(min(conversations, len(data)))]).float()
    return hidden.square().mean(0).sqrt().clamp(min=1e-3).flatten()


class EagleRun(ResumableRun):
    """Training of a head on conversations that its target wrote, from the hidden states that it had meanwhile.

    Args:
        data: conversations, see `on_policy.Library`.
    """

    def __init__(self, recipe: Recipe, directory: Path, target: Target, data, shape: HeadShape):
        torch.manual_seed(recipe.seed)
        self.target, self.data = target, data
        self.vocabulary = draft_vocabulary(data, shape.draft_vocab_size)
        self.held_out = list(range(0, len(data), 50))  # conversations that are measured on and not learned from
        learned = sorted(set(range(len(data))) - set(self.held_out), key=lambda i: len(data[i][0])) or self.held_out
        self.batches = [learned[first : first + recipe.batch] for first in range(0, len(learned), recipe.batch)]  # of similar lengths
        self.rows = target.rows[self.vocabulary].bfloat16()  # [draft vocabulary, H]
        head = EagleHead(shape, target, self.rows, feature_scale(data))
        if recipe.start:
            head.load(Path(recipe.start))
        super().__init__(recipe, directory, head)

    def loss(self, step: int) -> torch.Tensor:
        epoch, place = divmod(step, len(self.batches))
        order = random.Random(self.recipe.seed * 1_000_003 + epoch).sample(range(len(self.batches)), len(self.batches))
        return self._loss_of(self.batches[order[place]], random.Random(self.recipe.seed * 1_000_003 - 1 - step))

    def _loss_of(self, chosen: list[int], draw: random.Random) -> torch.Tensor:
        """Cross entropy with the target's law over the draft vocabulary, where its favourite is in it."""
        recipe, batch = self.recipe, [self._read(i) for i in chosen]
        length = max(len(tokens) for tokens, *_ in batch)
        pad = lambda values, size: torch.stack([F.pad(v, (0, 0) * (v.dim() - 1) + (0, size - len(v))) for v in values])
        tokens, hidden, laws, weights = (pad(part, length + recipe.unroll * (n != 1)) for n, part in enumerate(zip(*batch)))
        lengths = torch.tensor([len(b[0]) for b in batch])
        chains = torch.stack([torch.tensor(sorted(draw.sample(range(length), max(1, int(recipe.chains * length))))) for _ in batch])
        with torch.autocast("cpu", torch.bfloat16):
            normed = self.model(hidden.flatten(2), tokens, lengths, recipe.unroll, chains)
        total, rates = torch.zeros(()), 0.0
        for i, step_normed in enumerate(normed):
            at = (torch.arange(length).expand(len(batch), -1) if i == 0 else chains) + 1 + i
            weight = weights.gather(1, at).flatten()
            kept = weight > 0
            law = laws.flatten(0, 1)[(at + torch.arange(len(batch))[:, None] * laws.shape[1]).flatten()[kept]]
            entropy = cross_entropy(F.linear(step_normed.flatten(0, 1)[kept].bfloat16(), self.rows), law)
            total = total + recipe.decay**i * (entropy * weight[kept]).sum() / weight.sum().clamp(min=1)
            rates += recipe.decay**i
        return total / rates

    @torch.no_grad()
    def _read(self, i: int) -> tuple[torch.Tensor, ...]:
        """Tokens [T], features [T, taps, H], the target's law after every token [T, draft vocabulary], and what each counts [T]."""
        recipe, (tokens, hidden, turn, answer) = self.recipe, self.data[i]
        tokens, hidden = tokens[: recipe.longest].long(), hidden[: recipe.longest]
        logits = self.target.logits(hidden[:, -1], self.rows)
        place = torch.arange(len(tokens))
        weight = torch.where(place >= answer - 1, 1.0, recipe.question * (place >= turn).float())
        return tokens, hidden.float(), logits.softmax(-1).bfloat16(), weight

    @torch.inference_mode()
    def acceptance(self, chosen: list[int]) -> list[float]:
        """1 - total variation distance to the target's law over its whole vocabulary at every step of the chains, on true contexts."""
        sums, counts, steps = [0.0] * self.recipe.unroll, 0.0, self.recipe.unroll
        rows = self.target.rows.bfloat16()
        for i in chosen:
            tokens, hidden, _, answer = (part[: self.recipe.longest] if torch.is_tensor(part) else part for part in self.data[i])
            length = len(tokens)
            last = length - 1 - steps
            if last < answer:
                continue
            law = self.target.logits(hidden[:, -1], rows).softmax(-1)[:, self.vocabulary]  # what is outside can never be accepted
            normed = self.model(hidden.float().flatten(1)[None], F.pad(tokens.long(), (0, steps))[None], torch.tensor([length]), steps)
            valid = torch.arange(length) >= answer - 1
            for s, step_normed in enumerate(normed):
                common = torch.minimum(law[1 + s : 1 + s + last], F.linear(step_normed[0, :last], self.rows.float()).softmax(-1)).sum(-1)
                sums[s] += float((common * valid[1 : 1 + last]).sum())
            counts += float(valid[1 : 1 + last].sum())
        return [s / max(counts, 1.0) for s in sums]

    def export(self, directory: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Writes `model.safetensors` and `config.json` with the names of EAGLE-3's checkpoints; d2t holds offsets, t2d members.

        Output embeddings are not among them: they are rows of the target's.
        """
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach() for name, p in self.model.named_parameters()}
        tensors["fc.weight"] = tensors["fc.weight"] / self.model.scale
        tensors = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
        tensors["d2t"] = self.vocabulary - torch.arange(len(self.vocabulary))
        tensors["t2d"] = torch.isin(torch.arange(len(self.target.rows)), self.vocabulary)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        config = {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", **asdict(self.model.shape), "sliding_window": self.recipe.longest, "vocab_size": len(self.target.rows), "num_hidden_layers": 1, "fastdecode_target": digest(self.target.norm), "eagle_config": {"eagle_aux_hidden_state_layer_ids": [tap - 1 for tap in self.recipe.taps]}}
        (directory / "config.json").write_text(json.dumps(config, indent=1))
