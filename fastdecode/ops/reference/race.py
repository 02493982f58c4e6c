"""Coins and draws of the verification operations; the streams are those of csrc/include/fastdecode/philox.cuh."""

from __future__ import annotations

import enum

import torch

from fastdecode.ops.reference.random import stream_uniform


class Purpose(enum.IntEnum):
    """Last word of a key: what the stream is for."""

    TARGET = 0
    DRAFT = 1
    ACCEPT = 2
    RESIDUAL = 3


def node_key(key: torch.Tensor, node: int, purpose: Purpose | None = None) -> torch.Tensor:
    """Key of one node or position: word 2 moves by `node`, word 3 becomes `purpose` if given. key: int64 [4]."""
    moved = key.clone()
    moved[2] += node
    if purpose is not None:
        moved[3] = int(purpose)
    return moved


def coin(key: torch.Tensor, node: int, draw: int = 0) -> float:
    """Uniform number that decides draw number `draw` of a node. key: int64 [4]."""
    return float(stream_uniform(node_key(key, node, Purpose.ACCEPT)[None], draw + 1)[0, draw])


def race(weights: torch.Tensor, key: torch.Tensor) -> int:
    """Token drawn in proportion to weights [V] by an exponential race; -1 if one is NaN or infinite or none is positive."""
    weights = weights.double()
    if bool((weights.isnan() | (weights == torch.inf)).any()) or not bool((weights > 0).any()):
        return -1
    times = -torch.log1p(-stream_uniform(key[None], len(weights))[0]) / weights
    return int(torch.where(weights > 0, times, torch.inf).argmin())
