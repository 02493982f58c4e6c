import itertools

import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference
from tests.laws import assert_follows, draw, keys, random_laws
from tests.trees import random_trees


def run(device, *arrays, **named):
    move = lambda t: t.to(device) if isinstance(t, torch.Tensor) else t
    return ops.verify_tree_recursive(*map(move, arrays), **{k: move(v) for k, v in named.items()})


def assert_same(want, got):
    for w, g in zip(want, got):
        assert torch.equal(w, g.cpu())


def tree_case(batch, nodes, vocab, seed, zeros=0.0):
    tree = random_trees(batch, nodes, vocab=min(vocab, 6), seed=seed)
    p, q = random_laws(batch, nodes, vocab, seed=seed, zeros=zeros), random_laws(batch, nodes, vocab, seed=seed + 1, zeros=zeros)
    return tree.tokens, tree.first_child, tree.next_sibling, p, q, keys(batch, seed=seed)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch, nodes, vocab", [(1, 1, 1), (20, 16, 5), (5, 40, 6), (4, 6, 31), (4, 6, 64), (4, 6, 65), (4, 6, 193), (3, 12, 1030), (0, 3, 4)])
@pytest.mark.parametrize("zeros", [0.0, 0.6])
def test_equals_reference(impl, device, replacement, batch, nodes, vocab, zeros):
    arrays = tree_case(batch, nodes, vocab, seed=nodes, zeros=zeros)
    assert_same(reference.verify_tree_recursive(*arrays, replacement), run(device, *arrays, replacement))


def test_draws_that_are_no_children(impl, device):
    """Draws with repeats and without a node of their own."""
    batch, nodes, vocab = 30, 8, 5
    arrays = tree_case(batch, nodes, vocab, seed=8)
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 5, (batch * nodes,), generator=generator)
    flat = torch.randint(-1, vocab, (int(counts.sum()),), generator=generator, dtype=torch.int32)
    ends = counts.cumsum(0).int().reshape(batch, nodes)
    offsets = torch.cat([torch.cat([torch.zeros(1, dtype=torch.int32), ends[:-1, -1]])[:, None], ends], 1).contiguous()
    want = reference.verify_tree_recursive(*arrays, True, offsets, flat)
    assert_same(want, run(device, *arrays, True, draw_offsets=offsets, draw_tokens=flat))


def test_a_chain_is_verify_chain(impl, device):
    """One child per node uses the same coins and the same residual as `verify_chain`."""
    batch, length, vocab = 25, 4, 6
    q, p = random_laws(batch, length + 1, vocab, seed=1), random_laws(batch, length + 1, vocab, seed=2)
    p = 0.4 * p + 0.6 * q
    tokens = draw(q, 3)
    tree_tokens = torch.cat([torch.zeros(batch, 1, dtype=torch.int32), tokens[:, :length]], 1)
    first = torch.tensor([*range(1, length + 1), -1], dtype=torch.int32).expand(batch, -1).contiguous()
    key = keys(batch)
    got = run(device, tree_tokens, first, torch.full_like(first, -1), p, q, key, True)
    num = torch.full((batch,), length, dtype=torch.int32)
    want = ops.verify_chain(*(t.contiguous().to(device) for t in (tokens[:, :length], q[:, :length], p, num, key)))
    assert torch.equal(got.accept_len, want.accept_len) and torch.equal(got.next_token, want.next_token)


@pytest.mark.parametrize("vocab", [5, 200])
def test_nan_and_empty_rows(impl, device, vocab):
    tokens, first, sibling, p, q, key = tree_case(6, 4, vocab, seed=3)
    p[0, 0, 4], p[1], q[2], q[3, 0, 1], p[4, 0, 0] = torch.nan, 0, 0, torch.nan, torch.inf
    for replacement in (True, False):
        want = reference.verify_tree_recursive(tokens, first, sibling, p, q, key, replacement)
        assert_same(want, run(device, tokens, first, sibling, p, q, key, replacement))


def siblings(count: int, vocab: int, draws: int, replacement: bool, q: torch.Tensor, seed: int):
    """Star trees of drawn tokens: root and up to `draws` distinct leaves; also the draws as lists."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(q.expand(count, vocab), draws, replacement=replacement, generator=generator).int()
    tokens = torch.cat([torch.zeros(count, 1, dtype=torch.int32), drawn], 1)
    first, sibling = torch.full_like(tokens, -1), torch.full_like(tokens, -1)
    first[:, 0] = 1
    sibling[:, 1:draws] = torch.arange(2, draws + 1, dtype=torch.int32)
    if replacement:  # a repeated token keeps its first node only
        for i, j in itertools.combinations(range(draws), 2):
            again = drawn[:, i] == drawn[:, j]
            sibling[again, j] = torch.where(sibling[again, j] == j + 1, sibling[again, j + 1], sibling[again, j])
    offsets = torch.full((count, draws + 2), draws, dtype=torch.int32)
    offsets[:, 0] = 0
    return tokens, first, sibling, offsets + draws * torch.arange(count, dtype=torch.int32)[:, None], drawn.flatten()


def first_tokens(got, tokens):
    accepted = got.accept_len.cpu() > 0
    node = got.path[:, 1].cpu().clamp(min=0).long() if got.path.shape[1] > 1 else accepted.long()
    return torch.where(accepted, tokens.gather(1, node[:, None])[:, 0], got.next_token.cpu())


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_law(impl, device, replacement, listed, rows):
    """The first token follows p although its candidates were drawn from q."""
    if replacement and not listed:
        pytest.skip("repeated draws need their list")
    count, vocab, draws = rows(200_000), 5, 3
    p, q = random_laws(vocab, seed=11, sharpness=1.0), random_laws(vocab, seed=12, sharpness=1.0)
    tokens, first, sibling, offsets, flat = siblings(count, vocab, draws, replacement, q, seed=1)
    rows_of = lambda law: law.expand(count, draws + 1, vocab).contiguous()
    lists = dict(draw_offsets=offsets, draw_tokens=flat) if listed else {}
    got = run(device, tokens, first, sibling, rows_of(p), rows_of(q), keys(count, seed=2), replacement, **lists)
    assert_follows(first_tokens(got, tokens), p)


def test_without_replacement_accepts_more(impl, device, rows):
    count, vocab, draws = rows(100_000), 5, 3
    p, q = random_laws(vocab, seed=11, sharpness=1.0), random_laws(vocab, seed=12, sharpness=1.0)
    rows_of = lambda law: law.expand(count, draws + 1, vocab).contiguous()
    rates = []
    for replacement in (True, False):
        tokens, first, sibling, offsets, flat = siblings(count, vocab, draws, replacement, q, seed=1)
        got = run(device, tokens, first, sibling, rows_of(p), rows_of(q), keys(count), replacement, draw_offsets=offsets, draw_tokens=flat)
        rates.append(float(got.accept_len.double().mean()))
    assert rates[1] > rates[0]


def test_equal_laws_keep_the_first_draw(impl, device):
    tokens, first, sibling, p, _, key = tree_case(20, 10, 5, seed=5)
    got = run(device, tokens, first, sibling, p, p, key, False)
    for b in range(20):
        node = 0
        for step in got.path[b, 1 : int(got.accept_len[b]) + 1].tolist():
            assert step == int(first[b, node])
            node = step
        assert int(first[b, node]) == -1


def test_wrong_arguments_are_named():
    arrays = tree_case(1, 4, 5, seed=0)
    with pytest.raises(ValueError, match="draw_tokens is missing"):
        ops.verify_tree_recursive(*arrays, True, draw_offsets=torch.zeros(1, 5, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"draw_offsets spans 0 \.\.\. 9, expected 0 \.\.\. 3"):
        offsets = torch.tensor([[0, 1, 1, 1, 9]], dtype=torch.int32)
        ops.verify_tree_recursive(*arrays, True, offsets, torch.zeros(3, dtype=torch.int32))
    with pytest.raises(ValueError, match="draft has shape"):
        ops.verify_tree_recursive(*arrays[:4], arrays[4][:, :2].contiguous(), arrays[5], True)
