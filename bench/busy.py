"""Plain decoding beside one process that keeps a core busy, as a share of the quiet speed.

    python -m bench.busy --model DIR [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from fastdecode import SpeculativeGenerator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    generator = SpeculativeGenerator.from_pretrained(args.model, drafter="none", dtype="bfloat16")
    rate = lambda: generator.generate([1, 2, 3, 4] * 20, max_new_tokens=96, eos_token_id=-1).stats.tokens_per_second
    rate()
    quiet, busy = [], []
    for _ in range(args.repeats):
        rate()  # the team grows again
        quiet.append(rate())
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep(0.3)
        busy.append(rate())
        other.kill()
        other.wait()
    print(f"tokens/s: quiet {statistics.median(quiet):.1f}, busy {statistics.median(busy):.1f} [{min(busy):.1f}, {max(busy):.1f}], share {statistics.median(busy) / statistics.median(quiet):.2f}")


if __name__ == "__main__":
    main()
