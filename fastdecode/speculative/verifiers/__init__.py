"""Verifiers by name. "auto" looks at how the drafts of a round were made and takes the rule that fits."""

from __future__ import annotations

from typing import Sequence

from fastdecode.speculative.request import Request
from fastdecode.speculative.tree import DraftTree
from fastdecode.speculative.verifiers.base import Verifier
from fastdecode.speculative.verifiers.deterministic import GreedyVerifier, PointVerifier
from fastdecode.speculative.verifiers.drawn import BlockVerifier, ChainVerifier, RecursiveVerifier, TransportBlockVerifier, TransportVerifier, is_drawn_chain

VERIFIERS: dict[str, Verifier] = {
    v.name: v for v in (GreedyVerifier(), PointVerifier(), ChainVerifier(), BlockVerifier(), RecursiveVerifier(True), RecursiveVerifier(False), TransportVerifier(), TransportBlockVerifier())
}

__all__ = ["VERIFIERS", "Verifier", "choose_verifier", "make_verifier"]


def make_verifier(verifier: str | Verifier) -> Verifier | None:
    """A verifier by name, or the object itself; None stands for "auto"."""
    if isinstance(verifier, str):
        if verifier != "auto" and verifier not in VERIFIERS:
            raise ValueError(f"verifier={verifier!r} is unknown: use auto, {', '.join(VERIFIERS)}")
        return VERIFIERS.get(verifier)
    if not callable(getattr(verifier, "verify", None)):
        raise TypeError(f"verifier is {type(verifier).__name__}, expected a name or an object with verify(tree, logits, requests, round_number)")
    return verifier


def choose_verifier(forced: Verifier | None, tree: DraftTree, requests: Sequence[Request]) -> Verifier:
    """The rule for this round.

    Raises:
        ValueError: the forced verifier does not fit the way tokens are chosen.
    """
    sample = requests[0].processors.sample
    if not sample:
        return VERIFIERS["greedy"]
    if forced is not None:
        if forced.name == "greedy":
            raise ValueError("verifier='greedy' with do_sample=True would change the law of the text; use verifier='auto'")
        return forced
    if not tree.drawn:
        return VERIFIERS["point"]
    if is_drawn_chain(tree):
        return VERIFIERS["block"]
    return VERIFIERS["transport_block"]
