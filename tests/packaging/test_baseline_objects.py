"""One object per instruction set: what every machine runs must not hold instructions that only some machines have."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

OBJECTS = sorted((Path(__file__).resolve().parents[2] / "build").glob("temp*/_C-*/*.o"))
ISA = re.compile(r"_(avx2|avx512|avx512bf16|amx)\.cpp\.o$")

pytestmark = pytest.mark.skipif(not OBJECTS or shutil.which("objdump") is None, reason="needs objdump and the objects of an in-place build")


@pytest.mark.parametrize("path", [p for p in OBJECTS if not ISA.search(p.name)], ids=lambda p: p.name)
def test_baseline_objects_use_baseline_registers(path):
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True).stdout
    found = [line.strip() for line in listing.splitlines() if re.search(r"%(ymm|zmm|k[1-7]\b|tmm)", line)]
    assert not found, f"{path.name} holds {len(found)} vector instructions beyond the baseline, e.g. {found[0]}"


@pytest.mark.parametrize("path", [p for p in OBJECTS if ISA.search(p.name)], ids=lambda p: p.name)
def test_objects_of_one_instruction_set_share_nothing(path):
    """A weak symbol is an inline function or template: the linker keeps one copy, perhaps this one, for the baseline too."""
    symbols = subprocess.run(["nm", "-C", "--defined-only", str(path)], capture_output=True, text=True, check=True).stdout
    weak = [line for line in symbols.splitlines() if re.search(r" [WVu] ", line) and "DW.ref." not in line]
    assert not weak, f"{path.name} defines shared symbols: {weak[:3]}"
