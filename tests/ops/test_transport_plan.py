"""Plans and walks from logits and from bfloat16: equal in all implementations, and those of the probabilities they stand for."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference
from fastdecode.ops.reference import law
from tests.laws import assert_follows, keys, random_laws
from tests.ops.test_verify_tree_transport import draws_of
from tests.trees import random_trees

FORMS = ["float32", "bfloat16", "float32 logits", "bfloat16 logits"]


def given_as(form: str, laws: torch.Tensor, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Values, and for logits the logarithm of the sum of their exponentials; some logits of tokens without mass are -inf."""
    dtype = torch.bfloat16 if form.startswith("bfloat16") else torch.float32
    if not form.endswith("logits"):
        return laws.to(dtype), None
    logits = (laws.log() + shift).to(dtype)
    return logits, logits.float().logsumexp(-1)


def test_exponentials_are_those_of_a_fused_multiply_add():
    generator = np.random.default_rng(0)
    a, b, c = (generator.standard_normal(3000).astype(np.float32) * np.exp2(generator.integers(-40, 3, 3000)).astype(np.float32) for _ in range(3))
    c[::3] = -(a * b)[::3]  # cancellation
    for x, y, z, got in zip(a, b, c, law.fused(a, b, c)):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        assert all(abs(Fraction(float(got)) - exact) <= abs(Fraction(float(np.nextafter(got, side, dtype=np.float32))) - exact) for side in (np.float32(np.inf), np.float32(-np.inf)))
    x = -generator.random(20_000).astype(np.float32) * 87
    want = np.exp(x.astype(float))
    assert (np.abs(law.exp(x) - want) <= 2 * np.spacing(want.astype(np.float32))).all()
    assert law.exp(np.array([0, -87.4, -np.inf], np.float32)).tolist() == [1, 0, 0] and np.isnan(law.exp(np.array([np.nan], np.float32)))[0]


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("draft", FORMS)
def test_histograms_are_equal_bit_for_bit(impl, device, target, draft):
    for rows, vocab in [(1, 1), (2, 17), (2, 1024), (1, 2311)]:
        laws = [random_laws(rows, vocab, seed=vocab + i, sharpness=6.0, zeros=0.2) for i in range(2)]
        (p, p_lse), (q, q_lse) = given_as(target, laws[0], shift=3.0), given_as(draft, laws[1], shift=-11.0)
        draws = torch.full((rows,), 4, dtype=torch.int32)
        want = reference.transport_plan(p, q, draws, None, p_lse, q_lse)
        got = ops.transport_plan(*(None if t is None else t.to(device) for t in (p, q, draws, None, p_lse, q_lse)))
        assert (want[0][:, 2] <= 1).all()  # plans, not the refusal of rows that are no laws
        assert torch.equal(got.knots[:, 0].cpu(), want[1][:, 0])
        torch.testing.assert_close(got.head.cpu(), want[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("verify", [ops.verify_tree_transport, ops.verify_tree_transport_block])
@pytest.mark.parametrize("target, draft", [*zip(FORMS, FORMS), ("bfloat16 logits", "float32"), ("float32", "float32 logits")])
def test_walks_equal_the_reference(impl, device, verify, target, draft):
    for batch, nodes, vocab in [(1, 1, 1), (8, 8, 5), (3, 6, 97), (2, 5, 1100)]:
        tree = random_trees(batch, nodes, vocab=min(vocab, 6), seed=nodes)
        laws = [random_laws(batch, nodes, vocab, seed=nodes + i, zeros=0.3) for i in range(2)]
        (p, p_lse), (q, q_lse) = given_as(target, laws[0]), given_as(draft, laws[1], shift=5.0)
        offsets, flat = draws_of(tree, laws[1], 5, seed=1)
        arrays = (tree.tokens, tree.first_child, tree.next_sibling, p, q, keys(batch, seed=nodes), offsets, flat, p_lse, q_lse)
        want = getattr(reference, verify.__name__)(*arrays)
        got = verify(*(None if t is None else t.to(device) for t in arrays))
        for w, g in zip(want, got):
            assert torch.equal(w, g.cpu())


def test_the_rate_is_that_of_the_laws(impl, device):
    """Rounding to bfloat16 moves a law by up to 2^-9 of each entry, logits by more."""
    laws = [random_laws(2, 500, seed=i) for i in range(2)]
    draws = torch.tensor([1, 5], dtype=torch.int32, device=device)
    best = ops.transport_plan(laws[0].to(device), laws[1].to(device), draws).alpha
    for form, bound in zip(FORMS, (0, 2.0**-7, 1e-6, 2.0**-5)):
        (p, p_lse), (q, q_lse) = (given_as(form, x) for x in laws)
        lse = (None, None) if p_lse is None else (p_lse.to(device), q_lse.to(device))
        assert ((ops.transport_plan(p.to(device), q.to(device), draws, None, *lse).alpha - best).abs() <= bound).all()


def test_tokens_have_the_law_of_rounded_logits(impl, device, rows):
    count, n, vocab = rows(30_000), 3, 40
    (p, p_lse), (q, q_lse) = (given_as("bfloat16 logits", random_laws(1, 1, vocab, seed=i), shift=9.0) for i in range(2))
    draws = torch.multinomial((q.double() - q_lse.double()[..., None]).exp()[0, 0], count * n, True, generator=torch.Generator().manual_seed(0))
    one, offsets = torch.zeros(count, 1, dtype=torch.int32), torch.arange(0, (count + 1) * n, n)
    each = lambda x: x.expand(count, *x.shape[1:]).contiguous()
    arrays = (one, one - 1, one - 1, each(p), each(q), keys(count), torch.stack([offsets[:-1], offsets[1:]], 1).int(), draws.int(), each(p_lse), each(q_lse))
    tokens = ops.verify_tree_transport(*(t.to(device) for t in arrays)).next_token.cpu()
    assert_follows(tokens, p.double().softmax(-1)[0, 0])


@pytest.mark.parametrize("logits, lse", [((0.0, torch.nan), 0.7), ((0.0, torch.inf), torch.inf), ((-torch.inf, -torch.inf), -torch.inf), ((0.0, 0.0), torch.nan)])
def test_rows_that_are_no_laws(impl, device, logits, lse):
    bad, sums, uniform = torch.tensor([logits]), torch.tensor([lse]), torch.full((1, 2), 0.5)
    draws = torch.tensor([2], dtype=torch.int32)
    plan = lambda *arrays: ops.transport_plan(*(None if t is None else t.to(device) for t in arrays))
    assert plan(uniform, bad, draws, None, None, sums).threshold.item() == 2
    assert plan(bad, uniform, draws, None, sums, None).threshold.item() == 2
    one, offsets, flat = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([[0, 2]], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    arrays = (one, one - 1, one - 1, bad[None], uniform[None], keys(1), offsets, flat, sums[None])
    assert ops.verify_tree_transport(*(t.to(device) for t in arrays)).next_token.item() == -1


def test_wrong_arguments():
    law, draws = torch.ones(1, 3) / 3, torch.ones(1, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"p_lse has shape \[1, 1\], expected \[1\]"):
        ops.transport_plan(law, law, draws, p_lse=torch.zeros(1, 1))
    with pytest.raises(TypeError, match="q_lse has dtype torch.float64, expected torch.float32"):
        ops.transport_plan(law, law, draws, q_lse=torch.zeros(1).double())
    with pytest.raises(TypeError, match="q has dtype torch.float16, expected torch.float32 or torch.bfloat16"):
        ops.transport_plan(law, law.half(), draws)
    one = torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"draft_lse has shape \[1\], expected \[1, 1\]"):
        ops.verify_tree_transport(one, one - 1, one - 1, law[None], law[None], keys(1), torch.zeros(1, 2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), draft_lse=torch.zeros(1))
