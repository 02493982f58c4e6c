"""Score-swap: plans are exact by their own algebra, every implementation equals the reference, the tokens have the target's law."""

import numpy as np
import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference
from fastdecode.ops.reference import transport
from tests.laws import assert_follows, keys, random_laws
from tests.trees import links, random_trees


def single(p, q, n, weight=1.0) -> transport.Plan:
    return transport.plan(np.asarray(p, np.float32), np.asarray(q, np.float32), n, weight)


def swap_law(plan: transport.Plan, mass: np.ndarray) -> np.ndarray:
    """[K, K]: chance that a draft in knot J takes its score from the interval of knot i; from the plan's sums alone."""
    size = len(mass)
    kernel = np.eye(size)
    needs, gives = np.diff(plan.need, prepend=0), np.diff(plan.give, prepend=0)
    for y in np.flatnonzero(needs > 0):
        for z in np.flatnonzero(gives > 0):
            overlap = min(plan.need[y], plan.give[z]) - max(plan.need[y] - needs[y], plan.give[z] - gives[z])
            if overlap <= 0:
                continue
            for a, b, step in ((y, z, needs[y]), (z, y, gives[z])):
                moved = overlap / step * (plan.rate[a] - plan.base[a]) / (plan.base[b] - plan.base[a])
                kernel[a, b] += moved
                kernel[a, a] -= moved
    return kernel


def check_plan(plan: transport.Plan, mass: np.ndarray, n: int) -> np.ndarray:
    """The lemmas; returns the kept mass per draft mass of every knot."""
    kernel = swap_law(plan, mass)
    # Where the sums of needs and gives touch, rounding may match neighbours the wrong way round: 1e-16 of kept mass, divided by
    # the difference of their bases.
    assert (mass[:, None] * kernel >= -1e-11).all() and np.allclose(kernel.sum(1), 1, atol=1e-12)
    assert np.allclose(mass @ kernel, mass, atol=1e-12)  # scores stay uniform
    assert (plan.need - plan.give >= -1e-14).all() and abs(plan.need[-1] - plan.give[-1]) < 1e-12
    kept = kernel @ plan.base
    used = mass > 0
    assert np.allclose((mass * kept)[used], (mass * plan.rate)[used], atol=1e-12)
    assert (mass * kept).sum() == pytest.approx(plan.alpha, abs=1e-12)
    assert (plan.rate[mass > 1e-9] <= n * (1 + 1e-6)).all()
    return kept


@pytest.mark.parametrize("p, q, threshold, cap, kept", [
    ((0.1, 0.3, 0.6), (0.5, 0.3, 0.2), 0.489897949, 1.8, (0.1, 0.3, 0.36)),
    ((0.05, 0.2, 0.15, 0.25, 0.35), (0.4, 0.3, 0.1, 0.15, 0.05), 0.502493781, 1.95, (0.05, 0.2, 0.15, 0.25, 0.0975)),
])  # fmt: skip
def test_worked_plan_with_every_token_a_knot(p, q, threshold, cap, kept):
    p, q = np.array(p), np.array(q)
    plan = transport.plan_knots(q, q.cumsum(), p / q, 2, 1.0)
    assert (plan.threshold, plan.cap) == pytest.approx((threshold, cap), abs=1e-9)
    assert np.allclose(q * check_plan(plan, q, 2), kept, atol=1e-12)
    if len(p) == 3:
        assert np.allclose(plan.base, (0.02, 1.3, 1.8), atol=1e-12)
        assert np.allclose(swap_law(plan, q), [[0.859375, 0.140625, 0], [0.234375, 0.765625, 0], [0, 0, 1]], atol=1e-12)


def pairs(count: int):
    for seed in range(count):
        generator = np.random.default_rng(seed)
        vocab = int(generator.integers(1, 30))
        q = generator.dirichlet(np.full(vocab, generator.choice([0.2, 1.0, 8.0])))
        p = generator.dirichlet(np.full(vocab, generator.choice([0.2, 1.0, 8.0])))
        if seed % 6 == 1:
            p = q[::-1].copy()
        elif seed % 6 == 2:
            p = q.copy()
        elif seed % 6 == 3:
            p = np.eye(vocab)[generator.integers(vocab)]
        elif seed % 6 == 4 and vocab > 1:
            q[: vocab // 2] = 0
            q /= q.sum()
        yield p.astype(np.float32), q.astype(np.float32), int(generator.choice([1, 2, 3, 4, 7, 32, 64])), seed


def kept_and_left(p: np.ndarray, q: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """[V] each: the chance that a token is emitted as one of n drafts, and that it comes from what is left; by the plan's algebra."""
    plan = single(p, q, n)
    if plan.threshold > 1:
        return np.zeros(len(p)), p / p.sum(dtype=float)
    counts, where = transport.histogram(p, q), transport.split(p, q)
    kept_per_knot = check_plan(plan, counts.mass / counts.draft, n)
    upper = np.minimum(where.cell + 1, len(kept_per_knot) - 1)
    kept = q / q.sum(dtype=float) * ((1 - where.share) * kept_per_knot[where.cell] + where.share * kept_per_knot[upper])
    residual = np.maximum(p.astype(float) - q.astype(float) * transport.kept_ratio(where.ratio, plan.cap), 0)
    return kept, (1 - plan.alpha) * residual / residual.sum() if plan.alpha < 1 else np.zeros(len(p))


def test_kept_and_residual_mass_make_up_the_target():
    for p, q, n, seed in pairs(250):
        law, draft = p / p.sum(dtype=float), q / q.sum(dtype=float)
        kept, left = kept_and_left(p, q, n)
        assert (kept <= law + 1e-12).all(), seed
        assert np.allclose(kept + left, law, atol=1e-12), seed
        plan, where = single(p, q, n), transport.split(p, q)
        best = ops.transport_alpha(torch.from_numpy(p), torch.from_numpy(q), n)
        cells = np.bincount(where.cell, draft, len(transport.RATIOS))
        widths = np.diff(transport.RATIOS, append=transport.RATIOS[-1])
        assert -1e-9 <= best - plan.alpha <= (cells * widths).max() / 4 + 1e-6, seed


def test_a_part_of_the_target():
    """A node of weight w emits w p: what is kept stays below it, and the rate is the optimum for the scaled row."""
    for p, q, n, seed in pairs(60):
        for weight in (0.9, 0.3, 1e-3):
            plan = single(p, q, n, weight)
            counts = transport.histogram(p, q)
            check_plan(plan, counts.mass / counts.draft, n)
            assert plan.alpha <= weight + 1e-12
            if n == 1:
                assert plan.alpha == pytest.approx(np.minimum(weight * p / p.sum(dtype=float), q / q.sum(dtype=float)).sum(), abs=2e-3)


def test_loss_on_large_laws_is_small():
    for n in (2, 4, 16):
        p, q = random_laws(2, 32000, seed=3, sharpness=2.5), random_laws(2, 32000, seed=4, sharpness=2.5)
        p = 0.5 * p + 0.5 * q
        rate = ops.transport_plan(p, q, torch.full((2,), n, dtype=torch.int32)).alpha
        assert ((ops.transport_alpha(p, q, n) - rate).abs() < 5e-5).all()


@pytest.mark.parametrize("rows, vocab", [(0, 7), (1, 1), (3, 2), (4, 15), (4, 16), (3, 33), (2, 1003), (2, 40001)])
@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_plans_equal_the_reference(impl, device, rows, vocab, zeros):
    p, q = random_laws(rows, vocab, seed=vocab, zeros=zeros), random_laws(rows, vocab, seed=vocab + 1, zeros=zeros)
    draws = torch.tensor([1, 2, 5, 64], dtype=torch.int32)[:rows]
    weight = torch.tensor([1.0, 0.5, 1.0, 0.01], dtype=torch.float64)[:rows]
    for given in (None, weight):
        want = reference.transport_plan(p, q, draws, given)
        got = ops.transport_plan(*(None if t is None else t.to(device) for t in (p, q, draws, given)))
        for a, b in zip(want, got):
            torch.testing.assert_close(b.cpu(), a, rtol=1e-11, atol=1e-13)  # one libm or another


def test_plans_are_written_to_given_memory(impl, device):
    p, q = random_laws(3, 40, seed=1).to(device), random_laws(3, 40, seed=2).to(device)
    draws = torch.tensor([0, 2, 4], dtype=torch.int32, device=device)
    want = ops.transport_plan(p, q, draws)
    out = ops.TransportPlan(torch.full_like(want.head, -1), torch.full_like(want.knots, -1))
    got = ops.transport_plan(p, q, draws, out=out)
    for w, g, o in zip(want, got, out):
        assert torch.equal(w, g) and g.data_ptr() == o.data_ptr()
    with pytest.raises(ValueError, match=r"out.head has shape \[2, 3\], expected \[3, 3\]"):
        ops.transport_plan(p, q, draws, out=ops.TransportPlan(out.head[:2], out.knots))
    with pytest.raises(TypeError, match="out.knots has dtype torch.float32"):
        ops.transport_plan(p, q, draws, out=ops.TransportPlan(out.head, out.knots.float()))


def test_histograms_are_equal_bit_for_bit(impl, device):
    """The ends of the intervals are the fixed-point histogram; denormal masses and extreme ratios included."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(3, 5000, generator=generator).mul_(12).softmax(-1) for _ in range(2))
    q[0, 7] = p[0, 9] = 1e-42
    p[1, :2000] = 0
    q[2, 1000:3000] = 0
    q[2] /= q[2].sum()
    want = reference.transport_plan(p, q, torch.full((3,), 4, dtype=torch.int32), None)
    got = ops.transport_plan(p.to(device), q.to(device), torch.full((3,), 4, dtype=torch.int32, device=device))
    assert torch.equal(got.knots[:, 0].cpu(), want[1][:, 0])


def draws_of(tree, q: torch.Tensor, most: int, seed: int, padding: bool = False):
    """Offsets and ids of 0 ... `most` independent draws at every node; nodes with children draw those too, in first place."""
    batch, nodes, vocab = q.shape
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, most + 1, (batch, nodes), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.flatten().cumsum(0)])
    flat = torch.cat([torch.multinomial(q[b, i].double(), int(counts[b, i]), True, generator=generator) if counts[b, i] else torch.empty(0, dtype=torch.long) for b in range(batch) for i in range(nodes)] or [torch.empty(0, dtype=torch.long)])
    if padding and len(flat):
        flat[::5] = -1
    table = torch.stack([offsets[b * nodes : (b + 1) * nodes + 1] for b in range(batch)]) if batch else torch.zeros(0, nodes + 1, dtype=torch.long)
    return table.int().contiguous(), flat.int()


@pytest.mark.parametrize("batch, nodes, vocab", [(1, 1, 1), (20, 16, 5), (4, 6, 31), (4, 6, 64), (4, 6, 65), (4, 6, 193), (3, 12, 1030), (0, 3, 4)])
@pytest.mark.parametrize("zeros", [0.0, 0.6])
def test_equals_reference(impl, device, batch, nodes, vocab, zeros):
    tree = random_trees(batch, nodes, vocab=min(vocab, 6), seed=nodes)
    p, q = random_laws(batch, nodes, vocab, seed=nodes, zeros=zeros), random_laws(batch, nodes, vocab, seed=nodes + 1, zeros=zeros)
    offsets, flat = draws_of(tree, q, 5, seed=1, padding=vocab == 5)
    arrays = (tree.tokens, tree.first_child, tree.next_sibling, p, q, keys(batch, seed=nodes), offsets, flat)
    want = reference.verify_tree_transport(*arrays)
    got = ops.verify_tree_transport(*(t.to(device) for t in arrays))
    for w, g in zip(want, got):
        assert torch.equal(w, g.cpu())


def test_the_order_of_siblings_changes_nothing(impl, device):
    tree = random_trees(20, 16, vocab=5, seed=3)
    p, q = random_laws(20, 16, 5, seed=3), random_laws(20, 16, 5, seed=4)
    offsets, flat = draws_of(tree, q, 5, seed=2)
    laws = [t.to(device) for t in (p, q, keys(20, seed=1), offsets, flat)]
    one, other = (ops.verify_tree_transport(tree.tokens.to(device), *(t.to(device) for t in order), *laws) for order in (links(tree.parents), links(tree.parents, descending=True)))
    assert all(torch.equal(a, b) for a, b in zip(one, other)) and one.accept_len.max() > 1


def roots(p: torch.Tensor, q: torch.Tensor, draws: torch.Tensor, seed: int = 0):
    """Verifies R single nodes with draws [R, n]; returns tokens and whether they are among the draws."""
    count, n = draws.shape
    one = torch.zeros(count, 1, dtype=torch.int32, device=p.device)
    offsets = torch.arange(count, dtype=torch.int32, device=p.device)[:, None] * n + torch.tensor([0, n], dtype=torch.int32, device=p.device)
    rows = lambda law: law.expand(count, 1, -1).contiguous()
    path = ops.verify_tree_transport(one, one - 1, one - 1, rows(p), rows(q), keys(count, seed).to(p.device), offsets.contiguous(), draws.int().flatten().contiguous())
    return path.next_token, (draws == path.next_token[:, None]).any(1)


@pytest.mark.parametrize("vocab, n, zeros", [(6, 1, 0.0), (6, 2, 0.0), (40, 3, 0.3), (40, 8, 0.0), (200, 32, 0.0)])
def test_tokens_have_the_law_of_the_target(impl, device, rows, vocab, n, zeros):
    p, q = random_laws(vocab, seed=vocab + n, zeros=zeros), random_laws(vocab, seed=n)
    count = rows(60_000)
    draws = torch.multinomial(q.double(), count * n, True, generator=torch.Generator().manual_seed(n)).reshape(count, n)
    tokens, kept = (t.cpu() for t in roots(p.to(device), q.to(device), draws.to(device)))
    assert_follows(tokens, p)
    alpha = single(p.numpy(), q.numpy(), n).alpha
    assert abs(float(kept.double().mean()) - alpha) < 5 * (alpha * (1 - alpha) / count) ** 0.5 + 1e-3


def test_a_random_number_of_draws_is_the_mixture(impl, device, rows):
    p, q = random_laws(40, seed=8), random_laws(40, seed=9)
    count, generator = rows(60_000), torch.Generator().manual_seed(3)
    sizes = torch.tensor([0, 1, 3])[torch.multinomial(torch.tensor([0.2, 0.5, 0.3]), count, True, generator=generator)]
    ends = sizes.cumsum(0)
    draws = torch.multinomial(q.double(), int(ends[-1]), True, generator=generator).int()
    offsets = torch.stack([ends - sizes, ends], 1).int()
    one = torch.zeros(count, 1, dtype=torch.int32)
    laws = [law.expand(count, 1, -1).contiguous() for law in (p, q)]
    path = ops.verify_tree_transport(*(t.to(device) for t in (one, one - 1, one - 1, *laws, keys(count), offsets, draws)))
    tokens = path.next_token.cpu()
    assert_follows(tokens, p)
    row_of = torch.repeat_interleave(torch.arange(count), sizes)
    kept = torch.zeros(count, dtype=torch.bool).index_put_((row_of[draws == tokens[row_of]],), torch.tensor(True))
    alpha = 0.5 * single(p.numpy(), q.numpy(), 1).alpha + 0.3 * single(p.numpy(), q.numpy(), 3).alpha
    assert abs(float(kept.double().mean()) - alpha) < 5 * (alpha * (1 - alpha) / count) ** 0.5 + 1e-3


def test_two_million_tokens():
    p, q = random_laws(60, seed=5), random_laws(60, seed=6)
    tokens = []
    for part in range(10):
        sums = q.double().cumsum(0)
        draws = torch.searchsorted(sums, torch.rand(200_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(part)) * sums[-1], right=True)
        tokens.append(roots(p, q, draws, seed=part)[0])
    tokens = torch.cat(tokens)
    assert_follows(tokens, p)
    distance = (torch.bincount(tokens.long(), minlength=60) / len(tokens) - p).abs().sum() / 2
    assert distance <= 0.5 * (60 / len(tokens)) ** 0.5 + 3 / len(tokens) ** 0.5


def test_deterministic_children_are_reached_through_the_residual(impl, device, rows):
    """The hybrid rule: two tokens are always in the tree, the others are drawn from the rest of the law."""
    p, q = random_laws(8, seed=1, sharpness=1.0), random_laws(8, seed=2, sharpness=1.0)
    fixed = q.topk(2).indices
    rest = q.clone()
    rest[fixed] = 0
    rest /= rest.sum()
    count = rows(60_000)
    draws = torch.multinomial(rest.double(), count * 3, True, generator=torch.Generator().manual_seed(0)).reshape(count, 3)
    tokens, kept = (t.cpu() for t in roots(p.to(device), rest.to(device), draws.to(device)))
    assert_follows(tokens, p)
    share = float((kept | (tokens[:, None] == fixed).any(1)).double().mean())
    best = ops.transport_alpha(p, q, 5, "hybrid:2")
    assert abs(share - best) < 5 * (best * (1 - best) / count) ** 0.5 + 1e-3


def test_joint_law_of_two_levels_with_pruned_drafts(impl, device, rows):
    """A tree that holds only the first of the root's draws, with draws of its own."""
    vocab, n, count = 4, 3, rows(60_000)
    laws = [random_laws(vocab, seed=s, sharpness=1.0) for s in range(2 + 2 * vocab)]
    p, q, p_after, q_after = laws[0], laws[1], torch.stack(laws[2 : 2 + vocab]), torch.stack(laws[2 + vocab :])
    generator = torch.Generator().manual_seed(3)
    top = torch.multinomial(q.double(), count * n, True, generator=generator).reshape(count, n)
    child = top[:, 0]
    below = torch.multinomial(q_after[child].double(), n, True, generator=generator)
    tokens = torch.stack([torch.zeros(count), child], 1).int()
    first, sibling = torch.tensor([[1, -1]]).expand(count, 2).int(), torch.full((count, 2), -1).int()
    probs, draft = torch.stack([p.expand(count, -1), p_after[child]], 1), torch.stack([q.expand(count, -1), q_after[child]], 1)
    offsets = (torch.arange(count)[:, None] * 2 * n + torch.tensor([0, n, 2 * n])).int()
    arrays = (tokens, first, sibling, probs, draft, keys(count), offsets, torch.cat([top, below], 1).int().flatten())
    path = ops.verify_tree_transport(*(t.contiguous().to(device) for t in arrays))
    length, following = path.accept_len.cpu(), path.next_token.cpu().long()
    second = torch.multinomial(p_after[following].double(), 1, generator=generator)[:, 0]  # plain decoding goes on
    pair = torch.where(length == 1, child * vocab + following, following * vocab + second)
    assert_follows(pair, (p[:, None] * p_after).flatten())


@pytest.mark.parametrize("spoil", [
    lambda p, q: q[0].fill_(torch.nan), lambda p, q: q[0].mul_(1.01), lambda p, q: q[0].zero_(), lambda p, q: q[0, :1].fill_(-0.1), lambda p, q: q[0, :1].fill_(torch.inf),
])  # fmt: skip
def test_draws_from_something_that_is_no_law_are_ignored(impl, device, rows, spoil):
    p, q = random_laws(1, 20, seed=1), random_laws(1, 20, seed=2)
    spoil(p, q)
    count = rows(20_000)
    tokens, _ = roots(p[0].to(device), q[0].to(device), torch.zeros(count, 3, dtype=torch.long, device=device))
    assert_follows(tokens.cpu(), p[0])


def test_bad_targets_and_degenerate_laws(impl, device):
    uniform, peak = torch.full((4,), 0.25), torch.tensor([0.0, 1.0, 0.0, 0.0])
    nan = torch.tensor([0.5, torch.nan, 0.25, 0.25])
    draws = torch.tensor([[1, 1, 2]])
    token = lambda p, q, d=draws: int(roots(p.to(device), q.to(device), d.to(device))[0])
    assert token(nan, uniform) == -1
    assert token(torch.zeros(4), uniform) == -1
    assert token(peak, uniform) == 1 and token(peak, uniform, torch.tensor([[0, 2, 3]])) == 1
    assert token(uniform, peak, torch.tensor([[1, 1, 1]])) in range(4)
    assert token(peak, peak, torch.tensor([[1]])) == 1
    assert token(torch.ones(1), torch.ones(1), torch.tensor([[0, 0]])) == 0
    assert token(uniform, uniform, torch.empty(1, 0, dtype=torch.long)) in range(4)
    for n in (1, 5):  # equal laws: every draft is kept
        d = torch.randint(0, 4, (500, n), generator=torch.Generator().manual_seed(n))
        assert roots(uniform.to(device), uniform.to(device), d.to(device))[1].all()


def test_padding_is_no_draw(impl, device):
    p, q = random_laws(30, seed=1).to(device), random_laws(30, seed=2).to(device)
    draws = torch.multinomial(q.cpu().double(), 200 * 3, True).reshape(200, 3).to(device)
    padded = torch.cat([torch.full_like(draws[:, :1], -1), draws, torch.full_like(draws[:, :1], 99)], 1)
    assert torch.equal(roots(p, q, draws)[0], roots(p, q, padded)[0])


def test_wrong_arguments():
    one, law, key = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1, 3) / 3, keys(1)
    offsets, flat = torch.zeros(1, 2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    with pytest.raises(ValueError, match="tokens has no nodes"):
        ops.verify_tree_transport(one[:, :0], one[:, :0], one[:, :0], law[:, :0], law[:, :0], key, offsets, flat)
    with pytest.raises(ValueError, match="draw_tokens is None"):
        ops.verify_tree_transport(one, one - 1, one - 1, law, law, key, offsets, None)
    with pytest.raises(ValueError, match=r"draft has shape \[1, 1, 2\], expected \[1, 1, 3\]; pass one with these sizes"):
        ops.verify_tree_transport(one, one - 1, one - 1, law, law[..., :2].contiguous(), key, offsets, flat)
    with pytest.raises(ValueError, match="draw_offsets spans 0 ... 5"):
        ops.verify_tree_transport(one, one - 1, one - 1, law, law, key, torch.tensor([[0, 5]], dtype=torch.int32), flat)
    counts = torch.ones(1, dtype=torch.int32)
    for p, message in ((law[0, 0], r"expected \[\*, \*\]; pass p\[None\]"), (law, r"; pass p\[0\]"), (law[None, None], "; pass one with 2 dimensions")):
        with pytest.raises(ValueError, match=message):
            ops.transport_plan(p, law[0], counts)
    with pytest.raises(TypeError, match="draws has dtype torch.int64"):
        ops.transport_plan(law[0], law[0], torch.ones(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"draws=\[-3\] must not be negative"):
        ops.transport_plan(law[0], law[0], torch.tensor([-3], dtype=torch.int32))
    for weight in (torch.nan, -1.0, 0.0, 1.5):
        with pytest.raises(ValueError, match="weight=.* must lie above 0"):
            ops.transport_plan(law[0], law[0], torch.ones(1, dtype=torch.int32), torch.tensor([weight], dtype=torch.float64))
