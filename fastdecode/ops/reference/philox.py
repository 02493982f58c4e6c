"""Counter-based random numbers (Philox4x32-10, Salmon et al. 2011), bit for bit as csrc/include/fastdecode/philox.cuh."""

from __future__ import annotations

import enum
from typing import NamedTuple, Sequence

import torch

MASK = 0xFFFFFFFF


class Purpose(enum.IntEnum):
    """Last word of a key: what the stream is for."""

    TARGET = 0
    DRAFT = 1
    ACCEPT = 2
    RESIDUAL = 3


class Stream(NamedTuple):
    """2^32 values addressed by index; made from a key."""

    key0: int
    key1: int
    counter2: int
    counter3: int


def _multiply(a, factor: int):
    """High and low word of a 32 x 32 bit product; a: int or int64 tensor below 2^32."""
    # 64-bit tensors overflow on the full product, so it is built from 16-bit halves.
    low, high = (a & 0xFFFF) * factor, (a >> 16) * factor
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32(counter: tuple, key0: int, key1: int) -> tuple:
    """Four words from four counter words (ints or int64 tensors)."""
    c0, c1, c2, c3 = counter
    for _ in range(10):
        (a_high, a_low), (b_high, b_low) = _multiply(c0, 0xD2511F53), _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = b_high ^ c1 ^ key0, b_low, a_high ^ c3 ^ key1, a_low
        key0, key1 = (key0 + 0x9E3779B9) & MASK, (key1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def make_stream(key: Sequence[int]) -> Stream:
    """Stream of a key of four 64-bit words (seed, request, position, purpose)."""
    seed, request, position, purpose = (int(word) & 0xFFFFFFFFFFFFFFFF for word in key)
    a = philox4x32((request & MASK, request >> 32, position & MASK, position >> 32), seed & MASK, seed >> 32)
    return Stream(*philox4x32((a[0], a[1], purpose & MASK, purpose >> 32), a[2], a[3]))


def node_stream(key: torch.Tensor, node: int, purpose: Purpose | None = None) -> Stream:
    """Stream of one node or position: word 2 of the key moves by `node`, word 3 becomes `purpose` if given. key: int64 [4]."""
    seed, request, position, own = key.tolist()
    return make_stream((seed, request, position + node, own if purpose is None else purpose))


def uniforms(stream: Stream, index: torch.Tensor) -> torch.Tensor:
    """Uniform float64 numbers in (0, 1) at int64 positions `index`."""
    planes = []
    for plane in (0, 1):
        words = torch.stack(philox4x32((index >> 2, torch.full_like(index, plane), torch.full_like(index, stream.counter2), torch.full_like(index, stream.counter3)), stream.key0, stream.key1))
        planes.append(words.gather(0, (index & 3).unsqueeze(0))[0].double())
    return (planes[0] * 2.0**-32 + (planes[1] + 0.5) * 2.0**-64).clamp(max=1 - 2.0**-53)


def coin(key: torch.Tensor, node: int, draw: int = 0) -> float:
    """Uniform number that decides draw number `draw` of a node. key: int64 [4]."""
    return float(uniforms(node_stream(key, node, Purpose.ACCEPT), torch.tensor([draw])))


def race(weights: torch.Tensor, stream: Stream) -> int:
    """Token drawn in proportion to weights [V] by an exponential race; -1 if one is NaN or infinite or none is positive."""
    weights = weights.double().cpu()
    if bool((weights.isnan() | (weights == torch.inf)).any()) or not bool((weights > 0).any()):
        return -1
    times = -torch.log1p(-uniforms(stream, torch.arange(len(weights)))) / weights
    return int(torch.where(weights > 0, times, torch.inf).argmin())
