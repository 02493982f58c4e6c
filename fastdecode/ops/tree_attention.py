from __future__ import annotations

import torch

from fastdecode import _C
from fastdecode.ops import _check, _workspace, reference
from fastdecode.ops._dispatch import DTYPE_CODES, kernel


def tree_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
    lengths: torch.Tensor,
    ancestors: torch.Tensor,
    depth: torch.Tensor,
    scaling: float,
    window: int = 0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of the nodes of a token tree over a committed prefix and each node's own ancestors.

    The visibility of SpecInfer's tree attention (arXiv:2305.09781). Node i's key and value lie in slot P + i, its position is
    P + depth[i]. On the CPU a node's output is, bit for bit, what the same token would get as a chain of one with its
    ancestors in the prefix: it does not depend on the other nodes, the batch or the number of threads.

    Args:
        query: [b, H, N, D] float32 or bfloat16 (others run the reference).
        key, value: [B, Hkv, S, D], Hkv divides H; last dimensions contiguous, other strides free. Slots of the prefix and of
            the nodes hold finite numbers.
        rows: int32 [b], the row of key and value that each row of the query reads; None is 0, 1, 2, ...
        lengths: int32 [b], prefix lengths P, P + N <= S.
        ancestors: int64 [b, N, ceil(N / 64)], bit i % 64 of word i // 64 is set if node i is visible; includes the node
            itself, never a later node, and ancestors have smaller depth.
        depth: int32 [b, N], 0 for the root.
        scaling: factor of the scores, usually D ** -0.5.
        window: a key is visible only if its position exceeds the query's position minus the window; 0 is off.
        out: [b, N, H, D] contiguous in the query's dtype, to be overwritten.

    Returns:
        [b, N, H, D] in the query's dtype; softmax and sums are float32.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout; a prefix and its nodes exceed the slots.
    """
    batch, heads, nodes, dim = _strided("query", query, query.dtype, query.device)
    slot_rows, kv_heads, slots, _ = _strided("key", key, query.dtype, query.device, dim)
    if _strided("value", value, query.dtype, query.device, dim) != key.shape:
        raise ValueError(f"value has shape {list(value.shape)}, expected the shape of key, {list(key.shape)}")
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"query has {heads} heads and key has {kv_heads}; the second must divide the first")
    _check.tensor("lengths", lengths, torch.int32, (batch,), query.device)
    _check.tensor("ancestors", ancestors, torch.int64, (batch, nodes, (nodes + 63) // 64), query.device)
    _check.tensor("depth", depth, torch.int32, (batch, nodes), query.device)
    if rows is not None:
        _check.tensor("rows", rows, torch.int32, (batch,), query.device)
    if window < 0:
        raise ValueError(f"window is {window}, expected 0 (off) or a positive number of positions")
    _check_slots(rows, lengths, batch, slot_rows, slots, nodes)
    if out is None:
        out = torch.empty(batch, nodes, heads, dim, dtype=query.dtype, device=query.device)
    else:
        _check.tensor("out", out, query.dtype, (batch, nodes, heads, dim), query.device)
    run = kernel("tree_attention", query.device)
    if run is None or query.dtype not in (torch.float32, torch.bfloat16) or dim % 8 or not 64 <= dim <= 256:
        return out.copy_(reference.tree_attention(query, key, value, rows, lengths, ancestors, depth, scaling, window))
    scratch = 0
    if query.device.type == "cpu":
        scratch = _workspace.uninitialised(_C.num_threads() * _C.tree_attention_scratch(nodes, dim)).data_ptr()
    run(
        query.data_ptr(), key.data_ptr(), value.data_ptr(), DTYPE_CODES[query.dtype], (batch, heads, kv_heads, nodes, dim),
        query.stride()[:3], key.stride()[:3], value.stride()[:3], 0 if rows is None else rows.data_ptr(), lengths.data_ptr(),
        ancestors.data_ptr(), ancestors.shape[2], depth.data_ptr(), float(scaling), window, out.data_ptr(), scratch,
    )  # fmt: skip
    return out


def _strided(name: str, value, dtype, device, dim: int | None = None) -> torch.Size:
    """Checks a 4-D tensor whose last dimension is contiguous."""
    if value.dim() != 4 or (dim is not None and value.shape[3] != dim):
        raise ValueError(f"{name} has shape {list(value.shape)}, expected [*, *, *, {'*' if dim is None else dim}]")
    if value.dtype != dtype:
        raise TypeError(f"{name} has dtype {value.dtype}, expected {dtype} as the query; convert it with {name}.to(...)")
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, expected {device}; move it with {name}.to('{device}')")
    if value.stride(3) != 1 and value.shape[3] > 1:
        raise ValueError(f"{name} has strides {value.stride()}, its last dimension must be contiguous; pass {name}.contiguous()")
    return value.shape


def _check_slots(rows, lengths, batch, slot_rows, slots, nodes) -> None:
    if rows is None and batch > slot_rows:
        raise ValueError(f"query has {batch} rows and key has {slot_rows}; pass rows= to say which slot rows they read")
    if lengths.device.type != "cpu":
        return  # reading them would wait for the device
    longest, shortest = max(lengths.tolist(), default=0), min(lengths.tolist(), default=0)
    if shortest < 0 or longest + nodes > slots:
        raise ValueError(f"lengths is {lengths.tolist()}, expected 0 to {slots - nodes}: {slots} slots must hold the prefix and {nodes} nodes")
    if rows is not None and not all(0 <= r < slot_rows for r in rows.tolist()):
        raise ValueError(f"rows is {rows.tolist()}, expected values from 0 to {slot_rows - 1}")
