from __future__ import annotations

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel


def kv_write(states: torch.Tensor, buffer: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> None:
    """Writes new keys or values into position-indexed slots, in place: buffer[rows[b], :, positions[b, n]] = states[b, :, n].

    Args:
        states: [B, heads, N, dim] of any dtype. buffer: [rows, heads, slots, dim] of the same; the last dimensions are contiguous.
        rows: int64 [B]. positions: int64 [B, N]; where a row names a slot twice the states must be equal.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout.
        IndexError: a row or a slot lies outside the buffer (on the CPU; a GPU skips it, as a check would stall it).
    """
    for name, value in (("states", states), ("buffer", buffer)):
        if not isinstance(value, torch.Tensor) or value.dim() != 4:
            raise ValueError(f"{name} must be a tensor with four dimensions, got {tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__}")
        if value.stride(3) != 1 and value.shape[3] > 1:
            raise ValueError(f"{name} has strides {value.stride()}; its last dimension must be contiguous")
    batch, heads, count, dim = states.shape
    if states.dtype != buffer.dtype or states.device != buffer.device or buffer.shape[1::2] != (heads, dim):
        raise ValueError(f"states {list(states.shape)} {states.dtype} on {states.device} do not fit buffer {list(buffer.shape)} {buffer.dtype} on {buffer.device}: heads, dim, dtype and device must agree")
    _check.tensor("rows", rows, torch.int64, (batch,), buffer.device)
    _check.tensor("positions", positions, torch.int64, (batch, count), buffer.device)
    run = kernel("kv_write", buffer.device)
    if run is None:
        return reference.kv_write(states, buffer, rows, positions)
    size = states.element_size()
    run(
        states.data_ptr(), buffer.data_ptr(), batch, heads, count, dim * size, *(s * size for s in states.stride()[:3]),
        buffer.shape[0], buffer.shape[2], *(s * size for s in buffer.stride()[:3]), rows.data_ptr(), positions.data_ptr(),
    )  # fmt: skip
