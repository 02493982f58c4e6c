"""Compiles CUDA sources for the host: the same kernels and bindings, on the shim of csrc/sim instead of a GPU."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent.resolve()
FLAGS = "-std=c++17 -O1 -g1 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -DFASTDECODE_SIM -DFASTDECODE_VERSION=\\\"sim\\\""


def find_csrc() -> Path:
    """csrc beside tests, or where FASTDECODE_CSRC says (tests run from a copy, against an installed package)."""
    csrc = Path(os.environ.get("FASTDECODE_CSRC", HERE.parents[1] / "csrc"))
    if not (csrc / "sim").is_dir():
        raise FileNotFoundError(f"the CUDA sources are not in {csrc}; set FASTDECODE_CSRC to the csrc folder of the source tree")
    return csrc


def simulator_sources() -> list[Path]:
    csrc = find_csrc()
    return [csrc / "bindings_cuda.cpp", csrc / "sim/sim.cpp", *sorted((csrc / "ops/cuda").glob("*.cu"))]


def build(name: str, sources: list[Path], flags: str = "") -> ModuleType:
    """Compiled module `name` of the sources; built once per content of the sources and headers.

    Raises:
        RuntimeError: there is no C++ compiler, or it rejects the sources; the message holds its output.
    """
    target = _cache(sources, flags) / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # renamed when whole: several runs may build at once
            _compile(name, sources, flags, Path(folder), Path(folder) / target.name)
            os.replace(Path(folder) / target.name, target)
    spec = importlib.util.spec_from_file_location(name, target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cache(sources: list[Path], flags: str) -> Path:
    csrc = find_csrc()
    headers = [p for p in sorted(csrc.rglob("*")) if p.suffix in {".h", ".cuh"}]
    digest = hashlib.sha256(f"{FLAGS} {flags} {sys.implementation.cache_tag} {os.environ.get('CXX', 'g++')}".encode())
    for path in [*sources, *headers]:
        digest.update(path.name.encode() + path.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "fastdecode" / "cuda-sim" / digest.hexdigest()[:16]


def _compile(name: str, sources: list[Path], flags: str, folder: Path, output: Path) -> None:
    import pybind11

    cxx = os.environ.get("CXX", "g++")
    csrc = find_csrc()
    includes = " ".join(f"-I{p}" for p in (csrc / "include", csrc, pybind11.get_include(), sysconfig.get_path("include")))
    lines = ["rule cxx", f"  command = {cxx} -x c++ {FLAGS} {flags} -DFASTDECODE_MODULE={name} {includes} -c $in -o $out"]
    lines += ["rule link", f"  command = {cxx} -shared {flags} $in -o $out"]
    objects = []
    for source in sources:
        objects.append(f"{source.stem}{source.suffix.replace('.', '_')}.o")
        lines.append(f"build {objects[-1]}: cxx {source}")
    lines += [f"build {output.name}: link {' '.join(objects)}", ""]
    (folder / "build.ninja").write_text("\n".join(lines))
    done = subprocess.run([_ninja(), "-C", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the CUDA sources do not compile for the host:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")


def _ninja() -> str:
    found = shutil.which("ninja")
    if found is None:
        import ninja

        found = str(Path(ninja.BIN_DIR) / "ninja")
    return found
