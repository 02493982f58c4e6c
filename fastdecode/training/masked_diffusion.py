"""Training a small masked-diffusion model on lists, arithmetic and records (`fastdecode train diffusion`)."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from fastdecode.diffusion.parallel_bench import TASKS, pieces
from fastdecode.training.masked_transformer import MaskedTransformer, Shape
from fastdecode.training.piece_tokenizer import piece_tokenizer
from fastdecode.training.run import ResumableRun

ANSWER = 32  # slots, which the answer and EOS fill
LENGTH = 64  # of a whole sequence
# Half of the examples copy something, which has to be learned before anything else; sorting and sums need the most of the rest.
MIX = {"copy": 2, "reverse": 2, "insert_index": 2, "remove_index": 2, "replace_index": 2, "json": 1, "sort": 6, "add": 3, "subtract": 3, "shuffle": 2, "insert_random": 1.5, "remove_random": 1.5, "replace_random": 1.5}
FIRST_MIX = {"copy": 4, "reverse": 3, "insert_index": 1, "remove_index": 1, "replace_index": 1, "json": 1, "sort": 1}


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on.

    Attributes:
        steps, batch: optimiser steps and examples in each.
        rate: learning rate of the matrices (Muon, scaled as AdamW) and of the rest (AdamW), with a warm-up and a cosine to a tenth.
        seed: of weights, data and masks; step i draws from (seed, i) alone, so a run that is resumed goes on unchanged.
    """

    steps: int = 9000
    batch: int = 64
    rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.05
    seed: int = 0
    layers: int = 6


def longest(step: int, steps: int) -> int:
    """Items of a list: short ones first."""
    return next(length for share, length in ((0.05, 3), (0.1, 4), (0.15, 5), (math.inf, 6)) if step < share * steps)


class Batches:
    """Batch number i of a recipe."""

    def __init__(self, recipe: Recipe, tokenizer):
        self.recipe, self.tokenizer = recipe, tokenizer
        self.eos, self.mask = tokenizer.eos_token_id, tokenizer.mask_token_id

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        recipe, generator = self.recipe, random.Random(self.recipe.seed * 1_000_003 + step)
        mix = FIRST_MIX if step < 0.1 * recipe.steps else MIX
        names = generator.choices(list(mix), list(mix.values()), k=recipe.batch)
        examples = [TASKS[name].example(name, generator, generator.randint(2, longest(step, recipe.steps))) for name in names]
        prompts = self.tokenizer([e.prompt for e in examples])["input_ids"]
        answers = self.tokenizer([e.answer for e in examples])["input_ids"]
        tokens = torch.full((recipe.batch, LENGTH), self.eos)
        target = torch.full((recipe.batch, ANSWER), self.eos)
        weight = torch.zeros(recipe.batch, ANSWER)
        for i, (prompt, answer) in enumerate(zip(prompts, answers)):
            target[i, : len(answer)] = torch.tensor(answer)
            tokens[i, : len(prompt)] = torch.tensor(prompt)
            # Exact numbers of masks, spread over the batch; every number tells as much as a whole answer.
            masks = 1 + int((generator.random() + i) * ANSWER / recipe.batch) % ANSWER
            hidden = torch.tensor(generator.sample(range(ANSWER), masks))
            weight[i, hidden] = ANSWER / masks
            tokens[i, len(prompt) : len(prompt) + ANSWER] = target[i].scatter(0, hidden, self.mask)
            weight[i, len(answer) + 1 :] *= 0.1  # the first EOS counts, the padding behind it hardly
        first = torch.tensor([len(p) for p in prompts])
        return {"tokens": tokens, "target": target, "weight": weight, "first": first, "lengths": first + ANSWER}


def loss_of(model: Callable, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The bound of LLaDA (Nie et al. 2025, eq. 3) with exact numbers of masks."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch["tokens"], batch["lengths"], batch["first"], ANSWER)
    loss = F.cross_entropy(logits.float().flatten(0, 1), batch["target"].flatten(), reduction="none")
    return (loss * batch["weight"].flatten()).sum() / batch["weight"].numel()


class Run(ResumableRun):
    """Training of the small masked-diffusion model."""

    def __init__(self, recipe: Recipe, directory: Path):
        torch.manual_seed(recipe.seed)
        self.tokenizer = piece_tokenizer(pieces())
        self.batches = Batches(recipe, self.tokenizer)
        super().__init__(recipe, directory, MaskedTransformer(Shape(len(self.tokenizer), n_layers=recipe.layers)))

    def loss(self, step: int) -> torch.Tensor:
        return loss_of(self.model, self.batches[step])

    def export(self, directory: Path) -> None:
        """Writes the model as a LLaDA checkpoint with its tokenizer: config.json and model.safetensors in bfloat16."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.transformer.{name}": p.detach().to(torch.bfloat16).contiguous() for name, p in self.model.named_parameters()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        config = self.model.shape.config(self.tokenizer.mask_token_id, self.tokenizer.eos_token_id)
        config["delimiter_token_ids"] = self.tokenizer.convert_tokens_to_ids(['", "', ', "'])  # what ends an entry, as line ends do elsewhere
        (directory / "config.json").write_text(json.dumps(config, indent=1))
        self.tokenizer.save_pretrained(directory)
