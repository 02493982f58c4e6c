import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference
from tests.laws import assert_follows, draw, keys, random_laws

RULES = ["verify_chain", "verify_block"]


def chain_case(batch: int, length: int, vocab: int, seed: int, zeros: float = 0.0):
    q, p = random_laws(batch, length, vocab, seed=seed, zeros=zeros), random_laws(batch, length + 1, vocab, seed=seed + 1, zeros=zeros)
    p[:, :length] = 0.5 * p[:, :length] + 0.5 * q  # alike enough that all lengths occur
    tokens = draw(q, seed + 2) if batch * length else torch.zeros(batch, length, dtype=torch.int32)
    num = torch.arange(batch, dtype=torch.int32).flip(0).remainder(length + 1)
    return tokens, q, p, num, keys(batch, seed=seed)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch, length, vocab", [(1, 1, 1), (40, 4, 5), (12, 3, 31), (12, 3, 64), (12, 3, 65), (12, 3, 130), (3, 2, 4099), (0, 2, 3), (2, 0, 9)])
@pytest.mark.parametrize("zeros", [0.0, 0.6])
def test_equals_reference(impl, device, rule, batch, length, vocab, zeros):
    arrays = chain_case(batch, length, vocab, seed=vocab, zeros=zeros)
    want, got = getattr(reference, rule)(*arrays), getattr(ops, rule)(*(t.to(device) for t in arrays))
    for w, g in zip(want, got):
        assert torch.equal(w, g.cpu())


@pytest.mark.parametrize("rule", RULES)
def test_equal_laws_keep_everything(impl, device, rule):
    tokens, q, p, num, key = chain_case(30, 3, 6, seed=1)
    p[:, :3] = q
    got = getattr(ops, rule)(*(t.to(device) for t in (tokens, q, p, num, key)))
    assert torch.equal(got.accept_len.cpu(), num)


@pytest.mark.parametrize("rule", RULES)
def test_disjoint_laws_keep_nothing(impl, device, rule):
    tokens, q, p, num, key = chain_case(30, 3, 6, seed=2)
    p[..., :3], q[..., 3:] = 0, 0
    tokens = tokens % 3
    got = getattr(ops, rule)(*(t.to(device) for t in (tokens, q, p, num, key)))
    assert got.accept_len.sum() == 0 and (got.next_token >= 3).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("vocab", [9, 200])
def test_strange_rows(impl, device, rule, vocab):
    """NaN, infinity, rows without mass and ids outside the vocabulary: the same answer everywhere, and never a crash."""
    tokens, q, p, num, key = chain_case(7, 2, vocab, seed=3)
    num.fill_(2)
    p[0, 0, 4], p[1, 2], p[2], q[3, 0, 1], q[4], p[5, 1, 2] = torch.nan, 0, 0, torch.nan, 0, torch.inf
    tokens[6, 0] = vocab
    want, got = getattr(reference, rule)(tokens, q, p, num, key), getattr(ops, rule)(*(t.to(device) for t in (tokens, q, p, num, key)))
    for w, g in zip(want, got):
        assert torch.equal(w, g.cpu())


def sequences(rule: str, count: int, device, seed: int, vocab: int = 3, length: int = 2):
    """Drafts from q given their prefix, verified; returns the emitted tokens, completed to length + 1 from p, and the tables of p.

    Tables: p_of[d] is [V] * d + [V], the law after a prefix of d tokens.
    """
    p_of = [random_laws(*[vocab] * (d + 1), seed=seed + d, sharpness=1.2) for d in range(length + 1)]
    q_of = [random_laws(*[vocab] * (d + 1), seed=seed + 50 + d, sharpness=1.2) for d in range(length)]
    prefix: list[torch.Tensor] = []
    q_rows, p_rows = [], []
    for d in range(length):
        q_rows.append(q_of[d][tuple(prefix)].expand(count, vocab))
        p_rows.append(p_of[d][tuple(prefix)].expand(count, vocab))
        prefix.append(draw(q_rows[-1], seed + 100 + d).long())
    p_rows.append(p_of[length][tuple(prefix)].expand(count, vocab))
    tokens, num = torch.stack(prefix, 1).int(), torch.full((count,), length, dtype=torch.int32)
    got = getattr(ops, rule)(*(t.contiguous().to(device) for t in (tokens, torch.stack(q_rows, 1), torch.stack(p_rows, 1), num, keys(count, seed=seed))))
    accepted, following = got.accept_len.cpu(), got.next_token.cpu().long()
    emitted = torch.empty(count, length + 1, dtype=torch.long)
    for d in range(length + 1):
        later = draw(p_of[d][tuple(emitted[:, i] for i in range(d))].expand(count, vocab), seed + 200 + d).long()
        emitted[:, d] = torch.where(accepted == d, following, later if d == length else torch.where(accepted > d, tokens[:, d].long(), later))
    return emitted, p_of, accepted


@pytest.mark.parametrize("rule", RULES)
def test_law(impl, device, rule, rows):
    """The joint law of three tokens is the target's, whatever was accepted."""
    emitted, p_of, _ = sequences(rule, rows(200_000), device, seed=7)
    joint = p_of[0][:, None, None] * p_of[1][:, :, None] * p_of[2]
    assert_follows(emitted[:, 0] * 9 + emitted[:, 1] * 3 + emitted[:, 2], joint.flatten())


def test_block_keeps_more(impl, device, rows):
    means = [sequences(rule, rows(200_000), device, seed=7)[2].double().mean() for rule in RULES]
    assert means[1] > means[0]


def test_wrong_arguments_are_named():
    tokens, q, p, num, key = chain_case(2, 3, 4, seed=0)
    with pytest.raises(ValueError, match=r"p has shape \[2, 3, 4\], expected \[2, 4, 4\]"):
        ops.verify_chain(tokens, q, p[:, :3].contiguous(), num, key)
    with pytest.raises(ValueError, match=r"num spans .* 4, expected 0 \.\.\. 3"):
        ops.verify_block(tokens, q, p, num * 0 + 4, key)
