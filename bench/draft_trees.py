"""Tokens per pass of drafters that choose their tokens, with trees of one size, and what a level of them costs.

    python -m bench.draft_trees --model DIR [--drafters suffix,adaptive_trigram,eagle,auto] [--head DIR] [--nodes 31] [--new-tokens 128]
                                [--limit N] [--until-eos] [--json FILE]

Greedy, one prompt at a time, on the Spec-Bench prompts. Categories count alike. `--head` takes another head than the installed one. Names joined by +
go into one tree; every prompt begins with an empty map of trigrams, `memory` is the suffix drafter with what it wrote for the prompts before. With `--until-eos`
a text ends where the model ends it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path

from fastdecode import SpeculativeGenerator
from fastdecode.benchmark import chat_ids, header, load_prompts
from fastdecode.speculative.drafters import AdaptiveTrigramDrafter, EagleDrafter, SuffixDrafter

PROMPTS = Path(__file__).parent / "data/spec_bench_120.jsonl"


def drafter_of(name: str, head: str | None):
    """The drafter of that name, with the given head if there is one."""
    if "+" in name:
        return [drafter_of(part, head) for part in name.split("+")]
    if name == "memory":
        return SuffixDrafter(remember=True)
    if name == "adaptive_trigram":
        return AdaptiveTrigramDrafter(shared=False)
    if head is None or name not in ("eagle", "auto"):
        return name
    return EagleDrafter(head) if name == "eagle" else [SuffixDrafter(), EagleDrafter(head)]


def measure(generator: SpeculativeGenerator, prompts, nodes: int, new_tokens: int, until_eos: bool = False) -> list[tuple[str, int, int]]:
    """(category, tokens, rounds) of every prompt."""
    rows, ends = [], {} if until_eos else {"eos_token_id": -1}
    for category, text in prompts:
        stats = generator.generate(chat_ids(generator.tokenizer, text), max_new_tokens=new_tokens, do_sample=False, speculate=nodes, **ends).stats
        rows.append((category, stats.emitted, stats.rounds))
    return rows


def summary(rows: list[tuple[str, int, int]], draws: int = 2000) -> dict:
    groups = {c: [(t, r) for category, t, r in rows if category == c] for c in sorted({c for c, *_ in rows})}
    mean = lambda pairs: sum(t for t, _ in pairs) / sum(r for _, r in pairs)
    generator = random.Random(0)
    boot = sorted(statistics.fmean(mean(generator.choices(g, k=len(g))) for g in groups.values()) for _ in range(draws))
    return {"tokens_per_pass": statistics.fmean(map(mean, groups.values())), "interval": [boot[int(0.025 * draws)], boot[int(0.975 * draws)]], "per_category": {c: mean(g) for c, g in groups.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--drafters", default="suffix,adaptive_trigram,eagle,auto")
    parser.add_argument("--head")
    parser.add_argument("--nodes", type=int, default=31)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--until-eos", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    prompts = load_prompts(PROMPTS, options.limit)
    report = {**header(), "drafters": {}}
    for name in options.drafters.split(","):
        generator = SpeculativeGenerator.from_pretrained(options.model, drafter_of(name, options.head), max_draft=options.nodes)
        costs = generator._controller
        result = summary(measure(generator, prompts, options.nodes, options.new_tokens, options.until_eos)) | {"level_of_a_step": costs.level_seconds / costs.step.narrowest}
        report["drafters"][name] = result
        print(f"{name}: {result['tokens_per_pass']:.3f} [{result['interval'][0]:.3f}, {result['interval'][1]:.3f}], a level costs {result['level_of_a_step']:.3f} of a step; " + ", ".join(f"{c} {v:.2f}" for c, v in result["per_category"].items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
