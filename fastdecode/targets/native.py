"""The compiled CPU runtime as a target: packed weights, one call into C++ per step."""

from __future__ import annotations

import functools
from typing import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from fastdecode import _C
from fastdecode.ops import TokenCredit, VocabStats, _check
from fastdecode.ops.vocab_stats import arguments, check_rows
from fastdecode.speculative.tree import DraftTree
from fastdecode.targets.active import ActiveRow
from fastdecode.targets.base import check_model
from fastdecode.targets.layouts import layout_of
from fastdecode.targets.packing import element_of, pack_model, refuse_unsupported
from fastdecode.targets.weights import CheckpointWeights, empty, skeleton

PREFILL_CHUNK = 256  # bounds the workspace of a long prompt


class NativeState:
    """The cache of a batch of requests. Row r holds `lengths[r]` committed tokens; for `taps` and `hidden` see `TargetState`."""

    def __init__(self, cache: "_C.KvCache", rows: int, taps: Sequence[int] = ()):
        self.cache = cache
        self.lengths = [0] * rows
        self.taps, self.hidden = list(taps), torch.empty(0)

    def tapped(self, tokens: int, width: int) -> dict:
        """Arguments of a pass over so many tokens that leaves hidden states behind, if any are wanted."""
        if not self.taps:
            return {}
        self.hidden = torch.empty(len(self.taps), tokens, width)
        return {"taps": self.taps, "tapped": self.hidden.data_ptr()}

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
    bidirectional = False  # whether the model is meant to see later tokens too, and cannot decode one token after the other

    def __init__(self, model: PreTrainedModel, weights: str = "auto", *, checkpoint: CheckpointWeights | None = None):
        check_model(model)
        self.element = element_of(model, weights)
        refuse_unsupported(model, "meta" if checkpoint else "cpu")
        self.model = model
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.width = model.config.hidden_size
        self.transformer = pack_model(model, self.element, checkpoint)
        self.max_positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        self._logits = torch.empty(0, dtype=torch.float32)

    @classmethod
    def from_model(cls, model: PreTrainedModel, weights: str = "auto", *, release: bool = False) -> "NativeTarget":
        """Packs the weights of a model. `release` frees those of the model itself, which can then no longer run."""
        target = cls(model, weights)
        if release:
            target.release()
        return target

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
        layout, _ = layout_of(name_or_path)
        checkpoint = CheckpointWeights(name_or_path, layout, model.config)
        try:
            target = cls(model, weights, checkpoint=checkpoint)
        finally:
            checkpoint.close()
        target.bidirectional = layout is not None
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

    @property
    def layers(self) -> int:
        return self.model.config.get_text_config(decoder=True).num_hidden_layers

    def new_state(self, rows: int, capacity: int, taps: Sequence[int] = ()) -> NativeState:
        return NativeState(self.transformer.new_cache(rows, capacity), rows, taps)

    def prefill(self, state: NativeState, row: int, tokens: Sequence[int], keep: Callable[[torch.Tensor], None] | None = None) -> None:
        for start in range(0, len(tokens), PREFILL_CHUNK):
            chunk = list(tokens[start : start + PREFILL_CHUNK])
            added = _C.TokenSet()
            added.add_chain(row, state.lengths[row], chunk)
            self.transformer.forward(state.cache, added, **(state.tapped(len(chunk), self.width) if keep else {}))
            state.lengths[row] += len(chunk)
            if keep:
                keep(state.hidden)

    def forward(self, state: NativeState, rows: Sequence[int], tree: DraftTree, entered: tuple[int, torch.Tensor] | None = None) -> torch.Tensor:
        """Logits [B, N, V] after every node (of padding nodes: 0); they are overwritten by the next call.

        Args:
            entered: a layer to begin with, and hidden states [M, width] before it, where the layers below have run already (`early`).
        """
        nodes = _tokens_of(state, rows, tree)
        columns = (self.vocab_size + 15) // 16 * 16
        packed = self._buffer(len(nodes), columns)
        self.transformer.forward(state.cache, nodes, logits=packed.data_ptr(), ld=columns, **state.tapped(len(nodes), self.width), **_entry(entered))
        return tree.padded(packed, 0)[..., : self.vocab_size]

    def forward_stats(self, state: NativeState, rows: Sequence[int], tree: DraftTree, *, ids: torch.Tensor | None = None, banned: torch.Tensor | None = None, temperature: torch.Tensor | None = None, key: torch.Tensor | None = None, entered: tuple[int, torch.Tensor] | None = None) -> VocabStats:  # fmt: skip
        """What `ops.vocab_stats` finds in the logits of the nodes, which are never stored.

        Rows of results and of arguments are the nodes of the trees, one tree after the other, without padding. Ids and their
        logits are bit for bit those of `forward` and `ops.vocab_stats`; sums are added up in another order, the same for
        every tree, batch and number of threads.

        Args:
            ids, banned, temperature, key: as for `ops.vocab_stats`. entered: as for `forward`.
        """
        nodes = _tokens_of(state, rows, tree)
        check_rows(len(nodes), self.device, ids, banned, temperature, key)
        stats = VocabStats.empty(len(nodes), 0 if ids is None else ids.shape[1])
        self.transformer.forward_stats(state.cache, nodes, *arguments(ids, banned, temperature, key, stats), **state.tapped(len(nodes), self.width), **_entry(entered))
        return stats

    def early(self, state: NativeState, rows: Sequence[int], texts: Sequence[Sequence[int]], offsets: Sequence[int], layer: int, head: bool = True, taps: Sequence[int] = ()) -> tuple[torch.Tensor, VocabStats | None]:
        """Runs the layers below `layer` over uncommitted tokens, whose keys and values stay where a later pass expects them.

        Args:
            texts: tokens of every row. offsets: how many uncommitted ones stand before them.
            head: whether the final norm and the head are applied behind these layers.
            taps: lower layers before which hidden states are wanted, too.

        Returns:
            Hidden states [taps + 1, M, width] before these layers and `layer`, and statistics of the logits after the last token of every row.
        """
        tokens, last = _C.TokenSet(), []
        for row, text, offset in zip(rows, texts, offsets):
            tokens.add_chain(row, state.lengths[row] + offset, list(text))
            last.append(len(tokens) - 1)
        hidden = torch.empty(len(taps) + 1, len(tokens), self.width)
        part = {"end": layer, "taps": [*taps, layer], "tapped": hidden.data_ptr()}
        if not head:
            self.transformer.forward(state.cache, tokens, **part)
            return hidden, None
        tokens.want(np.asarray(last, np.int32))
        stats = VocabStats.empty(len(last))
        self.transformer.forward_stats(state.cache, tokens, *arguments(None, None, None, None, stats), **part)
        return hidden, stats

    def exit_stats(self, hidden: torch.Tensor) -> VocabStats:
        """Statistics of the logits that the final norm and the head make of hidden states [M, width], wherever these come from."""
        tokens, count = _C.TokenSet(), len(hidden)
        tokens.add_chain(0, 0, [0] * count)
        tokens.want(np.arange(count, dtype=np.int32))
        stats, hidden = VocabStats.empty(count), hidden.contiguous()
        self.transformer.forward_stats(self.transformer.new_cache(1, 16), tokens, *arguments(None, None, None, None, stats), begin=self.layers, hidden=hidden.data_ptr())
        return stats

    def most_probable(self, state: NativeState, rows: Sequence[int], tree: DraftTree, entered: tuple[int, torch.Tensor] | None = None) -> np.ndarray:
        """int32 [2, B, N]: the tokens of the two highest logits after every node (ties: lowest id; NaN: -1)."""
        nodes = tree.arrays
        found, hidden = self.transformer.most_probable(state.cache, rows, [state.lengths[r] for r in rows], nodes["tokens"], nodes["parents"], nodes["num_nodes"], taps=state.taps, **_entry(entered))
        if state.taps:
            state.hidden = torch.from_numpy(hidden)
        return found

    def forward_layers(self, state: NativeState, rows: Sequence[int], tree: DraftTree, begin: int = 0, end: int | None = None, *, hidden: torch.Tensor | None = None, taps: Sequence[int] = (), logits: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """Runs the layers begin ... end - 1 over the nodes; keys and values of these layers go to the slots of the nodes.

        Hidden states "before layer i" are the output of i layers; those before the layer behind the last are what the final
        norm takes. Running the layers in parts gives the same bits as running them at once.

        Args:
            end: number of layers by default.
            hidden: float32 [M, width], before layer `begin`, for the M nodes of all trees, one tree after the other, without
                padding; the embeddings by default, and only with begin = 0.
            taps: layers (ascending, begin ... end) before which hidden states are wanted.
            logits: whether the final norm and the head are applied after layer `end`, be it the last one or an early exit.

        Returns:
            Hidden states float32 [taps, M, width], and logits [B, N, V] as `forward` has them or None.

        Raises:
            ValueError: the layers are not in the model or not in order, or `hidden` has another shape.
        """
        nodes = _tokens_of(state, rows, tree)
        if hidden is not None:
            _check.tensor("hidden", hidden, torch.float32, (len(nodes), self.width), self.device)
        tapped = torch.empty(len(taps), len(nodes), self.width)
        columns = (self.vocab_size + 15) // 16 * 16
        packed = self._buffer(len(nodes), columns) if logits else None
        self.transformer.forward(
            state.cache, nodes, begin=begin, end=-1 if end is None else end, hidden=0 if hidden is None else hidden.data_ptr(), taps=list(taps), tapped=tapped.data_ptr(),
            logits=0 if packed is None else packed.data_ptr(), ld=columns,
        )  # fmt: skip
        return tapped, None if packed is None else tree.padded(packed, 0)[..., : self.vocab_size]

    def new_slots(self, rows: int, length: int) -> "_C.KvCache":
        return self.transformer.new_cache(rows, length)

    def copy_slots(self, slots: "_C.KvCache", source: int, row: int, length: int) -> None:
        slots.copy_row(source, row, length)

    def forward_active(self, slots: "_C.KvCache", active: Sequence[ActiveRow], *, guidance: float = 0.0, ids: torch.Tensor | None = None, banned: torch.Tensor | None = None, temperature: torch.Tensor | None = None, key: torch.Tensor | None = None, credit: TokenCredit | None = None) -> VocabStats:  # fmt: skip
        """A step of masked diffusion, see `DiffusionTarget`; what a position yields does not depend on what else is in the pass."""
        tokens, rows = _tokens_at(active, guidance)
        check_rows(rows, self.device, ids, banned, temperature, key, credit)
        stats = VocabStats.empty(rows, 0 if ids is None else ids.shape[1])
        self.transformer.forward_stats(slots, tokens, *arguments(ids, banned, temperature, key, stats, credit), guidance=guidance)
        return stats

    def logits_active(self, slots: "_C.KvCache", active: Sequence[ActiveRow], guidance: float = 0.0) -> torch.Tensor:
        tokens, rows = _tokens_at(active, guidance)
        packed = self._buffer(rows, (self.vocab_size + 15) // 16 * 16)
        self.transformer.forward(slots, tokens, logits=packed.data_ptr(), ld=packed.shape[1], guidance=guidance)
        return packed[:, : self.vocab_size]

    def commit(self, state: NativeState, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        for row, path in zip(rows, paths):
            if path[-1] >= len(path):  # else a chain, which is where it belongs already
                state.cache.compact(row, state.lengths[row], path)
            state.lengths[row] += len(path)

    def _buffer(self, rows: int, columns: int) -> torch.Tensor:
        if self._logits.numel() < rows * columns:
            self._logits = torch.empty(rows * columns, dtype=torch.float32)
        return self._logits[: rows * columns].view(rows, columns)


def _tokens_of(state: NativeState, rows: Sequence[int], tree: DraftTree) -> "_C.TokenSet":
    """The nodes of the trees behind the committed tokens of the rows."""
    nodes = _C.TokenSet()
    nodes.add_trees(rows, [state.lengths[r] for r in rows], *(tree.arrays[name] for name in ("tokens", "parents", "num_nodes")))
    return nodes


def _tokens_at(active: Sequence[ActiveRow], guidance: float) -> tuple["_C.TokenSet", int]:
    """The positions of the rows, and how many outputs they want."""
    tokens, wanted = _C.TokenSet(), []
    for part in active:
        wanted.append(part.wanted + len(tokens))
        tokens.add_positions(part.row, part.tokens, part.positions, part.ends)
    tokens.want(np.concatenate(wanted))
    return tokens, sum(map(len, wanted)) // (2 if guidance else 1)


def _entry(entered: tuple[int, torch.Tensor] | None) -> dict:
    return {"begin": entered[0], "hidden": entered[1].data_ptr()} if entered else {}


def _without_weights(forward):
    """In the place of `forward`, with its signature, which `generate` looks at."""

    @functools.wraps(forward)
    def refuse(*args, **kwargs):
        raise RuntimeError("this model is a shell: its weights are packed in the compiled runtime; load it with AutoModelForCausalLM.from_pretrained to run it with transformers")

    return refuse
