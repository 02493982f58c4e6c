"""Training data of the unmask filter: what the model itself writes on the tasks it was trained on."""

from __future__ import annotations

import random
from typing import Callable

from fastdecode.diffusion.generator import DiffusionGenerator
from fastdecode.diffusion.parallel_bench import TASKS
from fastdecode.training.masked_diffusion import MIX
from fastdecode.training.unmask_filter import LENGTH, Replay, UnmaskFilter, train_filter


def train(path: str, prompts: int, seed: int, progress: Callable[[str], None] = lambda line: None) -> tuple[UnmaskFilter, dict[str, float]]:
    """The filter for a checkpoint, and its quality on states that were held out.

    Args:
        prompts: how many answers, at one token per step, it learns from.
    """
    generator = DiffusionGenerator.from_pretrained(path, "llada", end_at_eos=False)
    draw = random.Random(f"unmask filter {seed}")
    questions = [TASKS[name].example(name, draw, draw.randint(2, 6)).prompt for name in draw.choices(list(MIX), list(MIX.values()), k=prompts)]
    ids = [list(generator.tokenizer(q)["input_ids"]) for q in questions]
    answers = []
    for first in range(0, len(ids), 64):
        answers += [_canvas(r) for r in generator.generate(ids[first : first + 64], max_new_tokens=LENGTH)]
        progress(f"{len(answers)} of {len(ids)} answers")
    kept = [i for i, answer in enumerate(answers) if len(answer) == LENGTH]
    replay = Replay(generator.target, [ids[i] for i in kept], [answers[i] for i in kept], generator.facts.mask)
    return train_filter(replay, seed=seed, progress=progress)


def _canvas(result) -> list[int]:
    """The whole canvas: an EOS and what stands behind it, which is EOS again."""
    return result.token_ids + [result.token_ids[-1]] * (LENGTH - len(result.token_ids))
