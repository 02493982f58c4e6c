import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference
from tests.laws import assert_follows, keys, random_laws
from tests.trees import random_trees


def both(device, tree, probs, key):
    arrays = (tree.tokens, tree.first_child, tree.next_sibling, probs, key)
    return reference.verify_tree_point(*arrays), ops.verify_tree_point(*(t.to(device) for t in arrays))


def assert_same(want, got):
    for w, g in zip(want, got):
        assert torch.equal(w, g.cpu())


@pytest.mark.parametrize("batch, nodes, vocab", [(1, 1, 1), (4, 16, 2), (6, 32, 5), (2, 65, 7), (3, 5, 1000), (2, 3, 4097), (0, 4, 3)])
@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_equals_reference(impl, device, batch, nodes, vocab, zeros):
    tree = random_trees(batch, nodes, vocab=min(vocab, 5) + 1, seed=nodes)
    assert_same(*both(device, tree, random_laws(batch, nodes, vocab, seed=batch, zeros=zeros), keys(batch, seed=3)))


def test_sharp_rows(impl, device):
    """Probabilities down to the smallest subnormal numbers, where a screen in single precision could go wrong."""
    tree = random_trees(64, 1, vocab=1, seed=0)
    probs = torch.logspace(-45, 0, 301, dtype=torch.float64).float().flip(0).expand(64, 1, 301).contiguous()
    assert_same(*both(device, tree, probs, keys(64)))
    tiny = (probs * 0 + 1e-45).contiguous()
    assert_same(*both(device, tree, tiny, keys(64)))


def test_rows_that_cannot_be_drawn_from(impl, device):
    tree = random_trees(5, 1, vocab=1, seed=0)
    probs = random_laws(5, 1, 70, seed=1)
    probs[0, 0, 69], probs[1], probs[2, 0, 3], probs[3, 0, :] = torch.nan, 0, torch.inf, -1
    want, got = both(device, tree, probs, keys(5))
    assert got.next_token[:4].tolist() == [-1] * 4 and got.next_token[4] >= 0
    assert_same(want, got)


def test_only_visited_rows_are_read(impl, device):
    tree = random_trees(1, 8, vocab=4, seed=2)
    probs = torch.full((1, 8, 16), torch.nan)
    probs[0, 0] = torch.nn.functional.one_hot(torch.tensor(15), 16)
    got = ops.verify_tree_point(*(t.to(device) for t in (tree.tokens, tree.first_child, tree.next_sibling, probs, keys(1))))
    assert got.next_token.tolist() == [15] and got.accept_len.tolist() == [0]


def test_a_depth_draws_what_plain_sampling_draws(impl, device):
    """The token of depth d depends on the key of its position and its row alone."""
    tree = random_trees(20, 12, vocab=3, seed=4)
    probs, key = random_laws(20, 12, 3, seed=5, sharpness=1.0), keys(20)
    got = ops.verify_tree_point(*(t.to(device) for t in (tree.tokens, tree.first_child, tree.next_sibling, probs, key)))
    alone = torch.zeros(1, 1, dtype=torch.int32, device=device)
    none = alone - 1
    for b in range(20):
        length = int(got.accept_len[b])
        for depth in range(length + 1):
            node, moved = int(got.path[b, depth]), key[b : b + 1].clone()
            moved[0, 2] += depth
            single = ops.verify_tree_point(alone, none, none, probs[b : b + 1, node : node + 1].contiguous().to(device), moved.to(device))
            follows = int(got.next_token[b]) if depth == length else int(tree.tokens[b, int(got.path[b, depth + 1])])
            assert int(single.next_token) == follows


def test_law(impl, device, rows):
    """Root -> {0, 1, 2}, each of them a leaf: the pair of tokens follows the product of the laws."""
    count = rows(200_000)
    as_rows = lambda *v: torch.tensor([v], dtype=torch.int32).expand(count, -1).contiguous().to(device)
    law = random_laws(4, 5, seed=9, zeros=0.2)
    got = ops.verify_tree_point(
        as_rows(9, 0, 1, 2), as_rows(1, -1, -1, -1), as_rows(-1, 2, 3, -1), law.expand(count, 4, 5).contiguous().to(device), keys(count, seed=1).to(device)
    )
    node, last, accepted = got.path[:, 1].cpu(), got.next_token.cpu(), got.accept_len.cpu()
    first = torch.where(accepted > 0, node - 1, last)
    assert_follows(first, law[0])
    for child in (1, 2, 3):
        if (node == child).sum() > 200:
            assert_follows(last[node == child], law[child])


def test_wrong_arguments_are_named():
    tree, probs = random_trees(1, 4, vocab=3, seed=0), torch.zeros(1, 4, 3)
    arrays = (tree.tokens, tree.first_child, tree.next_sibling)
    with pytest.raises(TypeError, match="probs has dtype torch.float64"):
        ops.verify_tree_point(*arrays, probs.double(), keys(1))
    with pytest.raises(ValueError, match=r"key has shape \[2, 4\]"):
        ops.verify_tree_point(*arrays, probs, keys(2))
