"""Which implementation of an operation runs: the compiled CPU kernels, CUDA, or the readable torch reference.

`kernel(name, device)` is the only way an operation reaches compiled code. Tests force one implementation with
`implementation(name)`; users force an instruction set with the environment variable FASTDECODE_CPU.
"""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Callable, Iterator

import torch

from fastdecode import _C

CPU_LEVELS = ("scalar", "avx2", "avx512", "amx")
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # csrc/include/fastdecode/dtype.h

_forced_reference = False
_simulator: ModuleType | None = None  # the CUDA sources compiled for the host; set by tests


@contextlib.contextmanager
def implementation(name: str, simulator: ModuleType | None = None) -> Iterator[None]:
    """Runs the operations inside the block with one implementation.

    Args:
        name: "reference", an instruction set ("scalar", "avx2", "avx512", "amx"), "cuda-sim" or "cuda".
        simulator: the module that holds the CUDA sources compiled for the host; needed by "cuda-sim".

    Raises:
        ValueError: the name is unknown, or the machine lacks the instruction set.
    """
    global _forced_reference, _simulator
    if name not in ("reference", "cuda-sim", "cuda", *CPU_LEVELS):
        raise ValueError(f"implementation {name!r} is unknown: use reference, {', '.join(CPU_LEVELS)}, cuda-sim or cuda")
    if name == "cuda-sim" and simulator is None:
        raise ValueError("implementation 'cuda-sim' needs simulator=, the module that holds the CUDA sources built for the host")
    before = _forced_reference, _simulator, _C.isa()
    try:
        _forced_reference = name == "reference"
        _simulator = simulator if name == "cuda-sim" else None
        if name in CPU_LEVELS:
            _C.set_isa(name)
        yield
    finally:
        _forced_reference, _simulator = before[:2]
        _C.set_isa(before[2])


def kernel(name: str, device: torch.device) -> Callable | None:
    """The compiled function of operation `name` for tensors on `device`; None means: use the reference."""
    if _forced_reference:
        return None
    if _simulator is not None:
        function = getattr(_simulator, name, None)
        return function and (lambda *args: function(*args, 0))
    if device.type == "cpu":
        return getattr(_C, name, None)
    return _cuda_kernel(name, device)


def runs_cuda(device: torch.device) -> bool:
    """Whether `kernel` gives CUDA code for tensors on this device, or its simulation."""
    return _simulator is not None or device.type != "cpu"


def _cuda_kernel(name: str, device: torch.device) -> Callable | None:
    from fastdecode.ops import _cuda_backend

    return _cuda_backend.kernel(name, device)
