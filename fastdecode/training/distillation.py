"""Training a draft model to say what its target says: plain distillation, DistillSpec and AdaSPEC.

Methods: DistillSpec (Zhou et al. 2023, arXiv:2310.08461) lets the draft write part of the text that it learns from; AdaSPEC (Hu et al. 2025,
arXiv:2510.19779) leaves out the tokens that a draft of this size would not learn.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from fastdecode.speculative.generator import SpeculativeGenerator
from fastdecode.targets.native import NativeTarget
from fastdecode.training.divergences import DIVERGENCES, forward_kl, total_variation
from fastdecode.training.eagle import Target
from fastdecode.training.on_policy import Conversation, Conversations
from fastdecode.training.run import ResumableRun

HELD_OUT = 50  # every so many conversations are measured on and not learned from


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on besides its data, its initial weights and its reference.

    Attributes:
        divergence: one of `DIVERGENCES`.
        on_policy: chance of a batch to be text that the draft wrote, with the target's laws for it.
        finish: share of the steps, at the end, whose loss is forward KL and total variation in equal parts.
        keep: share of the tokens that count, those where the draft is furthest behind its reference; 1 needs no reference.
        batch: conversations of a step. longest: tokens of a conversation that are used.
        refresh: steps after which the draft writes anew; written: conversations that it writes then, of `answer` tokens at most.
    """

    steps: int
    divergence: str = "fkl"
    on_policy: float = 0.0
    finish: float = 0.0
    keep: float = 1.0
    batch: int = 8
    longest: int = 352
    refresh: int = 200
    written: int = 256
    answer: int = 128
    rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.1
    seed: int = 0

    def __post_init__(self):
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"divergence={self.divergence!r} is unknown; choose one of {', '.join(DIVERGENCES)}")
        for name in ("steps", "batch", "longest", "refresh", "written", "answer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name, least in {"on_policy": 0.0, "finish": 0.0, "keep": math.ulp(0.0)}.items():
            if not least <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a share between 0 and 1{'; 0 would keep no token' if name == 'keep' else ''}")


class Teacher:
    """A target whose laws are learned.

    Args:
        model: in eval mode, of a family that the compiled runtime knows and with an RMS norm behind its layers.
    """

    def __init__(self, model: PreTrainedModel):
        self.native, self.layers = NativeTarget(model), model.config.num_hidden_layers
        self.head = Target(model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach(), model.model.norm.weight.detach().float(), model.config.rms_norm_eps)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, V] from hidden states [N, H] behind the last layer."""
        return self.head.logits(hidden, self.head.rows)

    def read(self, tokens: Sequence[int]) -> torch.Tensor:
        """Hidden states [T, 1, H] behind the last layer after every token of a text."""
        kept: list[torch.Tensor] = []
        self.native.prefill(self.native.new_state(1, len(tokens) + 1, (self.layers,)), 0, tokens, kept.append)
        return torch.cat([part.permute(1, 0, 2).bfloat16() for part in kept])


class DistillationRun(ResumableRun):
    """Training of a draft on conversations that its target wrote, or in part on its own.

    Args:
        data: conversations, see `on_policy.Library`; the last of their hidden states is that behind the target's last layer.
        draft: a causal LM of transformers with the target's vocabulary; it is trained in place.
        reference: a draft of the same size that was trained before, for `keep` < 1.
    """

    def __init__(self, recipe: Recipe, directory: Path, teacher: Teacher, data: Sequence[Conversation], draft: PreTrainedModel, reference: PreTrainedModel | None = None):
        if recipe.keep < 1 and reference is None:
            raise ValueError(f"keep={recipe.keep} chooses tokens by a reference; pass reference=, a draft that was trained before")
        vocabulary = len(teacher.head.rows)
        if draft.config.vocab_size != vocabulary:
            raise ValueError(f"draft has {draft.config.vocab_size} tokens, its target {vocabulary}; they must share a tokenizer and its size")
        torch.manual_seed(recipe.seed)
        self.teacher, self.data, self.reference = teacher, data, reference.eval() if reference else None
        self.held_out = list(range(0, len(data), HELD_OUT))
        answered = {i for i in range(len(data)) if data[i][3] < min(len(data[i][0]), recipe.longest)}
        learned = sorted(answered - set(self.held_out), key=lambda i: len(data[i][0])) or self.held_out
        self.batches = [learned[first : first + recipe.batch] for first in range(0, len(learned), recipe.batch)]  # of similar lengths
        self._own: tuple[int, Conversations] | None = None  # what the draft wrote last, and when
        super().__init__(recipe, directory, draft.train())

    def loss(self, step: int) -> torch.Tensor:
        draw = random.Random(self.recipe.seed * 1_000_003 + step)
        if draw.random() < self.recipe.on_policy:
            own = self._written(step // self.recipe.refresh)
            return self._loss_of([own[i] for i in draw.sample(range(len(own)), min(self.recipe.batch, len(own)))], step)
        epoch, place = divmod(step, len(self.batches))
        order = random.Random(self.recipe.seed * 1_000_003 - 1 - epoch).sample(range(len(self.batches)), len(self.batches))
        return self._loss_of([self.data[i] for i in self.batches[order[place]]], step)

    def _loss_of(self, conversations: Sequence[Conversation], step: int) -> torch.Tensor:
        """Mean over the tokens of the answers that count."""
        tokens, places, hidden = self._batch(conversations)
        with torch.no_grad():
            target = self.teacher.logits(hidden)  # [N, V]
        draft = self._draft_logits(self.model, tokens, places)
        if step >= (1 - self.recipe.finish) * self.recipe.steps:
            return (forward_kl(target, draft) + total_variation(target, draft)).mean() / 2
        divergence = DIVERGENCES[self.recipe.divergence](target, draft)
        if self.recipe.keep == 1:
            return divergence.mean()
        with torch.no_grad():
            behind = divergence - DIVERGENCES[self.recipe.divergence](target, self._draft_logits(self.reference, tokens, places))
        return divergence[most_behind(behind, self.recipe.keep)].mean()

    def _batch(self, conversations: Sequence[Conversation]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens [B, T], padded; places [N, 2] (row, position) in front of the tokens of answers; the target's hidden states there [N, H]."""
        cut = [(tokens[: self.recipe.longest].long(), hidden, answer) for tokens, hidden, _, answer in conversations]
        padded = nn.utils.rnn.pad_sequence([tokens for tokens, *_ in cut], batch_first=True)
        spans = [range(answer - 1, len(tokens) - 1) for tokens, _, answer in cut]
        places = torch.tensor([(row, position) for row, span in enumerate(spans) for position in span])
        return padded, places, torch.cat([hidden[span.start : span.stop, -1] for (_, hidden, _), span in zip(cut, spans)])

    @staticmethod
    def _draft_logits(model: PreTrainedModel, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """[N, V] at these places."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.base_model(tokens, use_cache=False).last_hidden_state
            return model.get_output_embeddings()(hidden[places[:, 0], places[:, 1]]).float()

    def _written(self, number: int) -> Conversations:
        """What the draft wrote after `number` refreshes; a run that is resumed finds it in its directory."""
        if self._own and self._own[0] == number:
            return self._own[1]
        path = self.directory / f"written-{number:04}.safetensors"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            Conversations.of(self._write(number)).save(path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
        self._own = number, Conversations.load(path)
        return self._own[1]

    def _write(self, number: int) -> list[Conversation]:
        """The draft answers questions of the data at temperature 1."""
        learned = [i for batch in self.batches for i in batch]
        chosen = random.Random(self.recipe.seed * 1_000_003 + number).sample(learned, min(self.recipe.written, len(learned)))
        prompts = [self.data[i][0][: self.data[i][3]].tolist() for i in chosen]
        generator = SpeculativeGenerator(self.model.eval(), drafter="none")
        written: list[Conversation] = []
        for first in range(0, len(prompts), 64):
            some = prompts[first : first + 64]
            results = generator.generate(some, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=self.recipe.answer, seed=self.recipe.seed + number)
            for i, prompt, result in zip(chosen[first:], some, results):
                tokens = prompt + result.token_ids
                written.append((torch.tensor(tokens, dtype=torch.int32), self.teacher.read(tokens), self.data[i][2], len(prompt)))
        self.model.train()
        return written

    @torch.no_grad()
    def acceptance(self, limit: int | None = None) -> list[tuple[float, int]]:
        """Of every held-out conversation: sum of 1 - total variation distance over the tokens of the answer that its target wrote, and their number."""
        self.model.eval()
        found = []
        for i in self.held_out[:limit]:
            tokens, places, hidden = self._batch([self.data[i]])
            if len(places):
                found.append((float((1 - total_variation(self.teacher.logits(hidden), self._draft_logits(self.model, tokens, places))).sum()), len(places)))
        self.model.train()
        return found


def most_behind(behind: torch.Tensor, keep: float) -> torch.Tensor:
    """bool [N]: the share `keep` of the tokens with the largest values, and those that tie with the last of them."""
    kept = max(1, round(keep * len(behind)))
    return behind >= behind.topk(kept).values[-1]
