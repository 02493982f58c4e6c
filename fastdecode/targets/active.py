"""What a masked-diffusion step asks of a model: some positions of some rows, with attention in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Sequence

import numpy as np
import torch

from fastdecode.ops import TokenCredit, VocabStats


@dataclass(frozen=True)
class ActiveRow:
    """The positions of one sequence that a pass computes; their keys and values overwrite those in their slots.

    Attributes:
        row: of the cache.
        tokens, positions: int32 [A]; positions ascend.
        ends: int32 [A], a position sees the slots 0 ... end - 1, all of which have been computed before or are in the pass.
        wanted: int32 [R], ascending indices of positions whose logits are asked for.
    """

    row: int
    tokens: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    wanted: np.ndarray


class DiffusionTarget(Protocol):
    """A bidirectional (or block-causal) transformer over position-indexed slots.

    Attributes:
        vocab_size, max_positions, device: as for `TargetModel`.
    """

    vocab_size: int
    max_positions: int | None
    device: torch.device

    def new_slots(self, rows: int, length: int):
        """Slots for `rows` sequences of `length` positions."""

    def forward_active(self, slots, active: Sequence[ActiveRow], *, guidance: float = 0.0, ids: torch.Tensor | None = None, banned: torch.Tensor | None = None, temperature: torch.Tensor | None = None, key: torch.Tensor | None = None, credit: TokenCredit | None = None) -> VocabStats:  # fmt: skip
        """`ops.vocab_stats` of the wanted logits, row after row; the logits themselves need not be kept.

        Args:
            guidance: if not 0, `active` are two halves that differ in their tokens alone, with and without a condition, and the
                logits, half as many, are with + guidance * (with - without).
            credit: on `device`; all else is on the CPU.
        """

    def logits_active(self, slots, active: Sequence[ActiveRow], guidance: float = 0.0) -> torch.Tensor:
        """The wanted logits [R, V] themselves, which the caller may overwrite; for laws that no one pass over them gives."""

    def copy_slots(self, slots, source: int, row: int, length: int) -> None:
        """Row `row` becomes a copy of the first `length` slots of row `source`."""
