"""One step's vocabulary work of masked diffusion, `vocab_stats` and `unmask_commit`, beside the same step written in torch.

    python -m bench.ops.bench_unmask [--rows 1024] [--vocab 126464] [--repeats 9] [--json FILE]

The peer is what published samplers do in float64, in float32: softmax, argmax, gather, top-k, per row of the batch. Read bandwidth is
measured on the same buffer, in turn with the cases.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from fastdecode import _C, ops
from fastdecode.benchmark import header
from fastdecode.ops.unmask_commit import MASKED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=126464)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows, sequences = args.rows, args.rows // 32
    logits = torch.randn(rows, args.vocab)
    tokens, changed = torch.zeros(sequences, 32, dtype=torch.int32), torch.full((sequences, 32), MASKED, dtype=torch.int32)
    begin, position = torch.arange(0, rows + 1, 32, dtype=torch.int32), torch.arange(32, dtype=torch.int32).repeat(sequences)
    quota, out = torch.ones(sequences, dtype=torch.int32), ops.VocabStats.empty(rows)

    def ours() -> None:
        ops.unmask_commit(ops.vocab_stats(logits, out=out), begin, position, tokens, changed.clone(), quota=quota, step=0)

    def torch_step() -> None:
        p = logits.softmax(-1)
        proposal = logits.argmax(-1)
        score = p.gather(-1, proposal[:, None]).view(sequences, 32)
        best = score.topk(1, -1).indices
        tokens.scatter_(1, best, proposal.view(sequences, 32).gather(1, best).int())

    cases = {"vocab_stats + unmask_commit": ours, "torch, float32": torch_step, "reading": lambda: _C.read_seconds(logits.data_ptr(), logits.numel() // 2)}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(args.repeats + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ours_s, size = median["vocab_stats + unmask_commit"], logits.numel() * 4
    results = {"seconds": median, "times_faster_than_torch": median["torch, float32"] / ours_s, "share_of_read_bandwidth": median["reading"] / ours_s, "gb_per_s": size / ours_s / 1e9}
    for name, value in results.items():
        print(name, value)
    if args.json:
        args.json.write_text(json.dumps({**header(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
