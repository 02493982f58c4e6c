"""What the engine asks of a target model: forward passes over token sets and a cache that can be cut back."""

from __future__ import annotations

from typing import Callable, Protocol, Sequence

import torch
from transformers import PreTrainedModel

from fastdecode.speculative.tree import DraftTree


def check_model(model: PreTrainedModel) -> None:
    """What every target asks of a model, whatever its family."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model is {type(model).__name__}, expected a transformers PreTrainedModel; load one with AutoModelForCausalLM.from_pretrained")
    if model.training:
        raise ValueError("model is in training mode (dropout is active); call model.eval() first")


class TargetState(Protocol):
    """The cache of a batch of requests. Row r holds `lengths[r]` committed tokens.

    Attributes:
        taps: layers before which a pass keeps hidden states (see `TargetModel.new_state`).
        hidden: float32 [taps, M, width] on the CPU, those of the last pass, for the M nodes of all trees without padding.
    """

    lengths: list[int]

    def copy_row(self, source: int, row: int) -> None:
        """Row `row` becomes a copy of the committed tokens of row `source`."""


class TargetModel(Protocol):
    """A causal language model that can run a whole draft tree in one pass.

    A target may also have `most_probable(state, rows, tree)`, a numpy array int32 [2, B, N] of the tokens of the two highest logits
    that `forward` returns, when it has a faster way to them. One that serves drafters which read hidden states has `layers`, their number, and takes
    `new_state(rows, capacity, taps)`, layers (ascending, 0 ... layers) before which passes keep hidden states in `state.hidden`,
    and `prefill(state, row, tokens, keep)`, which hands them, [taps, n, width], to `keep` for every part of the prompt.

    Attributes:
        vocab_size: columns of the logits.
        max_positions: the context limit in tokens, or None when there is none.
        device: where logits live.
    """

    vocab_size: int
    max_positions: int | None
    device: torch.device

    def new_state(self, rows: int, capacity: int) -> TargetState:
        """An empty cache for `rows` requests of about `capacity` tokens (it grows when needed)."""

    def prefill(self, state: TargetState, row: int, tokens: Sequence[int]) -> None:
        """Appends committed tokens to one row of the cache."""

    def forward(self, state: TargetState, rows: Sequence[int], tree: DraftTree) -> torch.Tensor:
        """Logits [B, N, V] after every node; K/V of node i go to slot lengths[row] + i and stay uncommitted."""

    def commit(self, state: TargetState, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        """Keeps the K/V of these nodes of each row (the root, 0, and the accepted ones, downwards) and drops the rest."""


def prefill_rows(target: TargetModel, state: TargetState, prompts: Sequence[Sequence[int]], keep: Callable[[int, torch.Tensor], None] | None = None) -> None:
    """Fills the rows of an empty cache; the model runs once per distinct prompt, e.g. for many sequences of one prompt.

    Args:
        keep: takes a row and hidden states of its next tokens.
    """
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(tuple(prompt), []).append(row)
    for prompt, (first, *others) in rows_of.items():
        if keep:
            target.prefill(state, first, prompt, lambda hidden: [keep(row, hidden) for row in (first, *others)])
        else:
            target.prefill(state, first, prompt)
        for row in others:
            state.copy_row(first, row)
