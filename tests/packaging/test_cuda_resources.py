import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "csrc/cuda_resources.json").exists(), reason="needs the source tree")


def test_the_parser_reads_ptxas():
    from bench.cuda_resources import parse

    log = """ptxas info    : Compiling entry function 'a_kernel' for 'sm_90'
ptxas info    : Function properties for a_kernel
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 95 registers, used 1 barriers, 16 bytes cumulative stack size, 768 bytes smem
"""
    assert parse(log) == {"a_kernel": {"sm_90": {"registers": 95, "spill_stores": 4, "spill_loads": 8, "shared": 768}}}


def test_no_kernel_spills():
    kernels = json.loads((ROOT / "csrc/cuda_resources.json").read_text())["kernels"]
    for kernel, archs in kernels.items():
        for arch, used in archs.items():
            assert used["spill_stores"] == used["spill_loads"] == 0, f"{kernel} spills on {arch}: {used}"


def test_the_committed_table_is_current():
    from bench.cuda_resources import compiler, measure

    if shutil.which("nvcc") is None:
        pytest.skip("nvcc was not found")
    wanted = json.loads((ROOT / "csrc/cuda_resources.json").read_text())
    if compiler() != wanted["nvcc"]:
        pytest.skip(f"the table is of nvcc {wanted['nvcc']}, here is {compiler()}")
    assert measure() == wanted, "run python bench/cuda_resources.py --write and look at the difference"
