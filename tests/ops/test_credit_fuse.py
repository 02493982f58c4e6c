import pytest
import torch

from fastdecode import ops
from fastdecode.ops import VocabStats, reference

SETTINGS = {"alpha": 0.7, "gamma": 0.2, "beta": 0.8}


def inputs(rows: int, slots: int, vocab: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * 2
    ids = torch.stack([torch.randperm(vocab, generator=generator)[:slots] for _ in range(rows)]).int() if rows else torch.empty(0, slots, dtype=torch.int32)
    ids = ids.masked_fill(torch.rand(rows, slots, generator=generator) < 0.4, -1)
    values = torch.rand(rows, slots, generator=generator).masked_fill(ids < 0, 0.0)
    values = torch.where(torch.rand(rows, slots, generator=generator) < 0.1, 1e-7, values)  # about to be forgotten
    return logits, ids, values


@pytest.mark.parametrize("rows, slots, vocab", [(1, 1, 5), (7, 4, 30), (40, 16, 50), (0, 3, 9)])
def test_equals_reference(impl, device, rows, slots, vocab):
    logits, ids, values = inputs(rows, slots, vocab, rows)
    stats = VocabStats(*reference.vocab_stats(logits, ids))
    want_ids, want_values, want = ids.clone(), values.clone(), (torch.empty(rows, 16), torch.empty(rows, 2, dtype=torch.int32))
    reference.credit_fuse(stats, want_ids, want_values, *SETTINGS.values(), *want)
    got_ids, got_values = ids.clone().to(device), values.clone().to(device)
    got = ops.credit_fuse(VocabStats(*(t.to(device) for t in stats)), got_ids, got_values, **SETTINGS)
    assert torch.equal(got_ids.cpu(), want_ids) and torch.equal(got.ints.cpu(), want[1])
    torch.testing.assert_close(got_values.cpu(), want_values, rtol=3e-7, atol=0)
    torch.testing.assert_close(got.floats.cpu(), want[0], rtol=3e-7, atol=1e-6)


def test_the_correction_is_that_of_changed_logits(impl, device):
    logits, ids, values = inputs(20, 6, 40, 3)
    stats = ops.vocab_stats(logits.to(device), ids=ids.to(device))
    ids, values = ids.to(device), values.to(device)
    fused = ops.credit_fuse(stats, ids, values, **SETTINGS)
    dense = torch.zeros(20, 40, dtype=torch.float64)
    for r in range(20):
        for token, value in zip(ids[r].tolist(), values[r].tolist()):
            dense[r, max(token, 0)] += value if token >= 0 else 0.0
    changed = logits.double() + 0.7 * dense.log1p()
    assert torch.equal(fused.argmax.cpu().long(), changed.argmax(-1))
    torch.testing.assert_close(fused.logsumexp.cpu().double(), changed.logsumexp(-1), rtol=0, atol=2e-6)


def test_wrong_arguments_are_named():
    logits, ids, values = inputs(3, 2, 9, 0)
    with pytest.raises(ValueError, match="stats has no logits of ids"):
        ops.credit_fuse(ops.vocab_stats(logits), ids, values, **SETTINGS)
    stats = ops.vocab_stats(logits, ids=ids)
    with pytest.raises(ValueError, match=r"values has shape \[3, 1\]"):
        ops.credit_fuse(stats, ids, values[:, :1].contiguous(), **SETTINGS)
    with pytest.raises(TypeError, match="ids has dtype torch.int64"):
        ops.credit_fuse(stats, ids.long(), values, **SETTINGS)
