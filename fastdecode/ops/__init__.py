"""Operations on tensors: checks, outputs and the choice of an implementation; the work is done in csrc."""

from fastdecode.ops._dispatch import implementation
from fastdecode.ops.active_set import active_set
from fastdecode.ops.adaptive_block_size import adaptive_block_size
from fastdecode.ops.kv_compact import kv_compact
from fastdecode.ops.kv_write import kv_write
from fastdecode.ops.process_probs import process_probs
from fastdecode.ops.transport import TransportPlan, transport_alpha, transport_plan, verify_tree_transport, verify_tree_transport_block
from fastdecode.ops.tree_attention import tree_attention
from fastdecode.ops.tree_expand import tree_expand
from fastdecode.ops.unmask_commit import Commits, unmask_commit
from fastdecode.ops.verify_chain import ChainVerdict, verify_block, verify_chain
from fastdecode.ops.verify_states import DraftStates, draft_states, verify_states
from fastdecode.ops.verify_tree_greedy import TreePath, verify_tree_greedy
from fastdecode.ops.verify_tree_point import verify_tree_point
from fastdecode.ops.verify_tree_recursive import verify_tree_recursive
from fastdecode.ops.vocab_stats import TokenCredit, VocabStats, vocab_stats

UNCOMPILED = ("transport_alpha",)  # a diagnostic in double precision

__all__ = [
    "ChainVerdict",
    "Commits",
    "DraftStates",
    "TokenCredit",
    "TransportPlan",
    "TreePath",
    "VocabStats",
    "active_set",
    "adaptive_block_size",
    "draft_states",
    "implementation",
    "kv_compact",
    "kv_write",
    "process_probs",
    "transport_alpha",
    "transport_plan",
    "tree_attention",
    "tree_expand",
    "unmask_commit",
    "verify_block",
    "verify_chain",
    "verify_states",
    "verify_tree_greedy",
    "verify_tree_point",
    "verify_tree_recursive",
    "verify_tree_transport",
    "verify_tree_transport_block",
    "vocab_stats",
]
