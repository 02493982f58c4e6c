"""Thousands of random calls on one generator: lengths, batches, sampling, cancelled streams, errors. Memory must not grow.

    python -m bench.soak [--calls 10000] [--seed 0]

Fails when anonymous memory after the last call is more than 3 % above what it was after the first tenth, when a cache is left over, or
when the generator no longer gives its first answer.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys

from fastdecode import _C, SpeculativeGenerator
from tests.models import VOCAB, random_prompt, small_model


def anonymous_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


def caches() -> int:
    gc.collect()
    return sum(isinstance(o, _C.KvCache) for o in map(lambda o: getattr(o, "cache", None), filter(lambda o: type(o).__name__ == "NativeState", gc.get_objects())))


def wrong_call(generator: SpeculativeGenerator, chance: random.Random) -> None:
    wrong = chance.choice([lambda: generator.generate([]), lambda: generator.generate([VOCAB + 5]), lambda: generator.generate([1] * 9000), lambda: generator.generate([1, 2], temperature=-1.0, do_sample=True)])
    try:
        wrong()
    except (ValueError, TypeError):
        return
    raise AssertionError("a wrong call went through")


def call(generator: SpeculativeGenerator, chance: random.Random) -> None:
    kind = chance.random()
    if kind < 0.1:
        return wrong_call(generator, chance)
    prompts = [random_prompt(chance.choice([1, 2, 5, 17, 40, 90]), seed=chance.randrange(50)) for _ in range(chance.choice([1, 1, 1, 2, 3, 8]))]
    settings = dict(max_new_tokens=chance.choice([1, 2, 7, 20, 48]), seed=chance.randrange(1000), speculate=chance.choice(["auto", True, False, 3, 12]))
    if chance.random() < 0.4:
        settings |= dict(do_sample=True, temperature=chance.choice([0.5, 1.0, 1.5]))
    if kind < 0.3 and generator.tokenizer is not None:
        stream = generator.stream(prompts[0], **settings)
        for _ in range(chance.randrange(4)):
            next(stream, None)
        return stream.close()
    generator.generate(prompts if len(prompts) > 1 else prompts[0], **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from tests.models import byte_tokenizer

    chance = random.Random(args.seed)
    generator = SpeculativeGenerator(small_model(), byte_tokenizer())
    answer = generator.generate([1, 2, 3], max_new_tokens=20).token_ids
    early = 0
    for number in range(args.calls):
        call(generator, chance)
        if number == args.calls // 10:
            gc.collect()
            early = anonymous_bytes()
    gc.collect()
    growth = anonymous_bytes() / early - 1
    left = caches()
    same = generator.generate([1, 2, 3], max_new_tokens=20).token_ids == answer
    print(f"{args.calls} calls, anonymous memory {growth:+.2%} since the first tenth, {left} caches alive, first answer {'unchanged' if same else 'CHANGED'}")
    sys.exit(growth > 0.03 or left > 1 or not same)


if __name__ == "__main__":
    main()
