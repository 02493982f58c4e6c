"""Readable torch versions of every operation: the oracle that all implementations are tested against, and the fallback."""

from fastdecode.ops.reference.process_probs import process_probs
from fastdecode.ops.reference.tree_attention import tree_attention
from fastdecode.ops.reference.verify_tree_greedy import verify_tree_greedy
from fastdecode.ops.reference.vocab_stats import vocab_stats

__all__ = ["process_probs", "tree_attention", "verify_tree_greedy", "vocab_stats"]
