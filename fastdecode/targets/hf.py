"""Any causal language model of transformers as a target: its own modules, our cache and our tree attention."""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from fastdecode import ops
from fastdecode.errors import InvalidLogitsError, UnsupportedModelError
from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.attention import Step, attention_configs, running
from fastdecode.targets.base import check_model
from fastdecode.targets.slots import KVSlots, cache_keyword
from fastdecode.targets.taps import tapped

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
TESTED_FAMILIES = {  # of models whose attention goes through the interface of transformers; others are checked at load
    "Llama (SmolLM2, Llama 3)": "random configurations and SmolLM2-135M-Instruct",
    "Mistral": "random configurations, sliding window included",
    "Qwen2, Qwen2.5": "random configurations",
    "Qwen3": "random configurations",
    "Gemma 3 (text)": "random configurations, sliding and full layers",
    "SmolLM3": "random configurations",
    "GPT-2": "random configurations",
}
PREFILL_CHUNK = 512  # bounds the mask and the logits of a long prompt


class HFTarget:
    """Runs draft trees through a transformers model.

    Args:
        model: a causal LM on CPU or GPU, in eval mode. It is left as it was: its attention setting is switched only
            while a forward pass of the engine runs.
        check: compare a small tree with plain forward passes once, so that a model whose attention works differently is
            refused instead of decoded wrongly.

    Raises:
        TypeError: not a transformers model.
        UnsupportedModelError: the model has state that cannot be rolled back, or fails the check.
    """

    def __init__(self, model: PreTrainedModel, check: bool = True):
        check_model(model)
        self.model = model
        self.config: PretrainedConfig = model.config.get_text_config(decoder=True)
        _refuse_unsupported(model, self.config)
        self._configs = attention_configs(model)
        self._cache_keyword = cache_keyword(model)
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.max_positions = getattr(self.config, "max_position_embeddings", None)
        if check:
            _check_tree_forward(self)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    def new_state(self, rows: int, capacity: int, taps: Sequence[int] = ()) -> KVSlots:
        return KVSlots(self.layers, rows, capacity, taps)

    @torch.inference_mode()
    def prefill(self, state: KVSlots, row: int, tokens: Sequence[int], keep: Callable[[torch.Tensor], None] | None = None) -> None:
        for start in range(0, len(tokens), PREFILL_CHUNK):
            chunk = list(tokens[start : start + PREFILL_CHUNK])
            ids = torch.tensor([chunk], device=self.device)
            positions = torch.arange(len(chunk), device=self.device)[None] + state.lengths[row]
            self._run(state, [row], None, ids, positions, logits_to_keep=1)
            state.lengths[row] += len(chunk)
            if keep:
                keep(state.hidden)

    @torch.inference_mode()
    def forward(self, state: KVSlots, rows: Sequence[int], tree: DraftTree) -> torch.Tensor:
        lengths = torch.tensor([[state.lengths[r]] for r in rows])
        return self._run(state, rows, tree, tree.tokens.long(), lengths + tree.depth).logits

    @torch.inference_mode()
    def commit(self, state: KVSlots, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        if any(path[-1] >= len(path) for path in paths):  # else chains, which are where they belong already
            longest = max(map(len, paths))
            table = [[*path, *[-1] * (longest - len(path))] for path in paths]
            arguments = (list(rows), table, [len(path) - 1 for path in paths], [state.lengths[r] for r in rows])
            ops.kv_compact(state.buffers(), *(torch.tensor(a, dtype=torch.int32, device=self.device) for a in arguments))
        for row, path in zip(rows, paths):
            state.lengths[row] += len(path)

    def _run(self, state: KVSlots, rows: Sequence[int], tree: DraftTree | None, ids: torch.Tensor, positions: torch.Tensor, **kwargs):
        lengths = torch.tensor([state.lengths[r] for r in rows], dtype=torch.int32)
        state.begin_step(rows, ids.shape[1], self.device)
        row_ids = torch.tensor(list(rows), dtype=torch.int32)
        step = Step(row_ids.to(self.device), lengths.to(self.device), tree.to(self.device) if tree else None, {})
        with running(self._configs, step), tapped(self.model, state.taps) as hidden:
            output = self.model(input_ids=ids.to(self.device), position_ids=positions.to(self.device), use_cache=True, **{self._cache_keyword: state}, **kwargs)
        if state.taps:
            nodes = torch.arange(ids.shape[1]) < tree.num_nodes[:, None].cpu() if tree else torch.ones(ids.shape, dtype=torch.bool)
            state.hidden = torch.stack([hidden[tap] for tap in state.taps])[:, nodes].float().cpu()
        return output


def _refuse_unsupported(model: PreTrainedModel, config: PretrainedConfig) -> None:
    name = type(model).__name__
    if config.is_encoder_decoder or model.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{name} is not a decoder-only language model with an LM head; load it with AutoModelForCausalLM")
    layers = set(getattr(config, "layer_types", None) or [])
    if model._is_stateful or layers - SUPPORTED_LAYERS:
        what = ", ".join(sorted(layers - SUPPORTED_LAYERS)) or "recurrent state"
        raise UnsupportedModelError(f"{name} has layers that cannot be rolled back after a rejected draft ({what}); use model.generate for this model")
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedModelError(f"{name} does not use the attention interface of transformers, so draft trees cannot be masked; use model.generate for this model")


@torch.inference_mode()
def _check_tree_forward(target: HFTarget) -> None:
    """A two-branch tree behind a short prefix must give the logits of plain forward passes over each branch."""
    vocab = min(target.vocab_size, 1000)
    prefix, root = [t % vocab for t in (11, 23, 5, 17, 42)], 31 % vocab
    a, b, c = (t % vocab for t in (7, 13, 29))
    state = target.new_state(1, 16)
    target.prefill(state, 0, prefix)
    draft = Draft(np.array([a, b, c], np.int32), np.array([-1, -1, 1], np.int32), np.ones(3, np.float32))
    tree = DraftTree.build([root], [draft])
    got = target.forward(state, [0], tree)[0].float()  # [4, V]
    for nodes, path in (([0, 1], [a]), ([0, 2, 3], [b, c])):
        ids = torch.tensor([prefix + [root] + path], device=target.device)
        want = target.model(input_ids=ids, use_cache=False).logits[0, -len(nodes) :].float()
        error = (got[nodes] - want).abs().max().item()
        spread = want.std().item() + 1e-6
        if torch.isnan(want).any():
            raise InvalidLogitsError("the model returns NaN logits for a plain forward pass; check its weights and dtype")
        if not error <= (0.01 if target.model.dtype == torch.float32 else 0.25) * spread:
            raise UnsupportedModelError(f"{type(target.model).__name__}: logits of a draft tree differ from a plain forward pass by {error:.3g} (their spread is {spread:.3g}); its attention or positions work in a way that the engine does not support. Use model.generate")

