import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference


def check(logits, scores, k, device):
    want_ids, want = reference.tree_expand(logits, scores, k)
    ids, children = ops.tree_expand(logits.to(device), scores.to(device), k)
    assert torch.equal(ids.cpu(), want_ids)
    torch.testing.assert_close(children.cpu(), want, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows, vocab, k", [(1, 1, 1), (1, 7, 3), (3, 64, 8), (5, 1000, 10), (2, 8191, 64), (9, 130, 64), (0, 20, 4)])
def test_equals_reference(impl, device, rows, vocab, k, dtype):
    torch.manual_seed(rows * 1000 + vocab)
    check((3 * torch.randn(rows, vocab)).to(dtype), torch.rand(rows), k, device)


def test_rows_may_lie_apart(impl, device):
    torch.manual_seed(0)
    check(torch.randn(4, 300)[:, :201], torch.rand(4), 5, device)


def test_among_equals_the_lowest_ids_come_first(impl, device):
    logits = torch.zeros(2, 200)
    logits[1, 150:] = 1.0
    ids, children = ops.tree_expand(logits.to(device), torch.ones(2).to(device), 4)
    assert ids.tolist() == [[0, 1, 2, 3], [150, 151, 152, 153]]
    assert children[0].tolist() == pytest.approx([1 / 200] * 4)


def test_tokens_without_probability_are_no_children(impl, device):
    inf = torch.inf
    logits = torch.full((5, 100), -inf)
    logits[0, [3, 70]] = torch.tensor([0.0, 1.0])
    logits[1] = 0.0
    logits[1, 5] = torch.nan
    logits[2, 9] = inf
    logits[4, 99] = -80000.0
    ids, children = ops.tree_expand(logits.to(device), torch.full((5,), 0.5).to(device), 3)
    assert ids.tolist() == [[70, 3, -1], [-1] * 3, [-1] * 3, [-1] * 3, [99, -1, -1]]
    assert children[0].tolist() == pytest.approx([0.5 * 0.7310586, 0.5 * 0.2689414, 0])
    assert children[1:4].abs().sum() == 0 and children[4].tolist() == [0.5, 0, 0]


def test_wrong_arguments_are_named():
    logits, scores = torch.zeros(2, 5), torch.ones(2)
    with pytest.raises(ValueError, match="k=0 must be"):
        ops.tree_expand(logits, scores, 0)
    with pytest.raises(ValueError, match=r"scores has shape \[1\]"):
        ops.tree_expand(logits, scores[:1], 2)
    with pytest.raises(TypeError, match="logits has dtype torch.int32"):
        ops.tree_expand(logits.int(), scores, 2)
    with pytest.raises(ValueError, match="no columns"):
        ops.tree_expand(logits[:, :0], scores, 2)
