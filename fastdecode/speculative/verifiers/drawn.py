"""Verification of drafts that were drawn at random from a draft law."""

from __future__ import annotations

from typing import Callable, Sequence

import torch

from fastdecode import ops
from fastdecode.ops import TreePath
from fastdecode.speculative.request import Request
from fastdecode.speculative.drafters.drawn_tree import as_independent, random_numbers
from fastdecode.speculative.tree import DraftTree, Draws
from fastdecode.speculative.verifiers.base import probs_of, round_keys

STREAM = 4  # purpose word of the random numbers that turn draws without replacement into independent ones, see philox.cuh


def is_drawn_chain(tree: DraftTree) -> bool:
    """Whether every row is one path on which each node's only draw is its child."""
    chain = bool(((tree.first_child < 0) | (tree.first_child == torch.arange(1, tree.shape[1] + 1))).all() and (tree.next_sibling < 0).all())
    return chain and all(len(draws.tokens) == 1 for row in tree.draws for draws in row.values())


def draft_laws(tree: DraftTree, vocab: int, device: torch.device) -> torch.Tensor:
    """float32 [B, N, V], row i = the law that the children of node i were drawn from; anything where nothing was drawn."""
    laws = torch.empty(*tree.shape, vocab)
    rows = laws.numpy()  # plain copies: a team of threads would cost more than a row does
    for b, row in enumerate(tree.draws):
        for node, draws in row.items():
            rows[b, node] = draws.law.cpu().numpy()
    return laws.to(device)


def _require_drawn(name: str, tree: DraftTree) -> None:
    for b, row in enumerate(tree.draws):
        undrawn = [i for i in range(int(tree.num_nodes[b])) if tree.first_child[b, i] >= 0 and i not in row]
        if undrawn:
            raise ValueError(f"verifier={name!r} needs drafts that were drawn from a law, but node {undrawn[0]} has deterministic children; use verifier='auto' or 'point'")


class ChainVerifier:
    """Speculative sampling token by token (arXiv:2211.17192)."""

    name, lossless = "chain", True
    _operation = staticmethod(ops.verify_chain)

    def verify(self, tree: DraftTree, logits: torch.Tensor, requests: Sequence[Request], round_number: int) -> TreePath:
        _require_drawn(self.name, tree)
        if not is_drawn_chain(tree):
            raise ValueError(f"verifier={self.name!r} works on chains only; use verifier='auto' or 'recursive' for trees")
        probs = probs_of(tree, logits, requests)
        laws = draft_laws(tree, probs.shape[2], probs.device)[:, :-1].contiguous()
        keys = round_keys(requests, round_number, probs.device)
        verdict = self._operation(tree.tokens[:, 1:].contiguous(), laws, probs, tree.num_nodes - 1, keys)
        steps = torch.arange(tree.shape[1], dtype=torch.int32, device=probs.device)
        path = torch.where(steps <= verdict.accept_len[:, None], steps, -1)
        return TreePath(path, verdict.accept_len, verdict.next_token)


class BlockVerifier(ChainVerifier):
    """Joint verification of a chain (arXiv:2403.10444): never accepts fewer tokens on average than token by token."""

    name = "block"
    _operation = staticmethod(ops.verify_block)


class RecursiveVerifier:
    """Recursive rejection over the draws of each node, in draw order (SpecInfer, arXiv:2305.09781).

    Args:
        replacement: whether the drafter draws independently (True) or without replacement (False).
    """

    lossless = True

    def __init__(self, replacement: bool = True):
        self.replacement = replacement
        self.name = "recursive" if replacement else "recursive_without_replacement"

    def verify(self, tree: DraftTree, logits: torch.Tensor, requests: Sequence[Request], round_number: int) -> TreePath:
        _require_drawn(self.name, tree)
        if any(len(d.tokens) > 1 and d.replacement != self.replacement for row in tree.draws for d in row.values()):
            raise ValueError(f"verifier={self.name!r} is for draws {'with' if self.replacement else 'without'} replacement, the drafter made the others; use verifier='auto'")
        probs = probs_of(tree, logits, requests)
        laws = draft_laws(tree, probs.shape[2], probs.device)
        offsets, tokens = _flat_draws(tree)
        keys = round_keys(requests, round_number, probs.device)
        return ops.verify_tree_recursive(
            tree.tokens, tree.first_child, tree.next_sibling, probs, laws, keys, self.replacement, offsets.to(probs.device), tokens.to(probs.device)
        )


class TransportVerifier:
    """Keeps one of the draws of each node with the highest chance that an exact rule can have (optimal transport)."""

    name, lossless = "transport", True
    _operation = staticmethod(ops.verify_tree_transport)

    def verify(self, tree: DraftTree, logits: torch.Tensor, requests: Sequence[Request], round_number: int) -> TreePath:
        probs = probs_of(tree, logits, requests)
        laws = draft_laws(tree, probs.shape[2], probs.device)
        offsets, tokens = _flat_draws(tree, lambda b, node, draws: as_independent(draws, random_numbers((*requests[b].key, round_number << 32 | node, STREAM))))
        keys = round_keys(requests, round_number, probs.device)
        return self._operation(tree.tokens, tree.first_child, tree.next_sibling, probs, laws, keys, offsets.to(probs.device), tokens.to(probs.device))


class TransportBlockVerifier(TransportVerifier):
    """The same over whole trees: a node is kept or not together with everything below it, so that more tokens are kept."""

    name = "transport_block"
    _operation = staticmethod(ops.verify_tree_transport_block)


def _flat_draws(tree: DraftTree, independent: Callable[[int, int, Draws], list[int]] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [B, N + 1] offsets and int32 [T] drawn ids of all nodes; `independent` replaces draws without replacement."""
    flat: list[int] = []
    offsets = []
    for b, row in enumerate(tree.draws):
        starts = [len(flat)]
        for node in range(tree.shape[1]):
            draws = row.get(node)
            if draws:
                flat += draws.tokens if draws.replacement or not independent else independent(b, node, draws)
            starts.append(len(flat))
        offsets.append(starts)
    return torch.tensor(offsets, dtype=torch.int32), torch.tensor(flat, dtype=torch.int32)
