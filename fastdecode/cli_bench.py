"""The commands that measure: `bench speculative | step` and `acceptance`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Iterator, Optional

import typer
from rich.table import Table

from fastdecode.cli_options import DEFAULT_MODEL, Dtype, MaxNewTokens, Model, SeveralValues, Temperature, checkpoint, err, load, numbers, out


def acceptance(
    prompts: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Spec-Bench JSON lines.")],
    target: Annotated[str, typer.Option(help="Path or hub name; the default is pulled when needed.")] = DEFAULT_MODEL,
    draft: Annotated[str, typer.Option(help="Path or hub name of a model with the same tokenizer; the target itself with --without-layers.")] = "",
    without_layers: Annotated[str, typer.Option(help="Layers to take out of the draft, e.g. 12,18: a draft model where there is no other.")] = "",
    temperature: Annotated[Optional[list[float]], typer.Option(min=0.01, help="One or several; 0.8 and 1.0 by default.")] = None,
    n: Annotated[Optional[list[int]], typer.Option("--n", min=1, help="Numbers of drafts, one or several; 2, 4 and 8 by default.")] = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Use this many prompts only.")] = None,
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Write the report here.")] = None,
    plot: Annotated[Optional[Path], typer.Option(help="Draw the report into this PNG file.")] = None,
) -> None:
    """How often drafts of one model are kept by another: the optimum for every way of drafting, and what verifiers reach."""
    from rich.progress import track

    from fastdecode import acceptance as comparison
    from fastdecode import benchmark, plots

    if plot:
        plots.require()
    if not draft and not without_layers:
        raise ValueError("--draft is missing; name a model with the same tokenizer, or take layers out of the target with --without-layers")
    big, small, tokenizer = comparison.load_pair(checkpoint(target), checkpoint(draft or target), numbers(without_layers, "--without-layers") if without_layers else [])
    encoded = [(category, benchmark.chat_ids(tokenizer, text)) for category, text in benchmark.load_prompts(prompts, limit)]
    settings = comparison.Settings(tuple(temperature or (0.8, 1.0)), tuple(n or (2, 4, 8)))
    report = comparison.compare(big, small, encoded, settings, lambda x: track(x, console=err, transient=True))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1))
    if plot:
        plots.acceptance(report, plot)
    for table in _acceptance_tables(report):
        out.print(table)


def _acceptance_tables(report: dict[str, Any]) -> Iterator[Table]:
    from fastdecode.acceptance import BASE, OVERDRAWN

    cells = report["rates"]
    heads = [f"T {c['temperature']:g}, {c['drafts']} drafts" for c in cells]
    interval = lambda v, form: f"{v['rate']:{form}} [{v['low']:{form}}, {v['high']:{form}}]"
    table = Table("", *heads, title=f"chance that a draft is kept, {cells[0]['positions']} positions, mean of categories [95 % interval]")
    for name in cells[0]["verifiers"]:
        table.add_row(name, *(interval(c["verifiers"][name], ".3f") for c in cells))
    yield table
    more = Table("", *heads, title=f"{OVERDRAWN} over {BASE}, about as many distinct drafts")
    for category in cells[0]["more_than_base"][OVERDRAWN]["per_category"]:
        more.add_row(category, *(interval(c["more_than_base"][OVERDRAWN]["per_category"][category], "+.3f") for c in cells))
    more.add_row("mean", *(interval(c["more_than_base"][OVERDRAWN], "+.3f") for c in cells))
    yield more


def bench_speculative(
    prompts: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Spec-Bench JSON lines.")],
    model: Model = DEFAULT_MODEL,
    methods: Annotated[str, typer.Option(help="Comma-separated: the peers hf, hf-prompt-lookup, llama-cpp, openvino-genai; plain, auto or a drafter. plain-int8 has weights of one byte, suffix@hf chooses a target.")] = "hf,hf-prompt-lookup,llama-cpp,openvino-genai,plain,plain-int8,auto,auto-int8",
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.0,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Measure on this many prompts only.")] = None,
    dtype: Dtype = "bfloat16",
    target: Annotated[str, typer.Option(help="auto, native or hf: what runs the model for the methods that are not peers.")] = "auto",
    gguf: Annotated[Optional[Path], typer.Option(exists=True, dir_okay=False, help="The model as GGUF, for llama-cpp and openvino-genai; of the default model it is fetched.")] = None,
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Write the report here.")] = None,
    plot: Annotated[Optional[Path], typer.Option(help="Draw the report into this PNG file.")] = None,
) -> None:
    """Tokens per second of drafters and peers on the same prompts, interleaved."""
    from rich.progress import track

    from fastdecode import benchmark, checkpoints, plots
    from fastdecode.peers import GGUF_PEERS

    if plot:
        plots.require()
    generator = load(model, "none", dtype, peers=True)
    names = methods.split(",")
    if gguf is None and model.lower() in checkpoints.CHECKPOINTS and any(peer.installed for name, peer in GGUF_PEERS.items() if name in names):
        gguf = checkpoints.pull_gguf(model)
    settings = benchmark.Settings(max_new_tokens, temperature, target, gguf)
    report = benchmark.run(generator.model, generator.tokenizer, benchmark.load_prompts(prompts, limit), names, repeats, settings, lambda x: track(x, console=err, transient=True))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1))
    if plot:
        plots.speeds(report, plot)
    out.print(_bench_table(report))


def bench_step(
    model: Model = DEFAULT_MODEL,
    widths: Annotated[str, typer.Option(help="Tokens per step, comma-separated.")] = "1,2,4,8,16,32,64",
    contexts: Annotated[str, typer.Option(help="Tokens in the cache, comma-separated.")] = "128",
    repeats: Annotated[int, typer.Option(min=1)] = 21,
    dtype: Dtype = "bfloat16",
    weights: Annotated[str, typer.Option(help="auto (the dtype), float32, bfloat16 or int8.")] = "auto",
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Write the report here.")] = None,
) -> None:
    """Cost of one step of the compiled runtime by width, against the time that reading its memory takes."""
    from rich.progress import track

    from fastdecode import step_benchmark

    target = load(model, "none", dtype, weights=weights).target
    report = step_benchmark.run(target, numbers(widths, "--widths"), numbers(contexts, "--contexts"), repeats, lambda x: track(x, console=err, transient=True))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1))
    rates = report["read_gb_per_s"]
    table = Table("context", "tokens", "ms", "quartiles", "of one token", "of the floor", title=f"{report['weight_bytes'] / 1e6:.1f} MB of weights, memory read at {rates['best']:.1f} GB/s")
    for row in report["steps"]:
        low, high = row["quartiles"]
        table.add_row(str(row["context"]), str(row["width"]), f"{row['milliseconds']:.2f}", f"{low:.2f} - {high:.2f}", f"{row['of_one_token']:.2f}", f"{row['of_floor']:.2f}")
    out.print(table)


def _bench_table(report: dict[str, Any]) -> Table:
    categories = sorted(next(v["per_category"] for v in report["methods"].values() if "missing" not in v))
    base = "hf" if "hf" in report["methods"] else "plain"
    table = Table("method", "tokens/s", f"vs {base}", *categories, "tokens per round", "same as plain")
    for name, values in report["methods"].items():
        if "missing" in values:
            table.add_row(name, values["missing"])
            continue
        ratios = values.get(f"speedup_vs_{base}", {})
        cells = [f"{ratios[c]['ratio']:.2f} [{ratios[c]['low']:.2f}]" if c in ratios else "-" for c in categories]
        length = values["mean_acceptance_length"]
        table.add_row(name, f"{values['tokens_per_second']:.1f}", f"{ratios['overall']['ratio']:.2f}" if ratios else "-", *cells, f"{length:.2f}" if length else "-", str(values["identical_to_plain"]))
    return table


def register(app: typer.Typer, bench: typer.Typer) -> None:
    app.command(cls=SeveralValues, epilog="Example: fastdecode acceptance --target big --draft small --prompts bench/data/spec_bench_120.jsonl --n 2 4 8 --limit 12")(acceptance)
    bench.command("speculative", epilog="Example: fastdecode bench speculative --prompts bench/data/spec_bench_120.jsonl --methods hf,suffix --limit 12")(bench_speculative)
    bench.command("step", epilog="Example: fastdecode bench step --widths 1,8,32 --contexts 128,2048")(bench_step)
