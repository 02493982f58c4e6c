"""Standalone drafts by plain distillation, DistillSpec and AdaSPEC: the same data, size and steps, and how often each is accepted.

    python -m bench.distillation --model DIR --out RUNS [--answer-tokens 300000] [--steps 600] [--hidden-size 128] [--layers 4]
                                 [--seeds 0] [--json FILE]

Acceptance is 1 - total variation distance on held-out text of the target, over the tokens of its answers. Intervals are 95 % bootstrap
intervals over conversations; differences are paired. An interrupted call goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdecode.benchmark import header, load_prompts
from fastdecode.training.distillation import Recipe, Teacher
from fastdecode.training.draft_recipe import METHODS, distill, small_draft
from fastdecode.training.on_policy import Writer, write

PROMPTS = Path(__file__).parent / "data/spec_bench_120.jsonl"


def acceptance(rows: np.ndarray) -> np.ndarray:
    """[..., C, 2] sums and numbers of conversations to [...]."""
    sums, tokens = np.moveaxis(rows, -1, 0)
    return sums.sum(-1) / tokens.sum(-1)


def interval(statistic, conversations: int, draws: int = 4000) -> list[float]:
    """`statistic` of drawn conversations, its 2.5 % and 97.5 % quantiles."""
    drawn = np.random.default_rng(0).integers(conversations, size=(draws, conversations))
    return [float(x) for x in np.quantile(statistic(drawn), [0.025, 0.975])]


def table(found: dict[str, np.ndarray], base: str) -> dict[str, dict]:
    """Of every method its acceptance and the difference to `base`."""
    rows = {}
    for name, own in found.items():
        difference = lambda drawn: acceptance(own[drawn]) - acceptance(found[base][drawn])
        rows[name] = {
            "acceptance": float(acceptance(own)), "interval": interval(lambda drawn: acceptance(own[drawn]), len(own)),
            "gain": float(acceptance(own) - acceptance(found[base])), "gain_interval": interval(difference, len(own)),
        }  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--answer-tokens", type=int, default=300_000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seeds", default="0", help="of the drafts' first weights and of the order; the data are the same")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    target, tokenizer = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval(), AutoTokenizer.from_pretrained(options.model)
    teacher = Teacher(target)
    excluded = [text for _, text in load_prompts(PROMPTS, None)]
    writer = Writer(teacher.native, tokenizer, (teacher.layers,), 0)
    data = write(writer, options.out / "data", options.answer_tokens, excluded, progress=lambda n: print(f"{n} tokens of answers", flush=True))
    report = {**header(), "answer_tokens": data.answer_tokens, "conversations": len(data), "seeds": {}}
    for seed in map(int, options.seeds.split(",")):
        found = {}
        for method in METHODS:
            start = time.monotonic()
            run = distill(
                method, options.out / f"seed-{seed}", teacher, data, lambda: small_draft(target, options.hidden_size, options.layers, seed), Recipe(options.steps, seed=seed),
                progress=lambda step, loss: print(f"{method} {step} {loss:.3f}", flush=True),
            )  # fmt: skip
            found[method] = np.array(run.acceptance())
            print(f"seed {seed}: {method} {acceptance(found[method]):.4f} after {time.monotonic() - start:.0f} s, {sum(p.numel() for p in run.model.parameters()) / 1e6:.1f}M parameters", flush=True)
        report["seeds"][seed] = rows = table(found, "kl")
        for method, row in rows.items():
            print(f"seed {seed}: {method} {row['acceptance']:.4f} [{row['interval'][0]:.4f}, {row['interval'][1]:.4f}], against kl {row['gain']:+.4f} [{row['gain_interval'][0]:+.4f}, {row['gain_interval'][1]:+.4f}]", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
