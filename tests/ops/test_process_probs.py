import math

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fastdecode import _C, ops
from fastdecode.ops import reference

# Float32 exponentials against the double-precision reference. A token whose cumulative mass equals top_p to within rounding
# may fall on either side: its own probability is then below atol, or the case is chosen without such a token.
CLOSE = dict(rtol=2e-5, atol=3e-6, equal_nan=True)


def random_logits(rows, vocab, scale=3.0, dtype=torch.float32):
    return (scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab))).to(dtype)


def full(rows, value, dtype=torch.float32):
    return torch.full((rows,), value, dtype=dtype)


def check(logits, device, **arguments):
    want = reference.process_probs(logits, **arguments)
    got = ops.process_probs(logits.to(device), **{k: v.to(device) for k, v in arguments.items()}).cpu()
    torch.testing.assert_close(got, want, **CLOSE)
    return got


def prefixes(rows, vocab, length=40):
    generator = torch.Generator().manual_seed(rows)
    prefix = torch.randint(-1, min(vocab, 60), (rows * length,), generator=generator, dtype=torch.int32)
    return dict(prefix=prefix, prefix_offsets=torch.arange(rows + 1) * length, generated_from=torch.arange(rows, dtype=torch.int32) * 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows, vocab", [(0, 4), (2, 1), (3, 2), (4, 63), (4, 129), (6, 5003), (3, 40001)])
def test_everything_together(impl, device, rows, vocab, dtype):
    arguments = dict(
        temperature=torch.tensor([0.7, 0.0, 1.0, 1.9, 0.3, 1.0])[:rows],
        top_k=torch.tensor([50, 3, 0, 7, 1, 3000], dtype=torch.int32)[:rows],
        top_p=torch.tensor([0.9, 1.0, 0.5, 1.0, 0.2, 0.97])[:rows],
        min_p=torch.tensor([0.0, 0.1, 0.01, 0.0, 0.3, 0.001])[:rows],
        repetition_penalty=torch.tensor([1.3, 1.0, 0.8, 2.0, 1.1, 1.0])[:rows],
        presence_penalty=torch.tensor([0.0, 0.5, 0.3, 1.0, 0.0, 0.2])[:rows],
        frequency_penalty=torch.tensor([0.1, 0.0, -0.3, 0.2, 0.0, 0.5])[:rows],
    )
    check(random_logits(rows, vocab, dtype=dtype), device, **arguments, **prefixes(rows, vocab))


@pytest.mark.parametrize("top_p", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("scale", [0.3, 2.0, 20.0])
def test_top_p_alone(impl, device, top_p, scale):
    rows = 2 if impl == "cuda-sim" else 5  # a simulated row is slow
    got = check(random_logits(rows, 20011, scale), device, top_p=full(rows, top_p))
    torch.testing.assert_close(got.sum(1), torch.ones(rows), rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [1, 2, 50, 312, 313, 314, 5000, 20010, 20011, 30000])
def test_top_k_alone(impl, device, k):
    rows = 1 if impl == "cuda-sim" else 3
    check(random_logits(rows, 20011), device, top_k=full(rows, k, torch.int32))


@pytest.mark.parametrize("min_p", [0.02, 0.5, 1.0])
def test_min_p_alone(impl, device, min_p):
    check(random_logits(3, 5000), device, min_p=full(3, min_p), temperature=full(3, 0.8))


def transformers_probs(logits, ids, warpers):
    for warper in warpers:
        logits = warper(ids, logits)
    return logits.softmax(1)


@pytest.mark.parametrize(
    "arguments, warpers",
    [
        (dict(temperature=0.7), [TemperatureLogitsWarper(0.7)]),
        (dict(top_k=50), [TopKLogitsWarper(50)]),
        (dict(top_p=0.9), [TopPLogitsWarper(0.9)]),
        (dict(min_p=0.05), [MinPLogitsWarper(0.05)]),
        (dict(repetition_penalty=1.3), [RepetitionPenaltyLogitsProcessor(1.3)]),
        (
            dict(repetition_penalty=1.2, temperature=1.4, top_k=200, top_p=0.8, min_p=0.02),
            [RepetitionPenaltyLogitsProcessor(1.2), TemperatureLogitsWarper(1.4), TopKLogitsWarper(200), TopPLogitsWarper(0.8), MinPLogitsWarper(0.02)],
        ),
    ],
)
def test_equals_transformers(impl, device, arguments, warpers):
    rows, vocab = 4, 9001
    logits = random_logits(rows, vocab)
    ids = torch.randint(0, vocab, (rows, 300), generator=torch.Generator().manual_seed(0))
    want = transformers_probs(logits.clone(), ids, warpers)
    tensors = {k: full(rows, v, torch.int32 if k == "top_k" else torch.float32).to(device) for k, v in arguments.items()}
    if "repetition_penalty" in arguments:
        tensors |= dict(prefix=ids.flatten().int().to(device), prefix_offsets=(torch.arange(rows + 1) * 300).to(device))
    torch.testing.assert_close(ops.process_probs(logits.to(device), **tensors).cpu(), want, **CLOSE)


def test_ties(impl, device):
    logits = torch.zeros(1, 1000)
    logits[0, 10:20] = 1.0
    kept = lambda **a: ops.process_probs(logits.to(device), **{k: v.to(device) for k, v in a.items()}).cpu()[0].nonzero().flatten().tolist()
    assert kept(top_k=full(1, 3, torch.int32)) == list(range(10, 20))  # every score equal to the third
    assert kept(top_k=full(1, 3, torch.int32), top_p=full(1, 0.25)) == [10, 11, 12]  # 0.25 of ten equal tokens
    assert kept(temperature=full(1, 0.0)) == [10]
    signed_zeros = torch.tensor([[-0.0, 0.0, -1.0, -0.0]])
    assert check(signed_zeros, device, top_k=full(1, 2, torch.int32))[0].nonzero().flatten().tolist() == [0, 1, 3]


def test_many_equal_tokens(impl, device):
    got = check(torch.zeros(2, 70001), device, top_p=full(2, 0.5))
    assert got[0].nonzero().flatten().tolist() == list(range(35001))


def test_nan_and_infinities(impl, device):
    inf, nan = math.inf, math.nan
    logits = torch.tensor([[1, nan, 0, 2.0], [-inf, -inf, -inf, -inf], [1, inf, 0, 0], [-inf, 1, -inf, 1], [0, -inf, inf, 1]])
    temperature = torch.tensor([1.0, 1, 1, 1, 0])
    for extra in ({}, dict(top_p=full(5, 0.9)), dict(top_k=full(5, 2, torch.int32)), dict(min_p=full(5, 0.1))):
        got = check(logits, device, temperature=temperature, **extra)
        assert got[:3].isnan().all() and got[3].tolist() == [0, 0.5, 0, 0.5] and got[4].tolist() == [0, 0, 1, 0]


def test_far_below_the_maximum_is_zero(impl, device):
    got = check(torch.tensor([[0.0, -200.0, -1e30, -1.0]]), device)
    assert got[0, 1:3].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_may_lie_apart_and_out_is_used(impl, device, dtype):
    logits = random_logits(6, 700, dtype=dtype).to(device)[::2, 1:642]
    out = torch.full((3, 641), 7.0, device=device)
    got = ops.process_probs(logits, top_p=full(3, 0.8).to(device), out=out)
    assert got is out
    torch.testing.assert_close(out.cpu(), reference.process_probs(logits.cpu(), top_p=full(3, 0.8)), **CLOSE)


def test_results_do_not_depend_on_threads_or_batch(impl, device):
    if impl in ("reference", "cuda"):
        pytest.skip("concerns the compiled CPU kernels")
    logits, arguments = random_logits(5, 9001), dict(top_p=full(5, 0.9), temperature=full(5, 0.9))
    together = ops.process_probs(logits, **arguments)
    before = _C.num_threads()
    try:
        for threads in (1, 4):
            _C.set_num_threads(threads)
            assert torch.equal(ops.process_probs(logits, **arguments), together)
            assert torch.equal(ops.process_probs(logits[2:3], **{k: v[2:3] for k, v in arguments.items()}), together[2:3])
    finally:
        _C.set_num_threads(before)


def test_wrong_arguments_are_named():
    good = torch.zeros(2, 8)
    with pytest.raises(TypeError, match="top_k has dtype torch.int64"):
        ops.process_probs(good, top_k=torch.ones(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"temperature has shape \[3\]"):
        ops.process_probs(good, temperature=torch.ones(3))
    with pytest.raises(ValueError, match="prefix is None"):
        ops.process_probs(good, repetition_penalty=torch.ones(2))
    with pytest.raises(ValueError, match="prefix_offsets is"):
        ops.process_probs(good, prefix=torch.zeros(3, dtype=torch.int32), prefix_offsets=torch.tensor([0, 5, 3]))
