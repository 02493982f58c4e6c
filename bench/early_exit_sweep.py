"""DEL against fixed layers and lengths on the prompts of Spec-Bench, for a model that was not trained to exit early.

    python -m bench.early_exit_sweep --model DIR [--limit 12]
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict

from bench.draft_trees import PROMPTS
from fastdecode import SpeculativeGenerator
from fastdecode.benchmark import chat_ids, load_prompts
from fastdecode.speculative.drafters import EarlyExitDrafter

LENGTHS, NEW_TOKENS = (1, 3), 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int, default=12)
    arguments = parser.parse_args()
    plain = SpeculativeGenerator.from_pretrained(arguments.model, "none", dtype="bfloat16")
    beside = lambda drafter: SpeculativeGenerator(plain.model, plain.tokenizer, drafter=drafter, target=plain.target)
    count = plain.target.layers
    methods = {"plain": (plain, 0), "del": (beside("early_exit"), True)}
    for layer in sorted({max(1, count * part // 15) for part in (1, 3, 6, 10, 13)}):
        methods |= {f"{layer}/{length}": (beside(EarlyExitDrafter(layer, length)), length) for length in LENGTHS}
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for number, (category, text) in enumerate(load_prompts(PROMPTS, arguments.limit)):
        prompt, names = chat_ids(plain.tokenizer, text), list(methods)
        random.Random(number).shuffle(names)
        for name in names:
            generator, speculate = methods[name]
            parts = generator.generate(prompt, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, speculate=speculate).stats.seconds
            seconds[name][category] += sum(parts.values()) - parts["prefill"]
    ratios = lambda over, under: "  ".join(f"{category} {over[category] / under[category]:.2f}" for category in over)
    for name in methods:
        print(f"{name:6s} of plain: {ratios(seconds['plain'], seconds[name])}")
    best = {category: min(s[category] for name, s in seconds.items() if "/" in name) for category in seconds["plain"]}
    print(f"del of the best fixed pair: {ratios(best, seconds['del'])}")


if __name__ == "__main__":
    main()
