"""The commands around masked diffusion and training: `diffuse`, `bench diffusion`, `train diffusion | filter | eagle`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

EMBEDDED = "lists"
out, err = Console(), Console(stderr=True)
train = typer.Typer(no_args_is_help=True, help="Train small models on this machine.")

Model = Annotated[str, typer.Option(help=f"Path or hub name of a LLaDA or Dream checkpoint; {EMBEDDED} is the small model that comes with fastdecode-assets.")]


def diffuse(
    prompt: Annotated[str, typer.Argument(help="The prompt, as it is; \\n stands for a line break.")],
    model: Model = EMBEDDED,
    preset: Annotated[str, typer.Option(help="auto, llada, dkv-decode, dkv-greedy, dkv-pd, fast-dllm, adablock, freedave, prophet, credit, learn2pd, dparallel or eoser-ass.")] = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Size of the canvas.")] = 32,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the most probable tokens.")] = 0.0,
    seed: Annotated[Optional[int], typer.Option(min=0, help="Of the random numbers.")] = None,
    chat: Annotated[bool, typer.Option(help="Put the prompt into the chat template.")] = False,
    show: Annotated[bool, typer.Option(help="Show the canvas after every pass.")] = False,
    stats: Annotated[bool, typer.Option(help="Print passes and times afterwards.")] = False,
    trace: Annotated[Optional[Path], typer.Option(help="Write position, pass and score of every commit into this JSON file.")] = None,
    heatmap: Annotated[Optional[Path], typer.Option(help="Draw them into this PNG file.")] = None,
) -> None:
    """Fill a canvas behind a prompt with a masked-diffusion model."""
    from fastdecode import DiffusionGenerator, plots

    if heatmap:
        plots.require()
    generator = DiffusionGenerator.from_pretrained(checkpoint(model), preset)
    text = prompt.replace("\\n", "\n")
    inputs = [{"role": "user", "content": text}] if chat else text
    options = {"temperature": temperature, "seed": 0 if seed is None else seed}
    if show:
        with Live(console=out, refresh_per_second=20) as live:
            for state in generator.stream(inputs, max_new_tokens, **options):
                live.update(Text(f"{state.text}\n[pass {state.forwards}]"))
    result = generator.generate(inputs, max_new_tokens, **options)
    print(result.text)
    if stats:
        s = result.stats
        err.print(f"{len(result.token_ids)} tokens in {s.forwards} passes ({s.tokens_per_forward:.2f} per pass), {s.recomputed} positions computed, {s.refreshes} refreshes, {1e3 * s.decode_seconds:.1f} ms", highlight=False)
    if trace:
        trace.write_text(json.dumps({"tokens": result.token_ids, "text": result.text, "commits": result.stats.commit_order}))
    if heatmap:
        plots.heatmap(result.stats.commit_order, max_new_tokens, heatmap)


def bench_diffusion(
    model: Model = EMBEDDED,
    methods: Annotated[str, typer.Option(help="Comma-separated: presets, peer:llada (the plain sampler in torch), or points of a policy: top-4, threshold-0.8, factor-1.3.")] = "peer:llada,llada,fast-dllm,freedave,learn2pd",
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks of ParallelBench; all by default.")] = "",
    examples: Annotated[int, typer.Option(min=1, help="Per task.")] = 25,
    repeats: Annotated[int, typer.Option(min=1)] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 32,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    seed: Annotated[int, typer.Option(min=0, help="Of the examples.")] = 42,
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Write the report here.")] = None,
    plot: Annotated[Optional[Path], typer.Option(help="Draw the report into this PNG file.")] = None,
) -> None:
    """Quality and speed of policies on tasks where parallel commits do harm and where they do not."""
    from rich.progress import track

    from fastdecode import diffusion_benchmark as benchmark
    from fastdecode import plots
    from fastdecode.diffusion.parallel_bench import TASKS

    if plot:
        plots.require()
    settings = benchmark.Settings(max_new_tokens, dtype=dtype)
    runners = benchmark.make_methods(checkpoint(model), methods.split(","), settings)
    report = benchmark.run(runners, tasks.split(",") if tasks else list(TASKS), examples, repeats, settings, seed, lambda x: track(x, console=err, transient=True))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1))
    if plot:
        plots.quality(report, plot)
    out.print(_table(report))


def _table(report: dict[str, Any]) -> Table:
    methods = report["methods"]
    table = Table("task", *methods, title="exact match, passes per answer, and speed against the peer or in tokens per second")
    cell = lambda m: f"{m['exact_match']:.2f}  {m['nfe']:.1f}  " + (f"{m['speedup_vs_peer']:.1f}x" if "speedup_vs_peer" in m else f"{m['tokens_per_second']:.0f}/s")
    table.add_row("mean", *map(cell, methods.values()))
    for task in next(iter(methods.values()))["per_task"]:
        table.add_row(task, *(cell(m["per_task"][task]) for m in methods.values()))
    return table


@train.command("diffusion", epilog="Example: fastdecode train diffusion --out runs/lists")
def train_diffusion(
    out_dir: Annotated[Path, typer.Option("--out", file_okay=False, help="Checkpoints and the model; an interrupted run goes on from there.")],
    steps: Annotated[Optional[int], typer.Option(min=1, help="Instead of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
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
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """The filter of Learn2PD for a model that was trained with `train diffusion` (minutes)."""
    from fastdecode.training.list_filter import train as fit

    network, quality = fit(checkpoint(model), prompts, seed, lambda line: err.print(line, highlight=False))
    network.save(out_file)
    out.print(f"filter in {out_file}: {quality}")


@train.command("eagle", epilog="Example: fastdecode train eagle --out runs/head --keep-out bench/data/spec_bench_120.jsonl")
def train_eagle(
    out_dir: Annotated[Path, typer.Option("--out", file_okay=False, help="Data, checkpoints and the head; what is there already is used.")],
    target: Annotated[str, typer.Option(help="Path or hub name of a chat model; the default is pulled when needed.")] = "smollm2-135m-instruct",
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of answers that the model writes to learn from.")] = 1_250_000,
    steps: Annotated[int, typer.Option(min=1)] = 2200,
    draft_vocabulary: Annotated[int, typer.Option(min=16, help="Tokens that the head can draft.")] = 8192,
    keep_out: Annotated[Optional[Path], typer.Option(exists=True, dir_okay=False, help="Spec-Bench JSON lines whose questions must not be learned from.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """A draft head for a chat model, from text that the model writes itself (hours on two cores)."""
    from rich.progress import Progress

    from fastdecode.training import eagle_recipe

    with Progress(console=err) as bar:
        writing = bar.add_task("writing", total=answer_tokens)
        training = bar.add_task("training", total=steps)
        run = eagle_recipe.train(
            target, out_dir, answer_tokens, steps, draft_vocabulary, keep_out, seed,
            lambda tokens: bar.update(writing, completed=tokens), lambda step, loss: bar.update(training, completed=step, description=f"loss {loss:.4f}"),
        )  # fmt: skip
    out.print(f"head in {out_dir / 'head'}; kept per step of a draft: {', '.join(f'{a:.3f}' for a in run.acceptance(run.held_out))}")


def checkpoint(model: str) -> str:
    from fastdecode import assets

    return str(assets.find(model)) if model == EMBEDDED else model


def register(app: typer.Typer, bench: typer.Typer) -> None:
    app.command(epilog="Example: fastdecode diffuse 'Compute 27+15:\\n' --show")(diffuse)
    bench.command("diffusion", epilog="Example: fastdecode bench diffusion --tasks copy,sort,shuffle --methods llada,top-4,threshold-0.9")(bench_diffusion)
    app.add_typer(train, name="train")
