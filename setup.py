"""Build of the compiled modules. Everything declarative lives in pyproject.toml.

`fastdecode._C` holds the CPU kernels: every source is compiled once with baseline flags, except files whose name ends in
`_avx2.cpp`, `_avx512.cpp`, ... which get the flags of that instruction set and are only entered after a run-time check.
`fastdecode._cuda` holds the CUDA launchers and is built when nvcc is found.

Environment:
    FASTDECODE_CUDA=0|1        0 skips CUDA, 1 makes a missing nvcc an error; unset: build it if nvcc is found
    FASTDECODE_CUDA_ARCHS      e.g. "80;90;120" (default: see CUDA_ARCHS); PTX of the newest is always included
    CXX, NVCC                  compilers
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "fastdecode/_version.py").read_text()).group(1)
X86 = platform.machine().lower() in {"x86_64", "amd64"}
CUDA_ARCHS = ("80", "90", "120")

# One object per instruction set. Baseline objects (no suffix) must run on every machine of the architecture.
ISA_FLAGS = {
    "_avx2": "-mavx2 -mfma -mf16c",
    "_avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c",
    "_avx512bf16": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vnni -mavx2 -mfma -mf16c",
    "_amx": "-mamx-tile -mamx-bf16 -mamx-int8 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vnni -mavx2 -mfma -mf16c",
}
# No -march=native and no fast-math: one wheel runs everywhere, and acceptance tests see IEEE arithmetic.
CXX_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -fopenmp -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas"
NVCC_FLAGS = "-std=c++17 -O3 -Xcompiler=-fPIC,-fvisibility=hidden --fmad=false --expt-relaxed-constexpr"


def find_nvcc() -> str | None:
    """Path of nvcc under the FASTDECODE_CUDA policy; never looks for a visible GPU."""
    policy = os.environ.get("FASTDECODE_CUDA", "")
    if policy not in {"", "0", "1"}:
        raise SystemExit(f"FASTDECODE_CUDA={policy!r} is not one of 0, 1 or unset")
    if policy == "0":
        return None
    cuda_home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = os.environ.get("NVCC") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{cuda_home}/bin")
    if policy == "1" and nvcc is None:
        raise SystemExit("FASTDECODE_CUDA=1 but nvcc was not found: set NVCC or CUDA_HOME, or FASTDECODE_CUDA=0")
    return nvcc


def cuda_archs() -> tuple[str, ...]:
    return tuple(filter(None, os.environ.get("FASTDECODE_CUDA_ARCHS", "").split(";"))) or CUDA_ARCHS


def cuda_arch_flags() -> str:
    archs = cuda_archs()
    sass = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    return " ".join([*sass, f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"])


def isa_suffix(source: Path) -> str:
    match = re.search(r"_(avx2|avx512|avx512bf16|amx)$", source.stem)
    return match.group(0) if match else ""


def cpu_sources() -> list[Path]:
    sources = [CSRC / "bindings.cpp", *(CSRC / "ops/cpu").glob("*.cpp"), *(CSRC / "structures").glob("*.cpp"), *(CSRC / "runtime").glob("*.cpp")]
    return sorted(s for s in sources if X86 or not isa_suffix(s))


def cuda_sources() -> list[Path]:
    return [CSRC / "bindings_cuda.cpp", *sorted((CSRC / "ops/cuda").glob("*.cu"))]


class NinjaBuild(build_ext):
    """Compiles each extension with one ninja file; ninja's own dependency log keeps rebuilds exact."""

    def run(self):
        self.copy_sources_as_package_data()
        super().run()

    def copy_sources_as_package_data(self):
        """The CUDA sources travel inside the package: the cupy path compiles them at first use."""
        for base in {Path(self.build_lib) / "fastdecode", ROOT / "fastdecode"} if self.inplace else {Path(self.build_lib) / "fastdecode"}:
            target = base / "_csrc"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(CSRC / "include", target / "include")
            shutil.copytree(CSRC / "ops/cpu", target / "ops/cpu", ignore=shutil.ignore_patterns("*.cpp"))  # the argument structs

    def build_extension(self, ext):
        # The object directory is named after everything that changes what is compiled, so switching never reuses an object.
        build = Path(self.build_temp).resolve() / f"{ext.name.rsplit('.', 1)[-1]}-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        (build / "build.ninja").write_text(self.ninja_file(ext, output))
        import ninja  # a build requirement; imported late so that `setup.py --version` needs nothing

        jobs = os.environ.get("MAX_JOBS", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
        subprocess.check_call([str(Path(ninja.BIN_DIR) / "ninja"), "-j", jobs], cwd=build)

    def ninja_file(self, ext, output: Path) -> str:
        import pybind11

        cxx = os.environ.get("CXX", "g++")
        includes = " ".join(f"-I{p}" for p in (CSRC / "include", CSRC, pybind11.get_include(), sysconfig.get_path("include")))
        defines = f'-DFASTDECODE_VERSION=\\"{VERSION}\\" -DFASTDECODE_MODULE={ext.name.rsplit(".", 1)[-1]} -DFASTDECODE_CUDA_ARCHS=\\"{",".join(cuda_archs())}\\"'
        nvcc = ext.nvcc or "false"
        # nvcc links its static runtime, which looks for the driver only at run time: the module imports without a GPU.
        link = f"{nvcc} -shared -cudart static $in -o $out" if ext.nvcc else f"{cxx} -shared -fopenmp $in -o $out"
        lines = [
            "rule cxx",
            f"  command = {cxx} -MMD -MF $out.d {CXX_FLAGS} $isa {defines} {includes} -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule nvcc",
            f"  command = {nvcc} -MMD -MF $out.d {NVCC_FLAGS} {cuda_arch_flags()} -I{CSRC / 'include'} -I{CSRC} -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = {link}",
        ]
        objects = []
        for source in map(Path, ext.sources):
            obj = str(source.relative_to(CSRC)).replace("/", "_") + ".o"
            objects.append(obj)
            lines.append(f"build {obj}: {'nvcc' if source.suffix == '.cu' else 'cxx'} {source}")
            if isa_suffix(source):
                # GCC 12 warns inside its own intrinsics headers, whose "undefined" start values it mistakes for a bug.
                lines.append(f"  isa = {ISA_FLAGS[isa_suffix(source)]} -Wno-maybe-uninitialized -Wno-uninitialized")
        lines += [f"build {output}: link {' '.join(objects)}", f"default {output}", ""]
        return "\n".join(lines)


def extension(name: str, sources: list[Path], nvcc: str | None = None) -> Extension:
    ext = Extension(name, [str(s) for s in sources])
    ext.nvcc = nvcc
    return ext


def extensions() -> list[Extension]:
    result = [extension("fastdecode._C", cpu_sources())]
    nvcc = find_nvcc()
    if nvcc and len(cuda_sources()) > 1:
        result.append(extension("fastdecode._cuda", cuda_sources(), nvcc))
    return result


setup(ext_modules=extensions(), cmdclass={"build_ext": NinjaBuild})
