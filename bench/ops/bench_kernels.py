"""Operations against their torch and transformers peers: interleaved repeats in one run, medians.

    python -m bench.ops.bench_kernels [--json FILE] [--repeats N] [--only PART_OF_A_NAME]

GB/s counts the bytes that must move (inputs read once, results written once), not those that did.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from fastdecode import _C, ops
from fastdecode.ops.reference.tree_attention import visible_keys


class Case(NamedTuple):
    name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    moved: int  # bytes
    calls: int = 1  # per timing, for calls of microseconds


def vocab_cases(rows: int = 64, vocab: int = 126464) -> list[Case]:
    logits = 3 * torch.randn(rows, vocab)
    buffer, stats = torch.empty_like(logits), ops.VocabStats.empty(rows)
    top, lse = (torch.empty(rows, 2), torch.empty(rows, 2, dtype=torch.int64)), torch.empty(rows)
    temperature, key = torch.ones(rows), torch.stack([torch.zeros(rows), torch.arange(rows), torch.arange(rows), torch.zeros(rows)], 1).long()

    def pieces():
        torch.logsumexp(logits, 1, out=lse)
        torch.topk(logits, 2, dim=1, out=top)
        torch.softmax(logits, 1, out=buffer)
        return lse - (buffer.mul_(logits)).sum(1)  # entropy

    plain = lambda: ops.vocab_stats(logits, out=stats)
    sampling = lambda: ops.vocab_stats(logits, temperature=temperature, key=key, out=stats)
    softmax = lambda: torch.softmax(logits, 1, out=buffer)
    size = f"[{rows},{vocab}] fp32"
    return [
        Case(f"vocab_stats {size} / logsumexp + topk(2) + entropy", plain, pieces, logits.nbytes),
        Case(f"vocab_stats {size} / softmax", plain, softmax, logits.nbytes),
        Case(f"vocab_stats with sample {size} / softmax", sampling, softmax, logits.nbytes),
    ]


def overhead_cases() -> list[Case]:
    logits, stats, result = torch.randn(1, 8), ops.VocabStats.empty(1), torch.empty(1)
    temperature, key = torch.ones(1), torch.zeros(1, 4, dtype=torch.int64)
    logsumexp = lambda: torch.logsumexp(logits, 1, out=result)
    return [
        Case("overhead of vocab_stats [1,8] / logsumexp", lambda: ops.vocab_stats(logits, out=stats), logsumexp, 32, 5000),
        Case("overhead of vocab_stats with sample [1,8] / logsumexp", lambda: ops.vocab_stats(logits, temperature=temperature, key=key, out=stats), logsumexp, 32, 5000),
    ]


def probs_cases(rows: int = 32, vocab: int = 128256) -> list[Case]:
    logits = 3 * torch.randn(rows, vocab)
    out = torch.empty_like(logits)
    temperature, top_k, top_p = torch.full((rows,), 0.8), torch.full((rows,), 50, dtype=torch.int32), torch.full((rows,), 0.9)
    warpers = TemperatureLogitsWarper(0.8), TopKLogitsWarper(50), TopPLogitsWarper(0.9)
    cold = lambda: torch.softmax(warpers[2](None, warpers[1](None, warpers[0](None, logits))), 1, out=out)
    nucleus = lambda: torch.softmax(warpers[2](None, logits), 1, out=out)
    return [
        Case(f"process_probs T, top-k, top-p [{rows},{vocab}] / transformers", lambda: ops.process_probs(logits, temperature=temperature, top_k=top_k, top_p=top_p, out=out), cold, 2 * logits.nbytes),
        Case(f"process_probs top-p [{rows},{vocab}] / transformers", lambda: ops.process_probs(logits, top_p=top_p, out=out), nucleus, 2 * logits.nbytes),
    ]  # fmt: skip


def binary_tree(nodes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ancestors int64 [1, nodes, 1] and depth int32 [1, nodes] of a complete binary tree of at most 63 nodes."""
    bits, depth = [1], [0]
    for i in range(1, nodes):
        bits.append(bits[(i - 1) // 2] | 1 << i)
        depth.append(depth[(i - 1) // 2] + 1)
    return torch.tensor(bits).reshape(1, nodes, 1), torch.tensor([depth], dtype=torch.int32)


def attention_case(nodes: int, keys: int, heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> Case:
    query = torch.randn(1, heads, nodes, dim).to(dtype)
    key, value = (torch.randn(1, kv_heads, keys + nodes, dim).to(dtype) for _ in range(2))
    lengths, out = torch.tensor([keys], dtype=torch.int32), torch.empty(1, nodes, heads, dim, dtype=dtype)
    ancestors, depth = binary_tree(nodes)
    mask = visible_keys(lengths, ancestors, depth, 0, keys + nodes)[:, None]
    ours = lambda: ops.tree_attention(query, key, value, lengths=lengths, ancestors=ancestors, depth=depth, scaling=dim**-0.5, out=out)
    peer = lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(ours().transpose(1, 2), peer(), rtol=2e-2, atol=2e-2)
    name = f"tree_attention {nodes} nodes, {keys} keys, {heads}/{kv_heads} heads, d {dim}, {str(dtype)[6:]} / scaled_dot_product_attention"
    return Case(name, ours, peer, 2 * key.nbytes + 2 * query.nbytes, 1 if nodes > 1 else 5)


def cases() -> list[Case]:
    shapes = [(32, 2048, 32, 8, 128), (1, 2048, 32, 8, 128), (32, 512, 9, 3, 64)]
    attention = [attention_case(*shape, dtype) for shape in shapes for dtype in (torch.bfloat16, torch.float32)]
    return [*vocab_cases(), *overhead_cases(), *probs_cases(), *attention]


def seconds(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def measure(case: Case, repeats: int) -> dict:
    """Alternates ours and the peer; the ratio is the median of the ratios of neighbouring timings."""
    case.ours(), case.peer()
    pairs = [(seconds(case.ours, case.calls), seconds(case.peer, case.calls)) for _ in range(repeats)]
    ratios = sorted(peer / ours for ours, peer in pairs)
    ours, peer = (statistics.median(times) for times in zip(*pairs))
    quarter = repeats // 4
    return dict(name=case.name, ours_ms=ours * 1e3, peer_ms=peer * 1e3, ratio=statistics.median(ratios), ratio_low=ratios[quarter], ratio_high=ratios[-1 - quarter], gb_per_s=case.moved / ours / 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(_C.num_threads())
    print(f"{_C.isa()}, {_C.num_threads()} threads, torch {torch.__version__}; ratio = peer time / our time, quartiles in brackets")
    results = []
    for case in cases():
        if options.only in case.name:
            r = measure(case, options.repeats)
            results.append(r)
            print(f"{r['ratio']:7.2f}x [{r['ratio_low']:.2f}, {r['ratio_high']:.2f}]  {r['ours_ms']:9.4f} ms  peer {r['peer_ms']:9.4f} ms  {r['gb_per_s']:6.1f} GB/s  {case.name}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(dict(schema=1, isa=_C.isa(), threads=_C.num_threads(), torch=torch.__version__, results=results), file, indent=1)


if __name__ == "__main__":
    main()
