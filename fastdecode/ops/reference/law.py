"""Laws as float32 probabilities, from probabilities or logits, bit for bit as csrc/include/fastdecode/law.cuh reads them."""

from __future__ import annotations

import numpy as np
import torch

UNDERFLOW = np.float32(-87.33)  # below, the result is 0
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.44269504), np.float32(0.693145752), np.float32(1.42860682e-6)
POLYNOMIAL = tuple(np.float32(c) for c in (0.001395049155689776, 0.008368889801204205, 0.04166620597243309, 0.166665181517601, 0.5))


def probabilities(values: torch.Tensor, lse: torch.Tensor | None = None) -> torch.Tensor:
    """float32 [..., V] from rows of probabilities, or of logits with the logarithm of each row's sum of exponentials, [...]."""
    rows = values.float()
    if lse is None:
        return rows
    with np.errstate(invalid="ignore", over="ignore"):
        exponents = rows.cpu().numpy() - lse.cpu().numpy()[..., None]
        return torch.from_numpy(exp(np.where(exponents > 0, np.float32(0), exponents))).to(values.device)


def exp(a: np.ndarray) -> np.ndarray:
    """Exponential of float32 numbers that are at most 0; NaN stays NaN."""
    inside = a >= UNDERFLOW
    x = np.where(inside, a, np.float32(0))
    n = np.rint(x * LOG2_E)
    r = fused(n, -LN2_LOW, fused(n, -LN2_HIGH, x))
    p = POLYNOMIAL[0]
    for c in POLYNOMIAL[1:]:
        p = fused(p, r, c)
    p = fused(r * r, p, r)
    return np.where(inside, np.ldexp(p + np.float32(1), n.astype(np.int32)), np.where(np.isnan(a), a, np.float32(0)))


def fused(a, b, c) -> np.ndarray:
    """a * b + c of float32 numbers, rounded once: the sum is rounded to odd in double precision, which the second rounding cannot tell
    from the exact one (Boldo and Melquiond 2008)."""
    product = np.multiply(a, b, dtype=np.float64)
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)  # of the sum, exactly (Knuth)
    even = (np.asarray(total).view(np.int64) & 1) == 0
    return np.where((error != 0) & even, np.nextafter(total, np.copysign(np.inf, error)), total).astype(np.float32)
