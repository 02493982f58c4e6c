"""Score-swap over whole trees: exact by enumeration of all draws, equal in all implementations, longer paths than token by token."""

import itertools

import numpy as np
import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference
from fastdecode.ops.reference import transport
from tests.laws import assert_follows, keys, random_laws
from tests.ops.test_verify_tree_transport import draws_of
from tests.transport_laws import Tree, chances_of
from tests.trees import random_trees


@pytest.mark.parametrize("batch, nodes, vocab", [(1, 1, 1), (20, 16, 5), (6, 8, 12), (4, 6, 64), (4, 6, 193), (3, 12, 1030), (0, 3, 4)])
@pytest.mark.parametrize("zeros", [0.0, 0.6])
def test_equals_reference(impl, device, batch, nodes, vocab, zeros):
    tree = random_trees(batch, nodes, vocab=min(vocab, 6), seed=nodes)
    p, q = random_laws(batch, nodes, vocab, seed=nodes, zeros=zeros), random_laws(batch, nodes, vocab, seed=nodes + 1, zeros=zeros)
    offsets, flat = draws_of(tree, q, 5, seed=1, padding=vocab == 5)
    arrays = (tree.tokens, tree.first_child, tree.next_sibling, p, q, keys(batch, seed=nodes), offsets, flat)
    want = reference.verify_tree_transport_block(*arrays)
    got = ops.verify_tree_transport_block(*(t.to(device) for t in arrays))
    for w, g in zip(want, got):
        assert torch.equal(w, g.cpu())


def laws_of(count: int, vocab: int, seed: int) -> list[np.ndarray]:
    return [random_laws(vocab, seed=seed + i, sharpness=1.2).numpy() for i in range(count)]


def chance_of(draws: tuple[int, ...], q: np.ndarray) -> float:
    law = q.astype(float) / q.sum(dtype=float)
    return float(np.prod(law[list(draws)]))


@pytest.mark.parametrize("weight", [1.0, 0.6, 0.1])
@pytest.mark.parametrize("vocab, n", [(3, 1), (3, 2), (4, 3), (3, 4)])
def test_winning_chances_add_up_to_the_kept_mass(vocab, n, weight):
    p, q = laws_of(2, vocab, seed=7)
    plan = transport.plan(p, q, n, weight)
    won = np.zeros(vocab)
    for drawn in itertools.product(range(vocab), repeat=n):
        own = chances_of(plan, p, q, drawn)
        assert all(-1e-12 <= h for h in own.values()) and sum(own.values()) <= 1 + 1e-12
        for token, h in own.items():
            won[token] += chance_of(drawn, q) * h
    kept = q.astype(float) / q.sum(dtype=float) * transport.kept_ratio(transport.split(p, q).ratio, plan.cap) * weight * q.sum(dtype=float) / p.sum(dtype=float)
    assert np.allclose(won, kept, atol=1e-12) and won.sum() == pytest.approx(plan.alpha, abs=1e-12)


@pytest.mark.parametrize("vocab, n, prune", [(3, 1, False), (3, 2, False), (3, 2, True), (2, 3, False)])
def test_law_of_two_tokens_by_enumeration(vocab, n, prune):
    """Every draw at the root and below its children; what is emitted, continued by plain decoding, has the target's joint law."""
    tables = laws_of(2 + 2 * vocab, vocab, seed=3)
    node_laws = lambda prefix: tables[0] if not prefix else tables[2 + prefix[0]] if len(prefix) == 1 else tables[0]
    draft_laws = lambda prefix: tables[1] if not prefix else tables[2 + vocab + prefix[0]]
    joint = np.zeros((vocab, vocab))
    after = np.stack([tables[2 + t].astype(float) / tables[2 + t].sum(dtype=float) for t in range(vocab)])
    lengths = 0.0
    for top in itertools.product(range(vocab), repeat=n):
        children = sorted(set(top))[: 1 if prune else None]
        for below in itertools.product(itertools.product(range(vocab), repeat=n), repeat=len(children)):
            chance = chance_of(top, tables[1]) * np.prod([chance_of(d, draft_laws((c,))) for c, d in zip(children, below)])
            drawn = {(): top, **{(c,): d for c, d in zip(children, below)}}
            law, passed = Tree(node_laws, draft_laws, drawn, {(c,) for c in children}).at_once()
            assert passed == pytest.approx(1, abs=1e-12)
            for emitted, part in law.items():
                lengths += chance * part * len(emitted)
                if len(emitted) == 1:
                    joint[emitted[0]] += chance * part * after[emitted[0]]
                else:
                    joint[emitted[0], emitted[1]] += chance * part
    first = tables[0].astype(float) / tables[0].sum(dtype=float)
    assert np.allclose(joint, first[:, None] * after, atol=1e-12)
    plan = transport.plan(tables[0], tables[1], n)
    if not prune:  # token by token a second token is there whenever the first was kept
        assert lengths >= 1 + plan.alpha - 1e-9


def trees_of_two_levels(count: int, vocab: int, n: int, seed: int):
    """Trees with every distinct draw of the root as a child, each with n draws of its own that are no nodes."""
    tables = [torch.from_numpy(t) for t in laws_of(2 + 2 * vocab, vocab, seed=seed)]
    p, q, p_after, q_after = tables[0], tables[1], torch.stack(tables[2 : 2 + vocab]), torch.stack(tables[2 + vocab :])
    generator = torch.Generator().manual_seed(seed)
    top = torch.multinomial(q.double(), count * n, True, generator=generator).reshape(count, n)
    tokens, first, sibling = (torch.full((count, 1 + vocab), v, dtype=torch.int32) for v in (0, -1, -1))
    tokens[:, 1:] = torch.arange(vocab)
    present = torch.zeros(count, vocab, dtype=torch.bool).scatter_(1, top, True)
    after = torch.full((count,), -1, dtype=torch.int32)
    for t in reversed(range(vocab)):  # node 1 + t is the child with token t, linked in if it was drawn
        sibling[:, 1 + t] = torch.where(present[:, t], after, -1)
        after = torch.where(present[:, t], 1 + t, after)
    first[:, 0] = after
    below = torch.multinomial(q_after.double().repeat(count, 1), n, True, generator=generator).reshape(count, vocab, n)
    flat = torch.cat([top[:, None], below], 1).int()
    offsets = torch.arange(count)[:, None] * (1 + vocab) * n + torch.arange(0, (1 + vocab) * n + 1, n)
    probs, draft = (torch.cat([root.expand(count, 1, -1), rest.expand(count, -1, -1)], 1).contiguous() for root, rest in ((p, p_after), (q, q_after)))
    return (tokens, first, sibling, probs, draft, keys(count, seed), offsets.int(), flat.flatten()), p, p_after


@pytest.mark.parametrize("vocab, n", [(4, 1), (4, 2), (5, 4)])
def test_tokens_have_the_joint_law(impl, device, rows, vocab, n):
    count = rows(40_000)
    arrays, p, p_after = trees_of_two_levels(count, vocab, n, seed=vocab + n)
    path = ops.verify_tree_transport_block(*(t.contiguous().to(device) for t in arrays))
    node, following = path.path.cpu()[:, 1:2], path.next_token.cpu().long()
    generator = torch.Generator().manual_seed(9)
    second = torch.multinomial(p_after[following].double(), 1, generator=generator)[:, 0]
    child = node[:, 0].long() - 1
    pair = torch.where(path.accept_len.cpu() == 1, child * vocab + following, following * vocab + second)
    assert_follows(pair, (p[:, None] * p_after).flatten())


def test_more_tokens_than_token_by_token():
    for seed in range(4):
        arrays, *_ = trees_of_two_levels(30_000, 5, 2, seed=40 + seed)
        arrays = [t.contiguous() for t in arrays]
        # A kept draw below a child is a second accepted token, though it is no node.
        def mean(operation):
            path = operation(*arrays)
            following = path.next_token[:, None]
            flat, offsets = arrays[7], arrays[6]
            last = torch.gather(path.path, 1, path.accept_len[:, None].long()).long()
            drawn = torch.stack([flat[(torch.gather(offsets, 1, last)[:, 0] + i).long()] for i in range(2)], 1)
            return float((path.accept_len + (drawn == following).any(1)).float().mean())

        assert mean(ops.verify_tree_transport_block) > mean(ops.verify_tree_transport) - 0.01


def test_deterministic_children_and_bad_laws(impl, device, rows):
    """A child that was not drawn is reached through what is left, and the walk goes on below it."""
    count, vocab = rows(40_000), 4
    p, p_after, q = (random_laws(vocab, seed=s, sharpness=1.0) for s in (1, 2, 3))
    rest = q.clone()
    rest[2] = 0
    rest /= rest.sum()
    draws = torch.multinomial(rest.double(), count * 2, True, generator=torch.Generator().manual_seed(0)).reshape(count, 2)
    tokens = torch.tensor([[0, 2]]).expand(count, 2).int()
    first, sibling = torch.tensor([[1, -1]]).expand(count, 2).int(), torch.full((count, 2), -1).int()
    probs, draft = (torch.stack([a, b]).expand(count, 2, vocab) for a, b in ((p, p_after), (rest, rest)))
    offsets = (torch.arange(count)[:, None] * 2 + torch.tensor([0, 2, 2])).int()
    arrays = [t.contiguous().to(device) for t in (tokens, first, sibling, probs, draft, keys(count), offsets, draws.int().flatten())]
    path = ops.verify_tree_transport_block(*arrays)
    length, following = path.accept_len.cpu(), path.next_token.cpu().long()
    first_token = torch.where(length == 1, 2, following)
    assert_follows(first_token, p)
    assert_follows(following[length == 1], p_after)
    arrays[4] = torch.full_like(arrays[4], torch.nan)
    assert_follows(torch.where((path := ops.verify_tree_transport_block(*arrays)).accept_len.cpu() == 1, 2, path.next_token.cpu()), p)
    arrays[3] = torch.full_like(arrays[3], torch.nan)
    assert (ops.verify_tree_transport_block(*arrays).next_token == -1).all()


def test_too_many_draws():
    one, law = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1, 3) / 3
    with pytest.raises(ValueError, match="a node has 65 draws, at most 64"):
        ops.verify_tree_transport_block(one, one - 1, one - 1, law, law, keys(1), torch.tensor([[0, 65]], dtype=torch.int32), torch.zeros(65, dtype=torch.int32))
