"""Position-indexed K/V memory: rows are overwritten in place, never concatenated or reordered."""

from __future__ import annotations

import inspect
from typing import Sequence

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from fastdecode import ops


def cache_keyword(model: torch.nn.Module) -> str:
    """What the argument for the cache is called: transformers renamed it in 5.24."""
    return "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, [rows, heads, capacity, head_dim]; allocated at the first write."""

    is_croppable = True

    def __init__(self, slots: "KVSlots"):
        super().__init__()
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        allocate = lambda t: torch.zeros(self.slots.rows, t.shape[1], self.slots.capacity, t.shape[3], dtype=t.dtype, device=t.device)
        self.keys, self.values = allocate(key_states), allocate(value_states)
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Writes [b, heads, N, D] at the slots of the running step; returns the whole buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.slots.write(self.keys, key_states)
        self.slots.write(self.values, value_states)
        return self.keys, self.values

    def grow(self, capacity: int) -> None:
        if self.is_initialized:
            self.keys, self.values = _grown(self.keys, capacity), _grown(self.values, capacity)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slots.capacity, 0

    def get_seq_length(self) -> int:
        return max(self.slots.lengths)

    def get_max_length(self) -> int:
        return -1


class KVSlots(Cache):
    """The cache of a batch. Row r holds `lengths[r]` committed tokens; later slots are scratch space of the running step."""

    def __init__(self, layers: int, rows: int, capacity: int, taps: Sequence[int] = ()):
        self.rows, self.capacity = rows, capacity
        self.taps, self.hidden = list(taps), torch.empty(0)
        self.lengths = [0] * rows
        self._rows: list[int] = []
        self._index: tuple[torch.Tensor, torch.Tensor] | None = None
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def begin_step(self, rows: Sequence[int], width: int, device: torch.device) -> None:
        """Points the next writes at slots lengths[row] .. lengths[row] + width - 1 of the given rows."""
        self.reserve(max(self.lengths[r] for r in rows) + width)
        self._rows, self._width = list(rows), width
        self._index = None
        if len(rows) > 1:
            starts = torch.tensor([self.lengths[r] for r in rows], device=device)
            positions = starts[:, None] + torch.arange(width, device=device)  # [b, N]
            self._index = torch.tensor(rows, device=device), positions

    def begin_positions(self, rows: torch.Tensor, positions: torch.Tensor) -> None:
        """Points the next writes at given slots: int64 [b] rows, int64 [b, N] positions; of equal ones any may be kept."""
        self.reserve(int(positions.max()) + 1)
        self._index = rows, positions

    def write(self, buffer: torch.Tensor, states: torch.Tensor) -> None:
        """buffer [rows, heads, capacity, D] <- states [b, heads, N, D] at the slots of the step."""
        if self._index is None:
            row = self._rows[0]
            start = self.lengths[row]
            buffer[row, :, start : start + self._width] = states[0]
        else:
            ops.kv_write(states, buffer, *self._index)

    @torch.inference_mode()
    def copy_row(self, source: int, row: int) -> None:
        """Row `row` becomes a copy of the committed tokens of row `source`."""
        length = self.lengths[row] = self.lengths[source]
        for buffer in self.buffers():
            buffer[row, :, :length] = buffer[source, :, :length]

    def reserve(self, length: int) -> None:
        """Makes room for `length` tokens per row, at least doubling so that growth costs nothing on average."""
        if length > self.capacity:
            self.capacity = max(length, 2 * self.capacity)
            for layer in self.layers:
                layer.grow(self.capacity)

    def buffers(self) -> list[torch.Tensor]:
        """Every key and value buffer, [rows, heads, capacity, D] each."""
        return [t for layer in self.layers if layer.is_initialized for t in (layer.keys, layer.values)]


def _grown(buffer: torch.Tensor, capacity: int) -> torch.Tensor:
    result = buffer.new_zeros(*buffer.shape[:2], capacity, buffer.shape[3])
    result[:, :, : buffer.shape[2]] = buffer
    return result
