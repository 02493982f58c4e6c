"""From a chat model to a draft head for it: the model writes, the head learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Callable

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdecode import checkpoints
from fastdecode.targets.native import NativeTarget
from fastdecode.training.eagle import EagleRun, HeadShape, Recipe, Target
from fastdecode.training.on_policy import Writer, write


EVALUATE, HELD_OUT = 400, 40  # steps between evaluations, conversations of one
READINGS = 256  # conversations about longer texts in a file of data


def head_shape(config, draft_vocabulary: int) -> HeadShape:
    """A head as wide as one layer of the model."""
    return HeadShape(
        config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        min(draft_vocabulary, config.vocab_size), rms_norm_eps=config.rms_norm_eps,
    )  # fmt: skip


def train(
    name: str, directory: Path, answer_tokens: int, steps: int, draft_vocabulary: int, keep_out: Path | None, start: Path | None, seed: int, wrote: Callable[[int], None] = lambda tokens: None, trained: Callable[[int, float], None] = lambda step, loss: None,
) -> EagleRun:  # fmt: skip
    """Trains a head in `directory`; an interrupted call goes on where it was.

    Args:
        name: path or hub name of a chat model, or a checkpoint that `pull` knows.
        keep_out: JSON lines with `turns` that must not be learned from.
        start: a head to go on from, with half the learning rate.
    """
    path = str(checkpoints.pull(name)) if name.lower() in checkpoints.CHECKPOINTS else name
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval(), AutoTokenizer.from_pretrained(path)
    layers = model.config.num_hidden_layers
    recipe = Recipe((2, layers // 2, layers - 3, layers), steps=steps, seed=seed)
    if start:
        recipe = replace(recipe, start=str(start.resolve()), rate=recipe.rate / 2)
    excluded = [turn for line in keep_out.read_text().splitlines() for turn in json.loads(line)["turns"]] if keep_out else []
    data = write(Writer(NativeTarget(model), tokenizer, recipe.taps, seed), directory / "data", answer_tokens, excluded, readings=READINGS, progress=wrote)
    target = Target(model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach(), model.model.norm.weight.detach().float(), model.config.rms_norm_eps)
    run = EagleRun(recipe, directory / "run", target, data, head_shape(model.config, draft_vocabulary))
    run.train(progress=lambda step, loss: (_note_acceptance(run, directory), trained(step, loss)))
    run.export(directory / "head")
    return run


def _note_acceptance(run: EagleRun, directory: Path) -> None:
    """Appends what is kept of drafts on held-out conversations to acceptance.jsonl, and exports the head so far."""
    if run.step % EVALUATE == 0:
        line = {"step": run.step, "seconds": round(run.seconds), "kept": [round(a, 4) for a in run.acceptance(run.held_out[:HELD_OUT])]}
        with open(directory / "acceptance.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        run.export(directory / "head")
