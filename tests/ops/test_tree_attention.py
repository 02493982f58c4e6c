from typing import NamedTuple

import pytest
import torch

from fastdecode import _C, ops
from fastdecode.ops import reference
from tests.trees import random_trees

# Against float32 softmax in the reference: a few roundings of float32, or half a unit of a bfloat16 result near 1.
CLOSE = {torch.float32: dict(rtol=1e-4, atol=2e-5), torch.bfloat16: dict(rtol=1.6e-2, atol=8e-3)}


class Case(NamedTuple):
    query: torch.Tensor  # [b, H, N, D]
    key: torch.Tensor  # [B, Hkv, S, D]
    value: torch.Tensor
    rows: torch.Tensor  # int32 [b]
    lengths: torch.Tensor  # int32 [b]
    ancestors: torch.Tensor  # int64 [b, N, W]
    depth: torch.Tensor  # int32 [b, N]
    scaling: float

    def run(self, device, **extra):
        moved = [t.to(device) for t in self[:7]]
        names = ("rows", "lengths", "ancestors", "depth")
        return ops.tree_attention(*moved[:3], **dict(zip(names, moved[3:])), scaling=self.scaling, **extra).cpu()

    def reference(self, window=0):
        return reference.tree_attention(*self, window)


def ancestry(parents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """ancestors int64 [b, N, W] and depth int32 [b, N] of topological parents [b, N]."""
    batch, nodes = parents.shape
    ancestors, depth = torch.zeros(batch, nodes, (nodes + 63) // 64, dtype=torch.int64), torch.zeros(batch, nodes, dtype=torch.int32)
    for b in range(batch):
        for i, parent in enumerate(parents[b].tolist()):
            if parent >= 0:
                ancestors[b, i], depth[b, i] = ancestors[b, parent], depth[b, parent] + 1
            ancestors[b, i, i // 64] |= 1 << i % 64 if i % 64 < 63 else -(1 << 63)
    return ancestors, depth


def case(batch, nodes, lengths, heads, kv_heads, dim, dtype=torch.float32, parents=None):
    generator = torch.Generator().manual_seed(nodes * 1000 + dim)
    randn = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)
    slots = max(lengths) + nodes + 3
    # strides as in a fused projection and in a cache with room: only the last dimension is contiguous
    query = randn(batch, nodes, heads + 1, dim).transpose(1, 2)[:, 1:]
    key, value = randn(batch + 2, slots, kv_heads, dim).transpose(1, 2), randn(batch + 2, kv_heads, slots, dim)
    if parents is None:
        parents = random_trees(batch, nodes, vocab=3, seed=nodes).parents
    rows = torch.arange(batch + 1, 1, -1, dtype=torch.int32)
    return Case(query, key, value, rows, torch.tensor(lengths, dtype=torch.int32), *ancestry(parents), dim**-0.5)


def chain(batch, nodes):
    return torch.arange(-1, nodes - 1, dtype=torch.int32).expand(batch, nodes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "nodes, lengths, heads, kv_heads, dim",
    [(1, [0], 1, 1, 64), (1, [64], 4, 2, 64), (7, [0, 130], 6, 2, 80), (32, [63, 64, 65], 8, 2, 128), (33, [200], 3, 3, 72), (130, [61], 4, 1, 256), (5, [10], 32, 2, 64)],
)
@pytest.mark.parametrize("window", [0, 1, 50])
def test_equals_reference(impl, device, nodes, lengths, heads, kv_heads, dim, dtype, window):
    lengths = lengths[-2:] if impl == "cuda-sim" else lengths  # two rows differ as three do
    c = case(len(lengths), nodes, lengths, heads, kv_heads, dim, dtype)
    torch.testing.assert_close(c.run(device, window=window), c.reference(window), **CLOSE[dtype])


@pytest.mark.parametrize("window", [0, 100])
def test_wide_causal_chunk(impl, device, window):
    c = case(1, 300, [77], 2, 1, 64, parents=chain(1, 300))
    torch.testing.assert_close(c.run(device, window=window), c.reference(window), **CLOSE[torch.float32])


def test_other_dtypes_and_sizes_use_the_reference(impl, device):
    for dtype, dim in ((torch.float16, 64), (torch.float32, 20), (torch.float64, 64)):
        c = case(1, 5, [9], 2, 1, dim, dtype)
        assert torch.equal(c.run("cpu"), c.reference())


def test_no_rows_and_no_nodes(impl, device):
    assert case(1, 4, [9], 2, 1, 64)._replace(rows=torch.tensor([0], dtype=torch.int32)).run(device).shape == (1, 4, 2, 64)
    c = case(1, 1, [9], 2, 1, 64)
    empty = c._replace(query=c.query[:0], rows=c.rows[:0], lengths=c.lengths[:0], ancestors=c.ancestors[:0], depth=c.depth[:0])
    assert empty.run(device).shape == (0, 1, 2, 64)


def path_to(ancestors: torch.Tensor, node: int) -> list[int]:
    return [i for i in range(node + 1) if int(ancestors[i // 64]) >> i % 64 & 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prefix, nodes, window, dim", [(0, 20, 0, 64), (61, 40, 0, 64), (127, 90, 0, 72), (200, 40, 70, 128), (30, 90, 3, 64)])
def test_node_equals_chain_of_one(impl, device, dtype, prefix, nodes, window, dim):
    """Bit for bit: a node in a tree against the same token decoded alone with its ancestors in the prefix."""
    if impl in ("reference", "cuda"):
        pytest.skip("promised by the compiled CPU kernels")
    parents = random_trees(1, nodes, vocab=2, seed=prefix).parents
    parents[0, nodes // 2 + 1 :] = torch.arange(nodes // 2, nodes - 1)  # a long tail crosses a block boundary
    c = case(1, nodes, [prefix], 6, 2, dim, dtype, parents)
    tree = c.run(device, window=window)
    for node in range(nodes - 1, -1, -17 if impl == "cuda-sim" else -1):  # a simulated launch is slow
        path = path_to(c.ancestors[0, node], node)
        order = list(range(prefix)) + [prefix + i for i in path]
        key, value = (torch.zeros_like(t) for t in (c.key, c.value))
        key[:, :, : len(order)], value[:, :, : len(order)] = c.key[:, :, order], c.value[:, :, order]
        alone = Case(c.query[:, :, node : node + 1], key, value, c.rows, torch.tensor([len(order) - 1], dtype=torch.int32), *ancestry(chain(1, 1)), c.scaling)
        assert torch.equal(alone.run(device, window=window)[0, 0], tree[0, node]), f"node {node}"


def test_results_do_not_depend_on_threads_or_batch(impl, device):
    if impl in ("reference", "cuda"):
        pytest.skip("promised by the compiled CPU kernels")
    c = case(3, 40, [100, 7, 64], 8, 2, 64, torch.bfloat16)
    together = c.run(device)
    before = _C.num_threads()
    try:
        for threads in (1,) if impl == "cuda-sim" else (1, 3):  # the simulated GPU has no CPU threads to count
            _C.set_num_threads(threads)
            assert torch.equal(c.run(device), together)
            alone = Case(c.query[1:2], c.key, c.value, c.rows[1:2], c.lengths[1:2], c.ancestors[1:2], c.depth[1:2], c.scaling)
            assert torch.equal(alone.run(device)[0], together[1])
    finally:
        _C.set_num_threads(before)


def test_nan_reaches_those_who_see_it_and_unused_slots_do_not_matter(impl, device):
    c = case(1, 3, [5], 2, 1, 64, parents=torch.tensor([[-1, 0, 0]], dtype=torch.int32))
    c.key[:, :, 9:], c.value[:, :, 9:] = float("nan"), float("nan")
    assert not c.run(device).isnan().any()
    c.key[:, :, 2] = float("nan")
    assert c.run(device).isnan().all()


def test_wrong_arguments_are_named():
    c = case(1, 4, [9], 2, 1, 64)
    arguments = dict(lengths=c.lengths, ancestors=c.ancestors, depth=c.depth, scaling=1.0)
    with pytest.raises(ValueError, match="lengths is"):
        ops.tree_attention(c.query, c.key, c.value, **{**arguments, "lengths": torch.tensor([13], dtype=torch.int32)})
    with pytest.raises(ValueError, match="must divide"):
        ops.tree_attention(c.query.expand(1, 2, 4, 64)[:, :1], c.key.expand(-1, 2, -1, -1), c.value.expand(-1, 2, -1, -1), **arguments)
    with pytest.raises(TypeError, match="key has dtype"):
        ops.tree_attention(c.query, c.key.bfloat16(), c.value, **arguments)
    with pytest.raises(ValueError, match="window is -1"):
        ops.tree_attention(c.query, c.key, c.value, **arguments, window=-1)
