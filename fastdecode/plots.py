"""Pictures of benchmark reports; matplotlib is only needed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def require() -> None:
    """Fails before anything was measured when a picture could not be drawn afterwards.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RuntimeError("drawing needs matplotlib: pip install 'fastdecode[plot]'") from error


def speeds(report: dict[str, Any], path: Path) -> None:
    """Tokens per second of every method, per category of prompts and overall, as groups of bars."""
    from matplotlib.figure import Figure

    methods = {name: values for name, values in report["methods"].items() if "missing" not in values}
    categories = sorted(next(iter(methods.values()))["per_category"])
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(methods)
    for i, (name, values) in enumerate(methods.items()):
        rates = [values["tokens_per_second"], *(values["per_category"][c] for c in categories)]
        axes.bar([x + i * width for x in range(len(rates))], rates, width, label=name)
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(categories) + 1)], ["overall", *categories])
    axes.set_ylabel("new tokens per second")
    settings, machine = report["settings"], report["machine"]
    axes.set_title(f"{settings['dtype']}, {settings['new_tokens']} tokens, temperature {settings['temperature']}, {machine['threads']} threads, {machine['instruction_set']}")
    axes.legend(ncols=4, fontsize="small")
    figure.savefig(path, dpi=120)


def acceptance(report: dict[str, Any], path: Path) -> None:
    """Rates by number of drafts, one panel per temperature; optima dashed."""
    from matplotlib.figure import Figure

    temperatures = sorted({cell["temperature"] for cell in report["rates"]})
    figure = Figure(figsize=(5.5 * len(temperatures), 4.5), layout="constrained")
    panels = figure.subplots(1, len(temperatures), squeeze=False, sharey=True)[0]
    for axes, temperature in zip(panels, temperatures):
        cells = [cell for cell in report["rates"] if cell["temperature"] == temperature]
        for name in cells[0]["verifiers"]:
            values = [cell["verifiers"][name] for cell in cells]
            middle = [v["rate"] for v in values]
            spread = [[m - v["low"] for m, v in zip(middle, values)], [v["high"] - m for m, v in zip(middle, values)]]
            axes.errorbar([cell["drafts"] for cell in cells], middle, spread, fmt="--" if name.startswith("optimum") else "-o", capsize=2, label=name)
        axes.set_title(f"temperature {temperature:g}")
        axes.set_xlabel("drafts per position")
    panels[0].set_ylabel("chance that a draft is kept")
    panels[-1].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def quality(report: dict[str, Any], path: Path) -> None:
    """Exact match against tokens per forward, one panel per task; points of one policy (top-4, top-8, ...) are joined."""
    from matplotlib.figure import Figure

    methods = report["methods"]
    tasks = list(next(iter(methods.values()))["per_task"])
    lines: dict[str, list[str]] = {}
    for name in methods:
        kind, dash, value = name.rpartition("-")
        lines.setdefault(kind if dash and value.replace(".", "").isdigit() else name, []).append(name)
    columns = min(4, len(tasks))
    figure = Figure(figsize=(3.6 * columns, 3.2 * -(-len(tasks) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(tasks) // columns), columns, squeeze=False, sharey=True).flatten()
    for axes, task in zip(panels, tasks):
        for line, names in lines.items():
            points = sorted((methods[n]["per_task"][task]["tokens_per_forward"], methods[n]["per_task"][task]["exact_match"]) for n in names)
            axes.plot(*zip(*points), "-o", label=line, markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_title(task)
    for axes in panels[len(tasks) :]:
        axes.axis("off")
    panels[0].set_ylabel("exact match")
    panels[0].set_xlabel("tokens per forward")
    panels[0].legend(fontsize="x-small")
    figure.savefig(path, dpi=110)


def heatmap(order: list[tuple[int, int, float]], length: int, path: Path) -> None:
    """When every position of a canvas was committed, and how sure the model was."""
    from matplotlib.figure import Figure

    passes, scores = [float("nan")] * length, [float("nan")] * length
    for position, clock, score in order:
        passes[position], scores[position] = clock, score
    figure = Figure(figsize=(max(6.0, length / 6), 2.6), layout="constrained")
    for axes, values, title in zip(figure.subplots(2, 1, sharex=True), (passes, scores), ("pass", "score")):
        image = axes.imshow([values], aspect="auto", cmap="viridis")
        axes.set_yticks([])
        axes.set_ylabel(title)
        figure.colorbar(image, ax=axes)
    axes.set_xlabel("position")
    figure.savefig(path, dpi=120)
