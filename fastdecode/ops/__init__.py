"""Operations on tensors: checks, outputs and the choice of an implementation; the work is done in csrc."""

from fastdecode.ops._dispatch import implementation
from fastdecode.ops.verify_tree_greedy import TreePath, verify_tree_greedy

__all__ = ["TreePath", "implementation", "verify_tree_greedy"]
