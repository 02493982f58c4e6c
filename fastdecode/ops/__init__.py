"""Operations on tensors: checks, outputs and the choice of an implementation; the work is done in csrc."""

from fastdecode.ops._dispatch import implementation
from fastdecode.ops.process_probs import process_probs
from fastdecode.ops.tree_attention import tree_attention
from fastdecode.ops.verify_tree_greedy import TreePath, verify_tree_greedy
from fastdecode.ops.vocab_stats import VocabStats, vocab_stats

__all__ = ["TreePath", "VocabStats", "implementation", "process_probs", "tree_attention", "verify_tree_greedy", "vocab_stats"]
