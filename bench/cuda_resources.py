"""Registers, spills and shared memory of every CUDA kernel, from ptxas.

    python bench/cuda_resources.py            compares with the committed table; exit status 1 on a difference
    python bench/cuda_resources.py --write    records it
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
TABLE = CSRC / "cuda_resources.json"
ARCHS = ("80", "90", "120")
FLAGS = ["-std=c++17", "-O3", "--fmad=false", "--expt-relaxed-constexpr", f"-I{CSRC / 'include'}", f"-I{CSRC}"]  # as in setup.py


def parse(log: str) -> dict[str, dict[str, dict[str, int]]]:
    """{kernel: {arch: {registers, spill_stores, spill_loads, shared}}} from the output of `-Xptxas -v`."""
    result: dict[str, dict[str, dict[str, int]]] = {}
    number = lambda pattern, text: int(found.group(1)) if (found := re.search(pattern, text)) else 0
    for part in log.split("Compiling entry function ")[1:]:
        kernel, arch = re.match(r"'(\w+)' for 'sm_(\w+)'", part).groups()
        result.setdefault(kernel, {})[f"sm_{arch}"] = {
            "registers": number(r"Used (\d+) registers", part),
            "spill_stores": number(r"(\d+) bytes spill stores", part),
            "spill_loads": number(r"(\d+) bytes spill loads", part),
            "shared": number(r"(\d+) bytes smem", part),
        }
    return result


def compiler() -> str:
    """Release of nvcc, e.g. "13.0": other releases allocate registers differently."""
    return re.search(r"release ([\d.]+)", subprocess.check_output(["nvcc", "--version"], text=True)).group(1)


def measure() -> dict:
    gencode = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        command = lambda s: ["nvcc", *FLAGS, *gencode, "-Xptxas", "-v", "-c", str(s), "-o", f"{folder}/{s.stem}.o"]
        compile_one = lambda s: subprocess.run(command(s), check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
        logs = pool.map(compile_one, sorted((CSRC / "ops/cuda").glob("*.cu")))
        kernels = {k: dict(sorted(v.items())) for log in logs for k, v in parse(log).items()}
    return {"nvcc": compiler(), "kernels": dict(sorted(kernels.items()))}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true", help="record the table")
    write = options.parse_args().write
    if shutil.which("nvcc") is None:
        print("nvcc was not found: put it on PATH to measure the CUDA kernels")
        return 1
    found = measure()
    if write:
        TABLE.write_text(json.dumps(found, indent=1) + "\n")
    wanted = json.loads(TABLE.read_text())
    for kernel in sorted(wanted["kernels"].keys() | found["kernels"].keys()):
        print(kernel, found["kernels"].get(kernel))
    return int(wanted != found)


if __name__ == "__main__":
    sys.exit(main())
