"""Argument checks of the operations: every error names the argument, the value and the remedy."""

from __future__ import annotations

import torch


def tensor(name: str, value, dtypes, shape: tuple, device: torch.device | None = None) -> torch.Tensor:
    """Checks a contiguous tensor argument and returns it.

    Args:
        name: the argument's name, for messages.
        dtypes: allowed dtype or tuple of them.
        shape: expected sizes; None matches any size.
        device: required device, if any.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, expected a torch.Tensor")
    allowed = dtypes if isinstance(dtypes, tuple) else (dtypes,)
    if value.dtype not in allowed:
        raise TypeError(f"{name} has dtype {value.dtype}, expected {' or '.join(map(str, allowed))}; convert it with {name}.to(...)")
    if not _fits(value.shape, shape):
        wanted = "[" + ", ".join("*" if s is None else str(s) for s in shape) + "]"
        raise ValueError(f"{name} has shape {list(value.shape)}, expected {wanted}; {_reshaped(name, tuple(value.shape), shape)}")
    if device is not None and value.device != device:
        raise ValueError(f"{name} is on {value.device}, expected {device}; move it with {name}.to('{device}')")
    if not value.is_contiguous():
        raise ValueError(f"{name} is not contiguous (strides {value.stride()}); pass {name}.contiguous()")
    return value


def _fits(shape: tuple, wanted: tuple) -> bool:
    return len(shape) == len(wanted) and all(want is None or want == have for want, have in zip(wanted, shape))


def _reshaped(name: str, shape: tuple, wanted: tuple) -> str:
    """What to pass instead of a tensor of another shape."""
    if _fits((1, *shape), wanted):
        return f"pass {name}[None]"
    if shape[:1] == (1,) and _fits(shape[1:], wanted):
        return f"pass {name}[0]"
    return "pass one with these sizes, which the other arguments ask for" if any(wanted) else f"pass one with {len(wanted)} dimensions"


def rows(name: str, value, dtypes) -> torch.Size:
    """Checks a matrix whose rows are contiguous but may lie any distance apart, and returns its shape."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, expected a torch.Tensor")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} has dtype {value.dtype}, expected {' or '.join(map(str, dtypes))}; convert it with {name}.to(...)")
    if value.dim() != 2:
        raise ValueError(f"{name} has shape {list(value.shape)}, expected [*, *]")
    if value.shape[1] > 1 and value.stride(1) != 1:
        raise ValueError(f"{name} has strides {value.stride()}, its last dimension must be contiguous; pass {name}.contiguous()")
    return value.shape


def tree(tokens, first_child, next_sibling) -> tuple[int, int]:
    """Checks the arrays of draft trees, int32 [B, N] each, and returns B and N."""
    batch, nodes = tensor("tokens", tokens, torch.int32, (None, None)).shape
    if nodes == 0:
        raise ValueError("tokens has no nodes (N = 0); a tree holds at least its root")
    for name, value in (("first_child", first_child), ("next_sibling", next_sibling)):
        tensor(name, value, torch.int32, (batch, nodes), tokens.device)
    return batch, nodes
