from __future__ import annotations

import functools
from typing import Sequence

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel


@functools.lru_cache(maxsize=64)
def _address_table(addresses: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """int64 [count] on the device. Cached: the buffers of a cache stay where they are, and a copy per step would cost a transfer."""
    return torch.tensor(addresses, dtype=torch.int64, device=device)


def kv_compact(buffers: Sequence[torch.Tensor], rows: torch.Tensor, path: torch.Tensor, accept_len: torch.Tensor, lengths: torch.Tensor) -> None:
    """Moves the keys and values of accepted tree nodes to the front of the tree, in place: slot P + path[j] -> P + j.

    Keys are stored after the rotary embedding of position P + depth, so nothing is rotated again.

    Args:
        buffers: keys and values of all layers, each [rows, heads, slots, dim] of any dtype; all share shape, strides and
            device, and the last dimension is contiguous.
        rows: int32 [B], row of the buffers that each batch row uses; distinct.
        path: int32 [B, N], kept nodes of each tree, root (0) first, ascending, padded with -1 (`TreePath.path`).
        accept_len: int32 [B], kept nodes without the root (`TreePath.accept_len`).
        lengths: int32 [B], P: node i of the tree sits in slot P + i.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout.
        IndexError: a row or a slot lies outside the buffers (on the CPU; a GPU skips the copy, as a check would stall it).
    """
    if not buffers:
        raise ValueError("buffers is empty; pass the key and value buffers of every layer")
    first = buffers[0]
    for i, buffer in enumerate(buffers):
        _check_buffer(f"buffers[{i}]", buffer, first)
    batch, nodes = _check.tensor("path", path, torch.int32, (None, None), first.device).shape
    if nodes == 0:
        raise ValueError("path has no nodes (N = 0); a tree holds at least its root")
    for name, value in (("rows", rows), ("accept_len", accept_len), ("lengths", lengths)):
        _check.tensor(name, value, torch.int32, (batch,), first.device)
    run = kernel("kv_compact", first.device)
    if run is None:
        return reference.kv_compact(buffers, rows, path, accept_len, lengths)
    table = _address_table(tuple(b.data_ptr() for b in buffers), first.device)
    size = first.element_size()
    strides = (s * size for s in first.stride()[:3])
    pointers = (t.data_ptr() for t in (rows, path, accept_len, lengths))
    run(table.data_ptr(), len(buffers), *first.shape[:3], first.shape[3] * size, *strides, *pointers, batch, nodes)


def _check_buffer(name: str, buffer: torch.Tensor, first: torch.Tensor) -> None:
    if not isinstance(buffer, torch.Tensor):
        raise TypeError(f"{name} is {type(buffer).__name__}, expected a torch.Tensor")
    if buffer.dim() != 4:
        raise ValueError(f"{name} has shape {list(buffer.shape)}, expected [rows, heads, slots, dim]")
    if buffer.stride(3) != 1 and buffer.shape[3] > 1:
        raise ValueError(f"{name} has strides {buffer.stride()}; its last dimension must be contiguous")
    for what in ("shape", "dtype", "device"):
        if getattr(buffer, what) != getattr(first, what):
            raise ValueError(f"{name} has {what} {getattr(buffer, what)}, but buffers[0] has {getattr(first, what)}; all buffers must agree")
    if buffer.stride() != first.stride():
        raise ValueError(f"{name} has strides {buffer.stride()}, but buffers[0] has {first.stride()}; all buffers must agree")
