import math

import pytest
import torch

from fastdecode import _C, ops
from fastdecode.ops import TokenCredit, reference
from fastdecode.ops.reference.random import stream_uniform

# Floats agree with the double-precision reference within this bound (float32 sums over a block).
CLOSE = dict(rtol=2e-6, atol=4e-6, equal_nan=True)


def keys(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.stack([torch.full((rows,), seed), torch.arange(rows), torch.arange(rows) * 7 - 3, torch.zeros(rows, dtype=torch.long)], 1)


def check(logits, device, ids=None, banned=None, temperature=None, key=None, out=None):
    want = ops.VocabStats(*reference.vocab_stats(logits, ids, banned, temperature, key))
    to = lambda t: None if t is None else t.to(device)
    got = ops.vocab_stats(logits.to(device), ids=to(ids), banned=to(banned), temperature=to(temperature), key=to(key), out=out)
    got = ops.VocabStats(*(None if t is None else t.cpu() for t in got))
    assert torch.equal(got.ints, want.ints)
    assert torch.equal(got.second, want.second)
    torch.testing.assert_close(got.floats, want.floats, **CLOSE)
    if ids is not None:
        assert torch.equal(got.id_logits, want.id_logits)
    return got


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows, vocab", [(0, 5), (1, 1), (3, 2), (5, 17), (2, 2048), (3, 2049), (4, 5003), (2, 40001), (1, 131072)])
def test_equals_reference(impl, device, rows, vocab, dtype):
    generator = torch.Generator().manual_seed(vocab)
    logits = (3 * torch.randn(rows, vocab, generator=generator)).to(dtype)
    ids = torch.randint(-1, vocab, (rows, 5), generator=generator, dtype=torch.int32)
    banned = torch.randint(-1, vocab, (min(8, vocab - 1),), generator=generator, dtype=torch.int32)
    temperature = torch.tensor([0.7, 0.0, 1.0, 2.5, 0.05])[:rows]
    check(logits, device, ids, banned, temperature, keys(rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_may_lie_apart(impl, device, dtype):
    wide = torch.randn(7, 3000, generator=torch.Generator().manual_seed(1)).to(dtype)
    check(wide[1:6:2, 3:2900], device)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("temperature", [1e-3, 0.8, 1.0, 100.0])
def test_sample_from_flat_and_peaked_rows(impl, device, scale, temperature):
    rows, vocab = 4 if impl == "cuda-sim" else 40, 6001  # a simulated row costs as much as hundreds of real ones
    logits = scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(2)) + 100
    check(logits, device, temperature=torch.full((rows,), temperature), key=keys(rows, 5))


def test_a_bound_near_the_end_of_the_words_does_not_wrap(impl, device):
    # An early score far below the maximum allows nearly every high word; rounded up, such a bound once left 32 bits.
    first = torch.linspace(3.0, 3.4, 4 if impl == "cuda-sim" else 300)
    logits = torch.zeros(len(first), 3000)
    logits[:, 400] = first
    logits[:, 0] = 0.45
    check(logits, device, temperature=torch.ones(len(first)), key=keys(len(first), 3))


def test_ties_go_to_the_lowest_id(impl, device):
    logits = torch.zeros(1, 9000)
    logits[0, [4, 300, 5000]] = 2.0
    got = check(logits, device)
    assert got.argmax.tolist() == [4] and got.second.tolist() == [300] and got.sample.tolist() == [4]


@pytest.mark.parametrize("position", [0, 777, 2047, 2999])
def test_nan_anywhere_voids_the_row(impl, device, position):
    logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(position))
    logits[0, 5] = math.inf
    logits[0, position] = math.nan
    got = check(logits, device, temperature=torch.ones(2), key=keys(2))
    assert got.ints[0].tolist() == [-1, -1] and got.floats[0, [0, 1, 3, 4, 5]].isnan().all() and got.ints[1, 0] >= 0


def test_infinities(impl, device):
    inf = math.inf
    logits = torch.tensor([[0, inf, 1, inf], [-inf, -inf, -inf, -inf], [-inf, 3, -inf, -inf], [-inf, 1, 2, -inf]])
    got = check(logits, device, temperature=torch.ones(4), key=keys(4))
    assert got.argmax.tolist() == [1, -1, 1, 2] and got.second.tolist() == [3, -1, -1, 1]
    assert got.logsumexp[:2].tolist() == [inf, -inf] and got.entropy[:2].isnan().all()


def test_banned_ids_do_not_exist(impl, device):
    logits = torch.tensor([[5.0, 4.0, math.nan, 1.0]])
    ids = torch.tensor([[0, 1, 3, -1]], dtype=torch.int32)
    got = check(logits, device, ids, torch.tensor([2, 0, -1], dtype=torch.int32))
    assert got.argmax.tolist() == [1] and got.id_logits.tolist() == [[-math.inf, 4.0, 1.0, -math.inf]]
    everything = check(logits[:, :2], device, banned=torch.tensor([1, 0], dtype=torch.int32))
    assert everything.ints.tolist() == [[-1, -1]]


def some_credit(rows: int, slots: int, vocab: int, seed: int) -> TokenCredit:
    """Rows of logits get rows of a table one larger, in another order; some get none."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(vocab, generator=generator)[:slots] for _ in range(rows + 1)]).int()
    ids = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.4, -1)
    values = torch.rand(ids.shape, generator=generator)
    values = torch.where(torch.rand(ids.shape, generator=generator) < 0.1, 1e-7, values).masked_fill(ids < 0, 0.0)  # some are about to be forgotten
    chosen = torch.randperm(rows + 1, generator=generator)[:rows].masked_fill(torch.rand(rows, generator=generator) < 0.2, -1)
    rates = torch.tensor([0.7, 0.2, 0.8]).repeat(rows, 1) * torch.rand(rows, 3, generator=generator)
    return TokenCredit(chosen.int(), ids, values, rates)


@pytest.mark.parametrize("rows, slots, vocab", [(1, 1, 5), (7, 4, 30), (40, 16, 50), (0, 3, 9), (3, 64, 5003), (2, 16, 100001)])
def test_credit(impl, device, rows, slots, vocab):
    logits = 2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(rows))
    credit, banned = some_credit(rows, slots, vocab, vocab), torch.tensor([1], dtype=torch.int32)
    want_credit, got_credit = (TokenCredit(*(t.clone() for t in credit)) for _ in range(2))
    want = ops.VocabStats(*reference.vocab_stats(logits, banned=banned, credit=want_credit))
    got_credit = TokenCredit(*(t.to(device) for t in got_credit))
    got = ops.vocab_stats(logits.to(device), banned=banned.to(device), credit=got_credit)
    assert torch.equal(got.ints.cpu(), want.ints) and torch.equal(got_credit.ids.cpu(), want_credit.ids)
    torch.testing.assert_close(got_credit.values.cpu(), want_credit.values, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.floats.cpu(), want.floats, **CLOSE)
    plain, without = ops.vocab_stats(logits.to(device), banned=banned.to(device)), got.without_credit()
    assert torch.equal(without.ints, plain.ints)
    assert all(torch.equal(getattr(without, name), getattr(plain, name)) for name in ("top1", "top2", "second", "logsumexp", "sample_logit"))


def test_credit_without_a_bonus_changes_no_bit(impl, device):
    logits = 2 * torch.randn(9, 700, generator=torch.Generator().manual_seed(8))
    credit = TokenCredit(*(t.to(device) for t in some_credit(9, 8, 700, 1)))
    credit.rates[:, 0] = 0.0
    got, want = ops.vocab_stats(logits.to(device), credit=credit), ops.vocab_stats(logits.to(device))
    assert torch.equal(got.ints, want.ints) and torch.equal(got.floats[:, :6], want.floats[:, :6])


def test_credit_of_rows_without_finite_logits_stays(impl, device):
    inf = math.inf
    logits = torch.tensor([[0, inf, 1], [-inf, -inf, -inf], [math.nan, 1, 2]], device=device)
    credit = TokenCredit(torch.arange(3, dtype=torch.int32, device=device), torch.tensor([[1, -1]] * 3, dtype=torch.int32, device=device), torch.tensor([[0.5, 0.0]] * 3, device=device), torch.ones(3, 3, device=device))
    got = ops.vocab_stats(logits, credit=credit)
    assert got.ints.tolist() == [[1, 1], [-1, -1], [-1, -1]] and credit.values.tolist() == [[0.5, 0.0]] * 3 and credit.ids.tolist() == [[1, -1]] * 3


def test_sample_follows_the_softmax(impl, device):
    rows = {"reference": 4000, "cuda-sim": 2000}.get(impl, 20000)
    logits = torch.tensor([1.0, 0.0, -math.inf, 2.0, -1.0])
    temperature = torch.full((rows,), 1.5)
    sample = ops.vocab_stats(logits.expand(rows, 5).contiguous().to(device), temperature=temperature.to(device), key=keys(rows, 9).to(device)).sample
    observed, expected = torch.bincount(sample.cpu(), minlength=5), rows * (logits / 1.5).softmax(0)
    assert observed[2] == 0
    keep = expected > 0
    assert ((observed - expected)[keep] ** 2 / expected[keep]).sum() < 21.1  # chi-square, 3 degrees of freedom, p = 1e-4


def test_results_do_not_depend_on_threads_or_batch(impl, device):
    if impl in ("reference", "cuda"):
        pytest.skip("concerns the compiled CPU kernels")
    logits = torch.randn(3, 100003, generator=torch.Generator().manual_seed(3))
    arguments = dict(temperature=torch.ones(3), key=keys(3))
    together = ops.vocab_stats(logits, **arguments)
    before = _C.num_threads()
    try:
        for threads in (1, 4):
            _C.set_num_threads(threads)
            for r in range(3):
                alone = ops.vocab_stats(logits[r : r + 1], **{k: v[r : r + 1] for k, v in arguments.items()})
                assert torch.equal(alone.floats[0], together.floats[r]) and torch.equal(alone.ints[0], together.ints[r])
    finally:
        _C.set_num_threads(before)


def test_out_is_overwritten(impl, device):
    logits = torch.randn(4, 1000)
    out = ops.VocabStats.empty(4, 2, device)
    got = ops.vocab_stats(logits.to(device), ids=torch.zeros(4, 2, dtype=torch.int32, device=device), out=out)
    assert got is out and torch.equal(out.argmax.cpu().long(), logits.argmax(1))


def test_uniform_stream():
    # Philox4x32-10 known answer (Random123 test vectors): zero counter and key.
    from fastdecode.ops.reference.random import philox4x32

    zero = torch.zeros(1, dtype=torch.long)
    assert [int(w) for w in philox4x32([zero] * 4, zero, zero)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    u = stream_uniform(keys(2), 50001)
    assert u.shape == (2, 50001) and 0 < u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 0.005


def test_wrong_arguments_are_named():
    good = torch.zeros(2, 8)
    with pytest.raises(TypeError, match="logits has dtype torch.float64"):
        ops.vocab_stats(good.double())
    with pytest.raises(ValueError, match="last dimension must be contiguous"):
        ops.vocab_stats(torch.zeros(8, 2).t())
    with pytest.raises(ValueError, match="key is None"):
        ops.vocab_stats(good, temperature=torch.ones(2))
    with pytest.raises(ValueError, match="at most 64"):
        ops.vocab_stats(good, ids=torch.zeros(2, 65, dtype=torch.int32))
    with pytest.raises(ValueError, match="at most 8"):
        ops.vocab_stats(good, banned=torch.zeros(9, dtype=torch.int32))
    credit = some_credit(2, 4, 8, 0)
    with pytest.raises(ValueError, match="credit is given and temperature too"):
        ops.vocab_stats(good, credit=credit, temperature=torch.ones(2), key=keys(2))
    with pytest.raises(ValueError, match=r"credit.values has shape \[3, 1\]"):
        ops.vocab_stats(good, credit=credit._replace(values=torch.zeros(3, 1)))
    with pytest.raises(TypeError, match="credit.ids has dtype torch.int64"):
        ops.vocab_stats(good, credit=credit._replace(ids=credit.ids.long()))
    with pytest.raises(ValueError, match="all rows that credit.rows names"):
        ops.vocab_stats(good, credit=credit._replace(rows=torch.tensor([0, 3], dtype=torch.int32)))
    with pytest.raises(ValueError, match=r"out.ints has shape \[3, 2\]"):
        ops.vocab_stats(good, out=ops.VocabStats.empty(2)._replace(ints=torch.zeros(3, 2, dtype=torch.int32)))
