import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference
from tests.trees import random_trees


@pytest.mark.parametrize("batch, nodes", [(1, 1), (1, 7), (3, 32), (8, 64), (2, 65), (0, 4)])
def test_equals_reference(impl, device, batch, nodes):
    tree = random_trees(batch, nodes, vocab=5, seed=nodes)
    generator = torch.Generator().manual_seed(batch)
    choice = torch.randint(0, 5, (batch, nodes), generator=generator, dtype=torch.int32)
    want = reference.verify_tree_greedy(tree.tokens, tree.first_child, tree.next_sibling, choice)
    got = ops.verify_tree_greedy(*(t.to(device) for t in (tree.tokens, tree.first_child, tree.next_sibling, choice)))
    for w, g in zip(want, got):
        assert torch.equal(w, g.cpu())


def test_worked_example(impl, device):
    # root 5 -> {7, 8}, 8 -> {9}; the target says 8 after the root, 9 after 8, 4 after 9
    as_int = lambda *v: torch.tensor([v], dtype=torch.int32, device=device)
    got = ops.verify_tree_greedy(as_int(5, 7, 8, 9), as_int(1, -1, 3, -1), as_int(-1, 2, -1, -1), as_int(8, 1, 9, 4))
    assert got.path.tolist() == [[0, 2, 3, -1]] and got.accept_len.tolist() == [2] and got.next_token.tolist() == [4]


def test_wrong_arguments_are_named():
    good = torch.zeros(1, 4, dtype=torch.int32)
    with pytest.raises(TypeError, match="choice has dtype torch.int64"):
        ops.verify_tree_greedy(good, good, good, good.long())
    with pytest.raises(ValueError, match=r"first_child has shape \[1, 3\]"):
        ops.verify_tree_greedy(good, good[:, :3].contiguous(), good, good)
    with pytest.raises(ValueError, match="no nodes"):
        ops.verify_tree_greedy(*[torch.zeros(1, 0, dtype=torch.int32)] * 4)
