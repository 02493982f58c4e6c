"""Runs tests under sanitizers: the CPU kernels, the runtime and the CUDA sources on the host.

    python tests/cuda_sim/sanitize.py                 address and undefined behaviour: operations and simulator
    python tests/cuda_sim/sanitize.py --runtime       the same for the runtime
    python tests/cuda_sim/sanitize.py --threads       data races in the runtime
    python tests/cuda_sim/sanitize.py --tiles         no sanitizer: the runtime on emulated AMX tiles, for machines with AVX-512 BF16 that have none

Builds the package with the sanitizers into a temporary folder; needs g++ with their libraries and the source tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1"
TILES = "-DFD_AMX_EMULATED"
RACES = "-fsanitize=thread -fno-omit-frame-pointer -O1"
# The statistical cases repeat the same code thousands of times, and one thread order is enough here.
OPERATIONS = "(scalar or avx2 or avx512 or cuda-sim-1 or shim) and not law and not accepts_more and not keeps_more"

# Without the tests that start processes of their own or load the checkpoint.
RUNTIME = "not loading_needs and not model and not SmolLM"


def library(name: str) -> str:
    return subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()


def build_package(folder: Path, flags: str) -> None:
    """A copy of the package with sanitized kernels, and of the tests."""
    shutil.copytree(ROOT / "fastdecode", folder / "fastdecode", ignore=shutil.ignore_patterns("*.so", "__pycache__", "_csrc"))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    environment = {**os.environ, "CXX": f"g++ {flags}", "FASTDECODE_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "objects")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def run(folder: Path, selection: str, tests: list[str]) -> int:
    environment = {
        **os.environ,
        "LD_PRELOAD": ":".join(map(library, ["libasan.so", "libubsan.so", "libstdc++.so"])),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",  # Python itself leaks on exit
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(folder),
        "FASTDECODE_CSRC": str(ROOT / "csrc"),
        "FASTDECODE_SIM_FLAGS": MEMORY,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-r", "fE", "-k", selection, *tests]
    return subprocess.run(command, cwd=folder, env=environment).returncode


def run_tiles(folder: Path, tests: list[str]) -> int:
    """The kernels meant for AMX, all of them and every family, with tile instructions replaced by portable code of the same results."""
    build_package(folder, TILES)
    environment = {**os.environ, "PYTHONPATH": str(folder), "FASTDECODE_CSRC": str(ROOT / "csrc"), "FASTDECODE_CPU": "amx"}
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], cwd=folder, env=environment).returncode


def run_threads(folder: Path) -> int:
    """Builds the package for its objects, links those of the runtime to a program of their own and runs that."""
    build_package(folder, RACES)
    objects = [str(o) for o in (folder / "objects").rglob("*.o") if "bind" not in o.name]
    program = folder / "races"
    subprocess.run(["g++", *RACES.split(), "-std=c++17", "-fopenmp", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}", str(ROOT / "tests/engine/runtime_races.cpp"), *objects, "-o", str(program)], check=True)
    return subprocess.run(["setarch", "-R", str(program)], env={**os.environ, "TSAN_OPTIONS": "exitcode=66"}).returncode


if __name__ == "__main__":
    kind, tests = sys.argv[1] if sys.argv[1:2] and sys.argv[1].startswith("--") else "", [a for a in sys.argv[1:] if not a.startswith("--")]
    with tempfile.TemporaryDirectory() as name:
        if kind == "--threads":
            sys.exit(run_threads(Path(name)))
        if kind == "--tiles":
            sys.exit(run_tiles(Path(name), tests or ["tests/engine/test_native.py"]))
        build_package(Path(name), MEMORY)
        if kind == "--runtime":
            sys.exit(run(Path(name), RUNTIME, tests or ["tests/engine/test_native.py", "tests/engine/test_generate.py", "tests/engine/test_eagle.py"]))
        sys.exit(run(Path(name), OPERATIONS, tests or ["tests/ops", "tests/cuda_sim"]))
