"""The compiled CPU runtime as a target: packed weights, one call into C++ per step."""

from __future__ import annotations

import functools
from typing import Sequence

import torch
from transformers import PreTrainedModel

from fastdecode import _C
from fastdecode.speculative.tree import DraftTree
from fastdecode.targets.base import check_model
from fastdecode.targets.packing import element_of, pack_model, refuse_unsupported
from fastdecode.targets.weights import CheckpointWeights, empty, skeleton

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
    weights (bfloat16 for int8 weights, which products meet with 15 bits of every activation); everything else, logits
    included, is float32. The weights are copied: later changes to `model` have no effect.

    Args:
        model: a causal LM of transformers on the CPU whose family the runtime knows (`NATIVE_FAMILIES`).
        weights: "auto" (as in the model), "float32", "bfloat16" or "int8" (one scale per output channel).

    Raises:
        UnsupportedModelError: of another family, or with a setting that the runtime has no code for; says which.
    """

    device = torch.device("cpu")

    def __init__(self, model: PreTrainedModel, weights: str = "auto", *, checkpoint: CheckpointWeights | None = None):
        check_model(model)
        self.element = element_of(model, weights)
        refuse_unsupported(model, "meta" if checkpoint else "cpu")
        self.model = model
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.transformer = pack_model(model, self.element, checkpoint)
        self.max_positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        self._logits = torch.empty(0, dtype=torch.float32)

    @classmethod
    def from_pretrained(cls, name_or_path: str, weights: str = "auto", dtype: str | torch.dtype = "auto") -> "NativeTarget":
        """Packs the weights of a checkpoint straight from its files; `model` is then a shell that only knows its configuration.

        Args:
            name_or_path: a directory, or a repository of the hub.
            weights: as above. dtype: what "auto" stands for; itself "auto" as the checkpoint says.

        Raises:
            UnsupportedModelError: as above, or the checkpoint has no safetensors files with the names of the model.
        """
        model = skeleton(name_or_path, dtype)
        checkpoint = CheckpointWeights(name_or_path)
        try:
            target = cls(model, weights, checkpoint=checkpoint)
        finally:
            checkpoint.close()
        target.release()
        return target

    def release(self) -> None:
        """Frees the weights of `model`, which can then no longer run itself."""
        empty(self.model)
        self.model.forward = _without_weights(self.model.forward)

    @property
    def cache_bytes_per_token(self) -> int:
        """What one token's keys and values take, all layers together."""
        return self.new_state(1, 64).cache.nbytes // 64

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


def _without_weights(forward):
    """In the place of `forward`, with its signature, which `generate` looks at."""

    @functools.wraps(forward)
    def refuse(*args, **kwargs):
        raise RuntimeError("this model is a shell: its weights are packed in the compiled runtime; load it with AutoModelForCausalLM.from_pretrained to run it with transformers")

    return refuse
