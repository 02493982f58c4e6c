"""What this machine has and which implementation every operation will use."""

from __future__ import annotations

import importlib.util
import platform
from typing import Any

import psutil
import torch
import transformers

from fastdecode import _C, ops
from fastdecode._version import __version__

GIB = 1 << 30


def describe() -> dict[str, Any]:
    """Versions, processor features, CUDA state, threads, implementations and measured read bandwidth, as plain data."""
    return {
        "versions": {"fastdecode": __version__, "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()},
        "cpu": {"features": [name for name, present in _C.cpu_features() if present], "instruction_set": _C.isa(), "threads": _C.num_threads()},
        "cuda": cuda_state(),
        "operations": operations(),
        "read_bandwidth_gb_per_s": {"memory": read_bandwidth(GIB), "cache": read_bandwidth(8 << 20)},
    }


def operations() -> dict[str, str]:
    """Operation -> what runs it on the CPU; some have no compiled version."""
    compiled = {name: chosen(levels) for name, levels in _C.implementations().items()}
    return dict(sorted(({name: "reference" for name in ops.UNCOMPILED} | compiled).items()))


def chosen(levels: list[str]) -> str:
    """The implementation that runs now: the best compiled one at or below the instruction set in use."""
    order = ["scalar", "avx2", "avx512", "amx"]
    usable = [level for level in levels if order.index(level) <= order.index(_C.isa())]
    return usable[-1]


def cuda_state() -> dict[str, Any]:
    """How CUDA tensors would be served. Compiled kernels have not been run on a GPU yet unless the documentation says so."""
    compiled = importlib.util.find_spec("fastdecode._cuda") is not None
    architectures = getattr(importlib.import_module("fastdecode._cuda"), "architectures", []) if compiled else []
    return {"device": torch.cuda.is_available(), "compiled": compiled, "architectures": list(architectures), "cupy": importlib.util.find_spec("cupy") is not None}


def read_bandwidth(size: int) -> float:
    """Best of several reads of a buffer by all threads, in GB/s. The buffer shrinks when memory is short."""
    size = min(size, psutil.virtual_memory().available // 4)
    buffer = torch.ones(size // 8, dtype=torch.int64)
    seconds = min(_C.read_seconds(buffer.data_ptr(), buffer.numel(), once) for _ in range(5) for once in (False, True))
    return round(buffer.numel() * 8 / seconds / 1e9, 1)
