"""Optimal-transport verification beside a softmax of the same two rows: one thread, a ring of laws that no cache holds.

    python -m bench.ops.bench_transport [--vocab 128256] [--ring 32] [--repeats 31] [--json FILE]

Every repeat goes once around the ring with each case, in turn. Cases: plan, scores and (for the nodes that reject) a token from what
is left of the target, for several numbers of draws; the same with keys for which every node rejects; the same from logits whose
log-sum-exp is known, which need no softmax before; the peers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from fastdecode import _C, ops
from fastdecode.benchmark import header


def laws(count: int, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Zipf-like logits [count, V] of a draft, and those of a target around it."""
    generator = torch.Generator().manual_seed(0)
    draft = -1.3 * torch.log(torch.arange(1, vocab + 1.0)) + torch.randn(count, vocab, generator=generator)
    return draft, draft + 1.2 * torch.randn(count, vocab, generator=generator)


class Node:
    """One node with its draws, verified again and again."""

    def __init__(self, p: torch.Tensor, q: torch.Tensor, draws: int, seed: int, rejecting: bool = False, logits: bool = False):
        self.p, self.q = p[None, None], q[None, None]
        self.sums = [x.float().logsumexp(2) for x in (self.p, self.q)] if logits else (None, None)
        self.tokens, self.none = torch.zeros(1, 1, dtype=torch.int32), torch.full((1, 1), -1, dtype=torch.int32)
        self.offsets = torch.tensor([[0, draws]], dtype=torch.int32)
        generator = torch.Generator().manual_seed(seed)
        law = q.double().softmax(0) if logits else q.double()
        for attempt in range(10_000):
            self.drawn = torch.multinomial(law, draws, True, generator=generator).int()
            self.key = torch.tensor([[seed, attempt, 0, 0]])
            if not rejecting or self.verify() not in self.drawn.tolist():
                return
        raise RuntimeError("no draws found that the node rejects")

    def verify(self) -> int:
        return int(ops.verify_tree_transport(self.tokens, self.none, self.none, self.p, self.q, self.key, self.offsets, self.drawn, *self.sums).next_token)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--ring", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    _C.set_num_threads(1)
    draft, target = laws(args.ring, args.vocab)
    q, p, out = draft.softmax(1), target.softmax(1), torch.empty(args.vocab)
    cases = {f"transport, {n} draws": [Node(p[i], q[i], n, i).verify for i in range(args.ring)] for n in (2, 4, 32, 64)}
    cases |= {f"transport, {n} draws, all reject": [Node(p[i], q[i], n, i, rejecting=True).verify for i in range(args.ring)] for n in (2, 4)}
    for dtype in (torch.float32, torch.bfloat16):
        values = target.to(dtype), draft.to(dtype)
        cases[f"transport, 4 draws, from {str(dtype)[6:]} logits"] = [Node(values[0][i], values[1][i], 4, i, logits=True).verify for i in range(args.ring)]
    cases["softmax of both rows"] = [lambda i=i: (torch.softmax(target[i], 0, out=out), torch.softmax(draft[i], 0, out=out)) for i in range(args.ring)]
    cases["argsort of the ratios"] = [lambda i=i: np.argsort((p[i] / q[i]).numpy()) for i in range(min(2, args.ring))]
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.repeats):
        for name, calls in cases.items():
            start = time.perf_counter()
            for call in calls:
                call()
            seconds[name].append((time.perf_counter() - start) / len(calls))
    peer = statistics.median(seconds["softmax of both rows"])
    report = {**header(), "threads_used": 1, "cases": {}}
    for name, times in seconds.items():
        low, median, high = (t * 1e6 for t in statistics.quantiles(times, n=4))
        report["cases"][name] = {"microseconds": median, "quartiles": [low, high], "of_softmax": median / peer / 1e6}
        print(f"{median:9.1f} us  [{low:.1f}, {high:.1f}]  {median / peer / 1e6:6.2f} of softmax  {name}")
    report["tree"] = tree_scaling(p, q, args.repeats)
    print(f"32 nodes on 2 threads: {report['tree']['ratio']:.2f}x the rate of one thread")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


def tree_scaling(p: torch.Tensor, q: torch.Tensor, repeats: int) -> dict[str, float]:
    """Plans of all rows at once, on one and on two threads."""
    draws = torch.full((len(p),), 8, dtype=torch.int32)
    plan = ops.transport_plan(p, q, draws)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for threads, times in seconds.items():
            _C.set_num_threads(threads)
            start = time.perf_counter()
            ops.transport_plan(p, q, draws, out=plan)
            times.append(time.perf_counter() - start)
    one, two = (statistics.median(t) for t in seconds.values())
    return {"one_thread_ms": one * 1e3, "two_threads_ms": two * 1e3, "ratio": one / two}


if __name__ == "__main__":
    main()
