"""What the commands share: options, output and how models are loaded."""

from __future__ import annotations

from typing import Annotated, Iterator, Optional, Sequence

import typer
from rich.console import Console
from typer.core import TyperCommand

DEFAULT_MODEL = "smollm2-135m-instruct"
out, err = Console(), Console(stderr=True)

Model = Annotated[str, typer.Option(help="Path or hub name; the default is pulled when needed.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
DrafterName = Annotated[str, typer.Option(help="auto, suffix, prompt_lookup, adaptive_trigram, eagle, none, or path/name of a draft model or a path of an EAGLE head.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Upper bound of new tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 decodes greedily.")]
Seed = Annotated[Optional[int], typer.Option(min=0, help="Of the random numbers.")]


class SeveralValues(TyperCommand):
    """A command whose options that may be given several times also take several values at once: --n 2 3 4."""

    def parse_args(self, ctx, args):
        several = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        return super().parse_args(ctx, list(_one_by_one(args, several)))


def _one_by_one(args: Sequence[str], several: set[str]) -> Iterator[str]:
    """--n 2 3 4 as --n 2 --n 3 --n 4."""
    before: list[str] = []
    for arg in args:
        if arg.startswith("--"):
            before = [arg]
        elif len(before) > 1 and before[0] in several:
            yield before[0]
        else:
            before.append(arg)
        yield arg


def checkpoint(model: str) -> str:
    """A path or hub name; the known checkpoint is fetched when needed."""
    from fastdecode.checkpoints import CHECKPOINTS
    from fastdecode.checkpoints import pull as fetch

    return str(fetch(model)) if model.lower() in CHECKPOINTS else model


def load(model: str, drafter: str, dtype: str, peers: bool = False, weights: str = "auto"):
    """A generator; with `peers` its model can also be run by transformers."""
    from transformers.utils import logging

    from fastdecode import SpeculativeGenerator

    logging.disable_progress_bar()
    path = checkpoint(model)
    if not peers:
        return SpeculativeGenerator.from_pretrained(path, drafter=drafter, dtype=dtype, weights=weights)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return SpeculativeGenerator(AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval(), AutoTokenizer.from_pretrained(path), drafter)


def numbers(text: str, option: str) -> list[int]:
    parts = text.split(",")
    if not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise ValueError(f"{option}={text!r} must be positive numbers with commas between them")
    return [int(p) for p in parts]
