"""The compiled CPU runtime as a target: packed weights, one call into C++ per step."""

from __future__ import annotations

from typing import Sequence

import torch
from transformers import PreTrainedModel

from fastdecode import _C
from fastdecode.speculative.tree import DraftTree
from fastdecode.targets.base import check_model
from fastdecode.targets.packing import pack_model, refuse_unsupported

PREFILL_CHUNK = 256  # bounds the workspace of a long prompt


class NativeState:
    """The cache of a batch of requests. Row r holds `lengths[r]` committed tokens."""

    def __init__(self, cache: "_C.KvCache", rows: int):
        self.cache = cache
        self.lengths = [0] * rows

    def copy_row(self, source: int, row: int) -> None:
        """Row `row` becomes a copy of the committed tokens of row `source`."""
        self.lengths[row] = self.lengths[source]
        self.cache.copy_row(source, row, self.lengths[source])


class NativeTarget:
    """Runs a model's transformer in compiled code on the CPU.

    The logits of a token depend on the tokens it sees alone, bit for bit: not on the tree, batch or chunk it is computed in
    and not on the number of threads. Keys and values are kept, and products with the weights are taken, in the dtype of the
    weights; everything else, logits included, is float32. The weights are copied: later changes to `model` have no effect.

    Args:
        model: a causal LM of transformers on the CPU whose family the runtime knows (`NATIVE_FAMILIES`).

    Raises:
        UnsupportedModelError: of another family, or with a setting that the runtime has no code for; says which.
    """

    device = torch.device("cpu")

    def __init__(self, model: PreTrainedModel):
        check_model(model)
        refuse_unsupported(model)
        self.transformer = pack_model(model)
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.max_positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        self._logits = torch.empty(0, dtype=torch.float32)

    def new_state(self, rows: int, capacity: int) -> NativeState:
        return NativeState(self.transformer.new_cache(rows, capacity), rows)

    def prefill(self, state: NativeState, row: int, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), PREFILL_CHUNK):
            chunk = list(tokens[start : start + PREFILL_CHUNK])
            self.transformer.forward_chain(state.cache, row, state.lengths[row], chunk)
            state.lengths[row] += len(chunk)

    def forward(self, state: NativeState, rows: Sequence[int], tree: DraftTree) -> torch.Tensor:
        """Logits [B, N, V] after every node (of padding nodes: 0); they are overwritten by the next call."""
        batch, nodes = tree.shape
        counts = tree.num_nodes.tolist()
        wanted, columns = sum(counts), (self.vocab_size + 15) // 16 * 16
        packed = self._buffer(wanted, columns)
        lengths = [state.lengths[r] for r in rows]
        self.transformer.forward_tree(state.cache, rows, lengths, tree.tokens.numpy(), tree.parents.numpy(), tree.num_nodes.numpy(), packed.data_ptr(), columns)
        if wanted == batch * nodes:
            return packed.view(batch, nodes, columns)[..., : self.vocab_size]
        logits = packed.new_zeros(batch, nodes, columns)
        logits[torch.arange(nodes) < tree.num_nodes[:, None]] = packed
        return logits[..., : self.vocab_size]

    def commit(self, state: NativeState, rows: Sequence[int], path: torch.Tensor, accept_len: torch.Tensor) -> None:
        for row, nodes, accepted in zip(rows, path.tolist(), accept_len.tolist()):
            if nodes[accepted] != accepted:  # a chain is where it belongs already
                state.cache.compact(row, state.lengths[row], nodes[: accepted + 1])
            state.lengths[row] += accepted + 1

    def _buffer(self, rows: int, columns: int) -> torch.Tensor:
        if self._logits.numel() < rows * columns:
            self._logits = torch.empty(rows * columns, dtype=torch.float32)
        return self._logits[: rows * columns].view(rows, columns)
