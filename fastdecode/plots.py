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
