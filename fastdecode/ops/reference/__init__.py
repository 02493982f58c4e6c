"""Readable torch versions of every operation: the oracle that all implementations are tested against, and the fallback."""

from fastdecode.ops.reference.active_set import active_set
from fastdecode.ops.reference.adaptive_block_size import adaptive_block_size
from fastdecode.ops.reference.kv_compact import kv_compact
from fastdecode.ops.reference.kv_write import kv_write
from fastdecode.ops.reference.process_probs import process_probs
from fastdecode.ops.reference.transport import transport_plan, verify_tree_transport
from fastdecode.ops.reference.transport_block import verify_tree_transport_block
from fastdecode.ops.reference.tree_attention import tree_attention
from fastdecode.ops.reference.tree_expand import tree_expand
from fastdecode.ops.reference.unmask_commit import unmask_commit
from fastdecode.ops.reference.verify_chain import verify_block, verify_chain
from fastdecode.ops.reference.verify_states import draft_states, verify_states
from fastdecode.ops.reference.verify_tree_greedy import verify_tree_greedy
from fastdecode.ops.reference.verify_tree_point import verify_tree_point
from fastdecode.ops.reference.verify_tree_recursive import verify_tree_recursive
from fastdecode.ops.reference.vocab_stats import vocab_stats

__all__ = [
    "active_set",
    "adaptive_block_size",
    "draft_states",
    "kv_compact",
    "kv_write",
    "process_probs",
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
