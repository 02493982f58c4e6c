"""One pass of masked diffusion: the compiled runtime beside the modules of transformers, over the same active positions.

    python -m bench.diffusion_step [--model DIR] [--rows 32,64,128] [--length 160] [--repeats 21] [--json FILE]

Both run one sequence of `length` positions in bfloat16; `rows` of them are computed, attend to all slots and give statistics of their logits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from fastdecode import assets
from fastdecode.benchmark import header
from fastdecode.targets.active import ActiveRow
from fastdecode.targets.hf_diffusion import HFDiffusionTarget
from fastdecode.targets.native import NativeTarget
from fastdecode.targets.weights import load_layout


def part(tokens: np.ndarray, rows: int) -> ActiveRow:
    """The last `rows` positions of a sequence."""
    positions = np.arange(len(tokens) - rows, len(tokens), dtype=np.int32)
    return ActiveRow(0, tokens[positions], positions, np.full(rows, len(tokens), np.int32), np.arange(rows, dtype=np.int32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="")
    parser.add_argument("--rows", default="32,64,128")
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    path = args.model or str(assets.find("lists"))
    targets = {"transformers": HFDiffusionTarget(load_layout(path, torch.bfloat16)), "runtime": NativeTarget.from_pretrained(path, dtype=torch.bfloat16)}
    tokens = np.random.default_rng(0).integers(3, targets["runtime"].vocab_size, args.length).astype(np.int32)
    slots = {name: target.new_slots(1, args.length) for name, target in targets.items()}
    results = {}
    for name, target in targets.items():
        target.forward_active(slots[name], [part(tokens, args.length)])
    for rows in map(int, args.rows.split(",")):
        seconds: dict[str, list[float]] = {name: [] for name in targets}
        for repeat in range(args.repeats + 2):
            for name, target in targets.items():
                start = time.perf_counter()
                target.forward_active(slots[name], [part(tokens, rows)])
                if repeat > 1:
                    seconds[name].append(time.perf_counter() - start)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        results[rows] = {**{f"{name}_ms": 1e3 * s for name, s in median.items()}, "times_faster": median["transformers"] / median["runtime"]}
        print(rows, results[rows])
    if args.json:
        args.json.write_text(json.dumps({**header(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
