"""Draws docs/transport.svg: the line of tokens, the mass that must be kept and what the highest point would give.

    python docs/transport_figure.py
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fastdecode.ops.reference.transport import plan_knots

DRAFTS = 3


def main(path: Path = Path(__file__).with_name("transport.svg")) -> None:
    p, q = np.array([0.04, 0.11, 0.2, 0.25, 0.4]), np.array([0.35, 0.25, 0.2, 0.12, 0.08])
    plan = plan_knots(q, q.cumsum(), p / q, DRAFTS, 1.0)
    ends = np.concatenate([[0], plan.right])
    t = np.linspace(0, 1, 400)
    matplotlib.rcParams["svg.hashsalt"] = "fastdecode"
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(ends, np.concatenate([[0], (q * plan.rate).cumsum()]), "-o", markersize=4, label="mass that drafts should keep: sum of min(p, λq)")
    axes.plot(t, np.maximum(t**DRAFTS - plan.threshold**DRAFTS, 0), label=f"mass that the highest of {DRAFTS} points gives: max(tⁿ − τⁿ, 0)")
    for i, (left, right) in enumerate(zip(ends[:-1], ends[1:])):
        axes.bar(left, 0.09, right - left, -0.1, align="edge", color=f"C{i + 2}", alpha=0.5)
        axes.text((left + right) / 2, -0.055, f"token {i + 1}\np/q {p[i] / q[i]:.2f}", ha="center", va="center", fontsize=7)
    axes.axvline(plan.threshold, color="gray", linestyle=":")
    axes.text(plan.threshold - 0.008, 0.75, "τ", ha="right", fontsize=12)
    axes.set(xlim=(0, 1), ylim=(-0.11, 1), xlabel="tokens by ascending p/q, as wide as their q", ylabel="running mass")
    axes.legend(loc="upper left", fontsize=9)
    axes.set_title(f"kept {plan.alpha:.3f} of the time, the most that is possible; the gap between the curves is closed by swaps", fontsize=10)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
