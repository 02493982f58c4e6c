"""From a chat model to a small draft model for it, by one of three methods."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Callable

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from fastdecode import checkpoints
from fastdecode.training.distillation import DistillationRun, Recipe, Teacher
from fastdecode.training.on_policy import Writer, write

# What a method changes in the recipe. Plain distillation: forward KL on what the target wrote. AdaSPEC: half of the steps train its reference.
METHODS = {"kl": {}, "distillspec": {"on_policy": 0.5, "finish": 0.2}, "adaspec": {"keep": 0.4}}


def small_draft(target: PreTrainedModel, hidden_size: int, layers: int, seed: int) -> LlamaForCausalLM:
    """An untrained draft with the target's vocabulary and end of text, embeddings tied, heads of 64 (of 32 below that)."""
    if hidden_size % (64 if hidden_size >= 64 else 32):
        raise ValueError(f"hidden_size={hidden_size} must be 32 or a multiple of 64, the size of a head")
    torch.manual_seed(seed)
    heads = max(1, hidden_size // 64)
    config = LlamaConfig(
        vocab_size=len(target.get_output_embeddings().weight), hidden_size=hidden_size, intermediate_size=3 * hidden_size, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=target.config.max_position_embeddings, tie_word_embeddings=True, bos_token_id=target.config.bos_token_id, eos_token_id=target.generation_config.eos_token_id, pad_token_id=target.config.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def distill(
    method: str, directory: Path, teacher: Teacher, data, make_draft: Callable[[], PreTrainedModel], recipe: Recipe, progress: Callable[[int, float], None] = lambda step, loss: None
) -> DistillationRun:
    """A run of one of `METHODS`, trained to its end. `recipe` gives the steps of the whole method, its reference included."""
    if method != "adaspec":
        run = DistillationRun(replace(recipe, **METHODS[method]), directory / method, teacher, data, make_draft())
        run.train(progress=progress)
        return run
    half = recipe.steps // 2
    reference = DistillationRun(replace(recipe, steps=half), directory / "adaspec-reference", teacher, data, make_draft())
    reference.train(progress=progress)
    run = DistillationRun(replace(recipe, steps=recipe.steps - half, **METHODS[method]), directory / "adaspec", teacher, data, make_draft(), reference.model)
    run.train(progress=lambda step, loss: progress(half + step, loss))
    return run


def train(
    name: str, directory: Path, method: str, answer_tokens: int, recipe: Recipe, draft: str | None = None, hidden_size: int = 128, layers: int = 4, keep_out: Path | None = None,
    wrote: Callable[[int], None] = lambda tokens: None, trained: Callable[[int, float], None] = lambda step, loss: None,
) -> DistillationRun:  # fmt: skip
    """Trains a draft model in `directory`; an interrupted call goes on where it was. The model itself comes into `directory`/draft.

    Args:
        name: path or hub name of a chat model, or a checkpoint that `pull` knows.
        method: one of `METHODS`. draft: path or hub name of a model to begin with; else one of these sizes is made.
        keep_out: JSON lines with `turns` that must not be learned from.
    """
    path = str(checkpoints.pull(name)) if name.lower() in checkpoints.CHECKPOINTS else name
    target, tokenizer = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval(), AutoTokenizer.from_pretrained(path)
    teacher = Teacher(target)
    excluded = [turn for line in keep_out.read_text().splitlines() for turn in json.loads(line)["turns"]] if keep_out else []
    data = write(Writer(teacher.native, tokenizer, (teacher.layers,), recipe.seed), directory / "data", answer_tokens, excluded, progress=wrote)
    make_draft = lambda: AutoModelForCausalLM.from_pretrained(draft, dtype=torch.float32) if draft else small_draft(target, hidden_size, layers, recipe.seed)
    run = distill(method, directory, teacher, data, make_draft, recipe, trained)
    run.model.eval().save_pretrained(directory / "draft")
    tokenizer.save_pretrained(directory / "draft")
    return run
