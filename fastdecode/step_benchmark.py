"""What one step of the compiled runtime costs by width and context, against the time that reading its memory takes."""

from __future__ import annotations

import mmap
import random
import statistics
import time
from typing import Any, Callable, Sequence

import numpy as np
import torch

from fastdecode import _C
from fastdecode.benchmark import header
from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.native import NativeTarget

FLUSH_BYTES = 64 << 20  # of other memory, read before every timed step
BANDWIDTH_BYTES = 1 << 30  # larger than any cache


class Reader:
    """Reads a buffer with the threads of the runtime. It lies on huge pages where the system has them, as packed weights do."""

    def __init__(self, size: int):
        memory = mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._buffer = torch.frombuffer(memory, dtype=torch.int64).fill_(1)

    def seconds(self, once: bool = False) -> float:
        return _C.read_seconds(self._buffer.data_ptr(), self._buffer.numel(), once)

    def bandwidth(self) -> float:
        """Bytes per second, of the better reader."""
        return self._buffer.numel() * 8 / min(self.seconds(), self.seconds(once=True))


def binary_tree(nodes: int) -> DraftTree:
    """A root and `nodes` - 1 draft tokens, two below each node."""
    parents = (np.arange(nodes - 1, dtype=np.int32) - 2) // 2
    return DraftTree.build([1], [Draft(np.arange(nodes - 1, dtype=np.int32) % 2 + 2, parents, np.ones(nodes - 1, np.float32))])


def run(target: NativeTarget, widths: Sequence[int], contexts: Sequence[int], repeats: int, progress: Callable = iter) -> dict[str, Any]:
    """Seconds of a greedy round's pass over trees of these sizes behind these contexts, all interleaved; the report as plain data.

    Such a pass ends with the most probable tokens after every node; logits are never stored.
    """
    trees = {n: binary_tree(n) for n in widths}
    states = {c: _filled_state(target, c) for c in contexts}
    flush, stream = Reader(FLUSH_BYTES), Reader(BANDWIDTH_BYTES)
    cases = [(c, n) for c in contexts for n in widths]
    seconds: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    bandwidth = []
    for repeat in progress(range(repeats)):
        bandwidth.append(stream.bandwidth())
        for context, width in random.Random(repeat).sample(cases, len(cases)):
            flush.seconds()
            start = time.perf_counter()
            target.most_probable(states[context], [0], trees[width])
            seconds[context, width].append(time.perf_counter() - start)
    best = max(bandwidth)
    rows = [_row(target, context, width, seconds[context, width], best) for context, width in cases]
    one = {row["context"]: row["milliseconds"] for row in rows if row["width"] == min(widths)}
    for row in rows:
        row["of_one_token"] = row["milliseconds"] / one[row["context"]]
    settings = {"weights": target.element, "repeats": repeats, "flush_bytes": FLUSH_BYTES}
    return {**header(), "settings": settings, "read_gb_per_s": {"best": best / 1e9, "median": statistics.median(bandwidth) / 1e9}, "weight_bytes": target.transformer.weight_bytes, "steps": rows}


def _filled_state(target: NativeTarget, context: int):
    state = target.new_state(1, context + 128)
    tokens = torch.randint(0, target.vocab_size, (context,), generator=torch.Generator().manual_seed(0)).tolist()
    target.prefill(state, 0, tokens)
    return state


def _row(target: NativeTarget, context: int, width: int, seconds: list[float], bandwidth: float) -> dict[str, Any]:
    low, median, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    floor = (target.transformer.weight_bytes + context * target.cache_bytes_per_token) / bandwidth
    return {"context": context, "width": width, "milliseconds": median * 1e3, "quartiles": [low * 1e3, high * 1e3], "of_floor": median / floor}
