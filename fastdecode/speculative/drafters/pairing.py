"""Checks that draft models speak the target's language."""

from __future__ import annotations

from fastdecode.speculative.drafters import CompositeDrafter, Drafter, ModelDrafter


def pair_with_target(drafter: Drafter | None, vocab_size: int, tokenizer=None, draft_tokenizer=None) -> None:
    """Tells draft models the target's vocabulary size (padding may differ) and compares the tokenizers when both are known.

    Raises:
        ValueError: the tokenizers map different texts to the same ids.
    """
    if isinstance(drafter, CompositeDrafter):
        for member in drafter.drafters:
            pair_with_target(member, vocab_size, tokenizer, draft_tokenizer)
    if not isinstance(drafter, ModelDrafter):
        return
    if tokenizer is not None and draft_tokenizer is not None and tokenizer.get_vocab() != draft_tokenizer.get_vocab():
        theirs, ours = draft_tokenizer.get_vocab(), tokenizer.get_vocab()
        example = next(t for t in set(ours) | set(theirs) if ours.get(t) != theirs.get(t))
        raise ValueError(f"the draft model's tokenizer differs: {example!r} is id {theirs.get(example)} there and {ours.get(example)} here; draft with a model of the same tokenizer, or use drafter='suffix'")
    drafter.vocab_size = vocab_size
