"""Plain decoding beside a process that keeps a core busy, and beside one that decodes, too, as shares of the quiet speed.

    python -m bench.busy --model DIR [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager

from fastdecode import SpeculativeGenerator

SPINS = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
DECODES = [sys.executable, "-m", "bench.busy", "--endless", "--model"]


@contextmanager
def beside(command: list[str]):
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    other.stdout.readline()  # it runs
    time.sleep(0.3)
    try:
        yield
    finally:
        other.kill()
        other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--endless", action="store_true", help="only decode, until the process is killed")
    args = parser.parse_args()
    generator = SpeculativeGenerator.from_pretrained(args.model, drafter="none", dtype="bfloat16")
    rate = lambda: generator.generate([1, 2, 3, 4] * 20, max_new_tokens=96, eos_token_id=-1).stats.tokens_per_second
    rate()
    if args.endless:
        print(flush=True)
        while True:
            rate()
    rates: dict[str, list[float]] = {"quiet": [], "beside a busy process": [], "beside another that decodes": []}
    for _ in range(args.repeats):
        rate()  # the team grows again
        rates["quiet"].append(rate())
        for name, command in (("beside a busy process", SPINS), ("beside another that decodes", [*DECODES, args.model])):
            with beside(command):
                rates[name].append(rate())
    quiet = statistics.median(rates["quiet"])
    for name, found in rates.items():
        print(f"{name}: {statistics.median(found):.1f} tokens/s [{min(found):.1f}, {max(found):.1f}], {statistics.median(found) / quiet:.2f} of the quiet speed")


if __name__ == "__main__":
    main()
