"""Runs the operation tests under the address and undefined-behaviour sanitizers: the CPU kernels and the CUDA sources on the host.

    python tests/cuda_sim/sanitize.py

Builds the package with the sanitizers into a temporary folder; needs g++ with libasan and the source tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1"
# The statistical cases repeat the same code thousands of times, and one thread order is enough here.
SELECTION = "(scalar or avx2 or avx512 or cuda-sim-1 or shim) and not law and not accepts_more and not keeps_more"


def library(name: str) -> str:
    return subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()


def build_package(folder: Path) -> None:
    """A copy of the package with sanitized kernels, and of the tests."""
    shutil.copytree(ROOT / "fastdecode", folder / "fastdecode", ignore=shutil.ignore_patterns("*.so", "__pycache__", "_csrc"))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    environment = {**os.environ, "CXX": f"g++ {FLAGS}", "FASTDECODE_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "objects")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def run(folder: Path, tests: list[str]) -> int:
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{library('libasan.so')}:{library('libubsan.so')}:{library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",  # Python itself leaks on exit
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(folder),
        "FASTDECODE_CSRC": str(ROOT / "csrc"),
        "FASTDECODE_SIM_FLAGS": FLAGS,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-r", "fE", "-k", SELECTION, *tests]
    return subprocess.run(command, cwd=folder, env=environment).returncode


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        build_package(Path(name))
        sys.exit(run(Path(name), sys.argv[1:] or ["tests/ops", "tests/cuda_sim"]))
