"""Where the CUDA kernels come from: the compiled module, else the packaged sources compiled by cupy at first use."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Callable

import numpy as np
import torch

SOURCES = Path(__file__).resolve().parent.parent / "_csrc"
WARP = 32
REMEDY = "pip install 'fastdecode[cuda12]' or 'fastdecode[cuda13]', or build fastdecode where nvcc is found (FASTDECODE_CUDA=1)"


def row_threads(columns: int) -> int:
    """Threads for one row, as in csrc/include/fastdecode/launch.cuh."""
    return WARP if columns <= 2048 else 256 if columns <= 16384 else 512


# Operation -> blocks and threads from the arguments of its binding, tuples unpacked; the kernel is <operation>_kernel, its only
# parameter a struct of fields that take 8 bytes each, in the order of those arguments. Some share a header.
GRIDS: dict[str, Callable[[tuple], tuple[int, int]]] = {
    "active_set": lambda a: (a[5], WARP),
    "adaptive_block_size": lambda a: ((a[7] + WARP - 1) // WARP, WARP),
    "draft_states": lambda a: (a[6] * a[7], 4 * WARP),
    "kv_compact": lambda a: (a[1] * a[3] * a[13], WARP),
    "kv_write": lambda a: (a[2] * a[3], 4 * WARP),
    "process_probs": lambda a: (a[1], row_threads(a[2])),
    "tree_attention": lambda a: (a[4] * a[7] * a[6] * -(-a[5] // a[6] // 4), 4 * WARP),
    "tree_expand": lambda a: (a[1], row_threads(a[2])),
    "transport_plan": lambda a: (a[8], row_threads(a[9])),
    "unmask_commit": lambda a: (a[10], 4 * WARP),
    "verify_block": lambda a: (a[5], row_threads(a[7])),
    "verify_chain": lambda a: (a[5], row_threads(a[7])),
    "verify_states": lambda a: (a[5], 4 * WARP),
    "verify_tree_greedy": lambda a: ((a[4] + WARP - 1) // WARP, WARP),
    "verify_tree_point": lambda a: (a[5], row_threads(a[7])),
    "verify_tree_recursive": lambda a: (a[8], row_threads(a[10])),
    "verify_tree_transport": lambda a: (a[12], row_threads(a[14])),
    "verify_tree_transport_block": lambda a: (a[12], row_threads(a[14])),
    "vocab_stats": lambda a: (a[1], row_threads(a[2])),
}
HEADERS = {"draft_states": "verify_states", "transport_plan": "verify_tree_transport", "verify_block": "verify_chain"}


def kernel(name: str, device: torch.device) -> Callable | None:
    """The function of operation `name` for tensors on `device`; None if the operation has no CUDA kernel.

    Raises:
        RuntimeError: neither the compiled module nor cupy is there.
    """
    if name not in GRIDS:
        return None
    compiled = _compiled()
    if compiled is not None:
        return _on_stream(getattr(compiled, name), device)
    cupy = _cupy()
    if cupy is None:
        raise RuntimeError(f"{name} has no CUDA kernel for {device}: fastdecode was built without nvcc and cupy is not installed; {REMEDY}")
    return functools.partial(_launch, cupy, name, device)


@functools.cache
def _compiled():
    return importlib.import_module("fastdecode._cuda") if importlib.util.find_spec("fastdecode._cuda") else None


@functools.cache
def _cupy():
    return importlib.import_module("cupy") if importlib.util.find_spec("cupy") else None


def _on_stream(function: Callable, device: torch.device) -> Callable:
    def run(*arguments):
        with torch.cuda.device(device):
            function(*arguments, torch.cuda.current_stream(device).cuda_stream)

    return run


def compile_options() -> tuple[str, ...]:
    """The options of the ahead-of-time build that change results: no contraction, the same language."""
    return ("--std=c++17", "--fmad=false", *(f"-I{SOURCES / folder}" for folder in ("include", "include/nvrtc", ".")))


def source(name: str) -> str:
    """Translation unit that holds the kernel of operation `name`."""
    header = HEADERS.get(name, name)
    if not (SOURCES / "include/fastdecode" / f"{header}.cuh").exists():
        raise RuntimeError(f"the CUDA source of {name} is not in {SOURCES}; reinstall fastdecode")
    return f'#include "fastdecode/{header}.cuh"\n'


@functools.lru_cache(maxsize=None)
def _function(cupy, name: str, device_index: int):
    # nvcc would need a toolkit; NVRTC comes with cupy, without standard headers: include/nvrtc has what the kernels use of them.
    module = cupy.RawModule(code=source(name), options=compile_options(), backend="nvrtc")
    return module.get_function(f"{name}_kernel")


def _unpacked(arguments: tuple) -> tuple[int, ...]:
    """The arguments as 8-byte integers: tuples in place, floats as the bits of a float32."""
    flat = (x for a in arguments for x in (a if isinstance(a, (tuple, list)) else (a,)))
    return tuple(int(np.float32(x).view(np.int32)) if isinstance(x, float) else x for x in flat)


def _launch(cupy, name: str, device: torch.device, *arguments) -> None:
    arguments = _unpacked(arguments)
    blocks, threads = GRIDS[name](arguments)
    if blocks == 0:
        return
    fields = np.dtype([(f"f{i}", np.int64) for i in range(len(arguments))])
    index = torch.cuda.current_device() if device.index is None else device.index
    with cupy.cuda.Device(index):
        stream = cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream)
        with stream:
            _function(cupy, name, index)((blocks,), (threads,), (np.array([arguments], dtype=fields),))
