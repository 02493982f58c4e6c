"""The commands that train: `train diffusion | filter | eagle | draft`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fastdecode.cli_diffusion import EMBEDDED, Model, checkpoint
from fastdecode.cli_options import DEFAULT_MODEL, err, out

train = typer.Typer(no_args_is_help=True, help="Train small models on this machine.")

Target = Annotated[str, typer.Option(help="Path or hub name of a chat model; the default is pulled when needed.")]
KeepOut = Annotated[Optional[Path], typer.Option(exists=True, dir_okay=False, help="Spec-Bench JSON lines whose questions must not be learned from.")]
RunDirectory = Annotated[Path, typer.Option("--out", file_okay=False, help="Data, checkpoints and what is trained; what is there already is used.")]
AnswerTokens = Annotated[int, typer.Option(min=1, help="Tokens of answers that the model writes to learn from.")]
Steps = Annotated[int, typer.Option(min=1)]
TrainingSeed = Annotated[int, typer.Option(min=0)]


@train.command("diffusion", epilog="Example: fastdecode train diffusion --out runs/lists")
def train_diffusion(
    out_dir: Annotated[Path, typer.Option("--out", file_okay=False, help="Checkpoints and the model; an interrupted run goes on from there.")],
    steps: Annotated[Optional[int], typer.Option(min=1, help="Instead of the recipe's.")] = None,
    seed: TrainingSeed = 0,
    save_every: Annotated[float, typer.Option(min=1.0, help="Seconds between checkpoints.")] = 300.0,
) -> None:
    """A LLaDA-layout model on lists, sums and records (about an hour on two cores)."""
    from rich.progress import Progress

    from fastdecode.training.masked_diffusion import Recipe, Run

    run = Run(Recipe(seed=seed, **({"steps": steps} if steps else {})), out_dir)
    with Progress(console=err) as bar:
        task = bar.add_task("training", total=run.recipe.steps, completed=run.step)
        run.train(save_every, lambda step, loss: bar.update(task, completed=step, description=f"loss {loss:.4f}"))
    run.export(out_dir / "model")
    out.print(f"model in {out_dir / 'model'} after {run.seconds:.0f} s")


@train.command("filter", epilog="Example: fastdecode train filter --model runs/lists/model --out unmask_filter.safetensors")
def train_filter(
    out_file: Annotated[Path, typer.Option("--out", dir_okay=False, help="Where the filter is written.")],
    model: Model = EMBEDDED,
    prompts: Annotated[int, typer.Option(min=10, help="Number of prompts.")] = 1500,
    seed: TrainingSeed = 0,
) -> None:
    """The filter of Learn2PD for a model that was trained with `train diffusion` (minutes)."""
    from fastdecode.training.list_filter import train as fit

    network, quality = fit(checkpoint(model), prompts, seed, lambda line: err.print(line, highlight=False))
    network.save(out_file)
    out.print(f"filter in {out_file}: {quality}")


@train.command("eagle", epilog="Example: fastdecode train eagle --out runs/head --keep-out bench/data/spec_bench_120.jsonl")
def train_eagle(
    out_dir: RunDirectory,
    target: Target = DEFAULT_MODEL,
    answer_tokens: AnswerTokens = 1_250_000,
    steps: Steps = 2200,
    draft_vocabulary: Annotated[int, typer.Option(min=16, help="Tokens that the head can draft.")] = 8192,
    keep_out: KeepOut = None,
    start: Annotated[Optional[Path], typer.Option(exists=True, file_okay=False, help="A head for the same model to go on from.")] = None,
    seed: TrainingSeed = 0,
) -> None:
    """A draft head for a chat model, from text that the model writes itself (hours on two cores)."""
    from rich.progress import Progress

    from fastdecode.training import eagle_recipe

    with Progress(console=err) as bar:
        writing = bar.add_task("writing", total=answer_tokens)
        training = bar.add_task("training", total=steps)
        run = eagle_recipe.train(
            target, out_dir, answer_tokens, steps, draft_vocabulary, keep_out, start, seed,
            lambda tokens: bar.update(writing, completed=tokens), lambda step, loss: bar.update(training, completed=step, description=f"loss {loss:.4f}"),
        )  # fmt: skip
    out.print(f"head in {out_dir / 'head'}; kept per step of a draft: {', '.join(f'{a:.3f}' for a in run.acceptance(run.held_out))}")


@train.command("draft", epilog="Example: fastdecode train draft --method adaspec --out runs/draft --keep-out bench/data/spec_bench_120.jsonl")
def train_draft(
    out_dir: RunDirectory,
    target: Target = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="kl (what the target wrote), distillspec (half of it by the draft), or adaspec (only tokens that the draft can learn).")] = "distillspec",
    divergence: Annotated[str, typer.Option(help="fkl, rkl, jsd or tvd.")] = "fkl",
    draft: Annotated[Optional[str], typer.Option(help="Path or hub name of a model with the same tokenizer to begin with, instead of a new one.")] = None,
    hidden_size: Annotated[int, typer.Option(min=32, help="Of a new draft: 32 or a multiple of 64.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Of a new draft.")] = 4,
    answer_tokens: AnswerTokens = 1_250_000,
    steps: Steps = 2000,
    keep_out: KeepOut = None,
    seed: TrainingSeed = 0,
) -> None:
    """A small draft model for a chat model, from text that both write themselves (hours on two cores)."""
    from rich.progress import Progress

    from fastdecode.training import draft_recipe
    from fastdecode.training.distillation import Recipe

    if method not in draft_recipe.METHODS:
        raise ValueError(f"--method={method!r} is unknown; choose one of {', '.join(draft_recipe.METHODS)}")
    recipe = Recipe(steps=steps, divergence=divergence, seed=seed)
    with Progress(console=err) as bar:
        writing = bar.add_task("writing", total=answer_tokens)
        training = bar.add_task("training", total=steps)
        run = draft_recipe.train(
            target, out_dir, method, answer_tokens, recipe, draft, hidden_size, layers, keep_out,
            lambda tokens: bar.update(writing, completed=tokens), lambda step, loss: bar.update(training, completed=step, description=f"loss {loss:.4f}"),
        )  # fmt: skip
    kept, tokens = map(sum, zip(*run.acceptance()))
    out.print(f"draft model in {out_dir / 'draft'}; a sampled draft is kept with a chance of {kept / tokens:.3f}")
