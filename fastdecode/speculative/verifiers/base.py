"""What a verifier is: it decides how far the target agrees with a draft tree, and what comes next."""

from __future__ import annotations

from typing import Protocol, Sequence

import torch

from fastdecode.ops import TreePath
from fastdecode.speculative.processors import tree_probs
from fastdecode.speculative.request import Request
from fastdecode.speculative.tree import DraftTree

TARGET = 0  # purpose word of the random key of the target's own tokens, see csrc/include/fastdecode/philox.cuh


class Verifier(Protocol):
    """A rule for accepting draft tokens.

    Attributes:
        name: what statistics call it.
        lossless: whether the emitted tokens have exactly the target's law.
    """

    name: str
    lossless: bool

    def verify(self, tree: DraftTree, logits: torch.Tensor, requests: Sequence[Request], round_number: int) -> TreePath:
        """Kept path and next token of every row. `logits` [B, N, V] may be overwritten."""


def probs_of(tree: DraftTree, logits: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
    """The law float32 [B, N, V] that each request takes its tokens from, per node."""
    return tree_probs(logits, tree, [r.processors for r in requests], [r.prompt for r in requests], [r.tokens for r in requests])


def position_keys(requests: Sequence[Request], device: torch.device) -> torch.Tensor:
    """int64 [B, 4]: keyed by output position alone, so that tokens do not depend on rounds or trees."""
    return torch.tensor([[*r.key, len(r.tokens), TARGET] for r in requests], device=device)


def round_keys(requests: Sequence[Request], round_number: int, device: torch.device) -> torch.Tensor:
    """int64 [B, 4] for rules that spend random numbers on drafts: fresh in every round."""
    return torch.tensor([[*r.key, round_number << 32, TARGET] for r in requests], device=device)
