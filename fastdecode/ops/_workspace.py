"""Memory that kernels work in: kept per Python thread and grown on demand, because kernels never allocate."""

from __future__ import annotations

import threading

import torch

_kept = threading.local()


def uninitialised(count: int) -> torch.Tensor:
    """At least `count` float32 elements of any content on the CPU; valid until this thread's next operation."""
    return _grown("uninitialised", count, torch.float32, torch.empty)


def zeros(count: int) -> torch.Tensor:
    """At least `count` int32 zeros on the CPU; who writes to them restores the zeros."""
    return _grown("zeros", count, torch.int32, torch.zeros)


def _grown(name: str, count: int, dtype: torch.dtype, make) -> torch.Tensor:
    tensor = getattr(_kept, name, None)
    if tensor is None or tensor.numel() < count:
        tensor = make(count, dtype=dtype)
        setattr(_kept, name, tensor)
    return tensor
