"""The commands around masked diffusion: `diffuse` and `bench diffusion`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fastdecode.cli_options import err, out

EMBEDDED = "lists"

Model = Annotated[str, typer.Option(help=f"Path or hub name of a LLaDA or Dream checkpoint; {EMBEDDED} is the small model that comes with fastdecode-assets.")]


def diffuse(
    prompt: Annotated[str, typer.Argument(help="The prompt, as it is; \\n stands for a line break.")],
    model: Model = EMBEDDED,
    preset: Annotated[str, typer.Option(help="auto, llada, dkv-decode, dkv-greedy, dkv-pd, fast-dllm, fast-dllm-v2, dream, adablock, freedave, prophet, credit, learn2pd, dparallel or eoser-ass.")] = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Size of the canvas.")] = 32,
    temperature: Annotated[Optional[float], typer.Option(min=0.0, help="0 takes the most probable tokens; by default what the preset says.")] = None,
    top_p: Annotated[Optional[float], typer.Option(help="Draw from the fewest tokens whose probabilities reach this sum.")] = None,
    top_k: Annotated[Optional[int], typer.Option(min=0, help="Draw from so many of the most probable tokens.")] = None,
    cfg_scale: Annotated[Optional[float], typer.Option(min=0.0, help="Strength of classifier-free guidance.")] = None,
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
    options = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "cfg_scale": cfg_scale, "seed": 0 if seed is None else seed}
    if show:
        with Live(console=out, refresh_per_second=20) as live:
            for state in generator.stream(inputs, max_new_tokens=max_new_tokens, **options):
                live.update(Text(f"{state.text}\n[pass {state.forwards}]"))
    result = generator.generate(inputs, max_new_tokens=max_new_tokens, **options)
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
    methods: Annotated[str, typer.Option(help="Comma-separated: presets, peer:llada (the plain sampler in torch), or points of a policy: top-4, threshold-0.8, factor-1.3, freedave-6, drafts-6.")] = "peer:llada,llada,fast-dllm,freedave,learn2pd",
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
    table = Table("task", "method", "exact match", "passes", "tokens/pass", "tokens/s", "of peer")
    for task in ("mean", *next(iter(methods.values()))["per_task"]):
        for name, found in methods.items():
            m = found if task == "mean" else found["per_task"][task]
            speed = f"{m['speedup_vs_peer']:.1f}x" if "speedup_vs_peer" in m else "-"
            table.add_row(task, name, f"{m['exact_match']:.2f}", f"{m['nfe']:.1f}", f"{m['tokens_per_forward']:.1f}", f"{m['tokens_per_second']:.0f}", speed)
        table.add_section()
    return table


def checkpoint(model: str) -> str:
    from fastdecode import assets

    return str(assets.find(model)) if model == EMBEDDED else model


def register(app: typer.Typer, bench: typer.Typer) -> None:
    app.command(epilog="Example: fastdecode diffuse 'Compute 27+15:\\n' --show")(diffuse)
    bench.command("diffusion", epilog="Example: fastdecode bench diffusion --tasks copy,sort,shuffle --methods llada,top-4,threshold-0.9")(bench_diffusion)
