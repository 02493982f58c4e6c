"""Tokens per round of verification rules for drawn trees, on the Spec-Bench prompts, with a draft made of the model itself.

    python -m bench.acceptance_length --model DIR [--without-layers 12,18] [--temperatures 0.8,1.0] [--nodes 32] [--depth 4]
                                      [--new-tokens 48] [--limit N] [--json FILE]

All rules get trees of the same size from the same laws: independent draws for recursive, transport and transport_block, distinct
ones for recursive_without_replacement; for transport_block+1 the most probable token of every node and draws of the others. Differences to
recursive_without_replacement are paired over prompts, with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdecode import SpeculativeGenerator
from fastdecode.acceptance import without_layers
from fastdecode.benchmark import chat_ids, header, load_prompts
from fastdecode.speculative.drafters import ModelDrafter

PROMPTS = Path(__file__).parent / "data/spec_bench_120.jsonl"
INDEPENDENT, DISTINCT, ONE_FIXED = {}, {"replacement": False}, {"fixed": 1}  # how drafts are drawn
RULES = {"recursive_without_replacement": DISTINCT, "recursive": INDEPENDENT, "transport": INDEPENDENT, "transport_block": INDEPENDENT, "transport_block+1": ONE_FIXED}
BASE = "recursive_without_replacement"


def lengths(generator: SpeculativeGenerator, prompts, nodes: int, new_tokens: int, temperature: float) -> list[tuple[int, int]]:
    """(tokens, rounds) per prompt."""
    settings = dict(max_new_tokens=new_tokens, eos_token_id=-1, do_sample=True, temperature=temperature, top_k=0, speculate=nodes, seed=0)
    stats = [generator.generate(ids, **settings).stats for _, ids in prompts]
    return [(s.emitted, s.rounds) for s in stats]


def summary(prompts, samples: list[tuple[int, int]], base: list[tuple[int, int]], draws: int = 2000) -> dict:
    """Tokens per round per category (sum over sum) and their mean, and what they are more than those of `base`."""
    both = np.concatenate([samples, base], 1)  # [prompts, 4]
    generator = np.random.default_rng(0)
    means, boots = {}, {}
    for category in sorted({c for c, _ in prompts}):
        own = both[[c == category for c, _ in prompts]]
        drawn = own[generator.integers(len(own), size=(draws, len(own)))].sum(1)
        means[category], boots[category] = ((x[..., 0] / x[..., 1], x[..., 2] / x[..., 3]) for x in (own.sum(0), drawn))

    def of(mean, boot) -> dict:
        return {"tokens_per_round": float(mean[0]), "more_than_base": float(mean[0] - mean[1]), "interval": np.quantile(boot[0] - boot[1], (0.025, 0.975)).tolist()}

    over_categories = lambda values: np.mean([np.array(v) for v in values.values()], 0)
    return {**of(over_categories(means), over_categories(boots)), "per_category": {c: of(means[c], boots[c]) for c in means}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--without-layers", default="12,18")
    parser.add_argument("--temperatures", default="0.8,1.0")
    parser.add_argument("--nodes", type=int, default=32)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="bfloat16").eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    draft = without_layers(copy.deepcopy(model), [int(i) for i in args.without_layers.split(",")])
    prompts = [(category, chat_ids(tokenizer, text)) for category, text in load_prompts(PROMPTS, args.limit)]
    report = {**header(), "settings": {**vars(args), "json": None}, "temperatures": {}}
    for temperature in map(float, args.temperatures.split(",")):
        rows = {}
        for rule, drawn in RULES.items():
            drafter = ModelDrafter(draft, num_tokens=args.depth, **drawn)
            generator = SpeculativeGenerator(model, tokenizer, drafter=drafter, verifier=rule.split("+")[0], max_draft=args.nodes, min_score=0.0)
            rows[rule] = lengths(generator, prompts, args.nodes, args.new_tokens, temperature)
            print(temperature, rule, json.dumps(summary(prompts, rows[rule], rows[BASE])), flush=True)
        report["temperatures"][temperature] = {rule: summary(prompts, samples, rows[BASE]) for rule, samples in rows.items()}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
