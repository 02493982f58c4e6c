import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference

as_int = lambda values: torch.tensor(values, dtype=torch.int32)


def random_paths(batch: int, nodes: int, seed: int):
    """Ascending node numbers from the root, padded with -1, and their count without the root."""
    generator = torch.Generator().manual_seed(seed)
    path, length = torch.full((batch, nodes), -1, dtype=torch.int32), torch.zeros(batch, dtype=torch.int32)
    for b in range(batch):
        kept = torch.nonzero(torch.rand(nodes - 1, generator=generator) < 0.5)[:, 0] + 1
        path[b, 0], length[b] = 0, len(kept)
        path[b, 1 : len(kept) + 1] = kept.int()
    return path, length


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize("batch, heads, nodes, dim", [(1, 1, 1, 1), (3, 2, 33, 64), (2, 3, 17, 5), (0, 2, 4, 8), (1, 3, 64, 96)])
def test_equals_reference(impl, device, dtype, batch, heads, nodes, dim):
    slots = nodes + 9
    buffers = [torch.randn(batch + 2, heads, slots, dim, generator=torch.Generator().manual_seed(i)).mul(50).to(dtype) for i in range(4)]
    path, length = random_paths(batch, nodes, seed=nodes)
    start, rows = torch.arange(batch, dtype=torch.int32) * 3 % 9, torch.arange(batch, dtype=torch.int32).flip(0) + 1
    want, got = [b.clone() for b in buffers], [b.clone().to(device) for b in buffers]
    reference.kv_compact(want, rows, path, length, start)
    ops.kv_compact(got, *(t.to(device) for t in (rows, path, length, start)))
    for w, g in zip(want, got):
        assert torch.equal(w, g.cpu())


def test_strided_buffers(impl, device):
    whole = torch.arange(2 * 5 * 3 * 4, dtype=torch.float32, device=device).reshape(2, 5, 3, 4)  # [rows, slots, heads, dim]
    buffer = whole.transpose(1, 2)
    before = buffer.clone()
    ops.kv_compact([buffer], *(as_int(v).to(device) for v in ([1], [[0, 2, 3]], [2], [1])))
    assert torch.equal(buffer[0], before[0])
    assert torch.equal(buffer[1, :, 2], before[1, :, 3]) and torch.equal(buffer[1, :, 3], before[1, :, 4])


def test_outside_the_buffers_is_an_error():
    buffer, path = torch.zeros(2, 1, 4, 2), as_int([[0, 2, -1]])
    for rows, accepted, start, message in ((2, 1, 0, "rows of batch row 0 is 2"), (0, 3, 0, "accept_len"), (0, 1, 2, r"lengths \+ path of batch row 0 is 4")):
        with pytest.raises(IndexError, match=message):
            ops.kv_compact([buffer], as_int([rows]), path, as_int([accepted]), as_int([start]))


def test_wrong_arguments_are_named():
    buffer, path, one = torch.zeros(1, 1, 4, 2), as_int([[0]]), as_int([0])
    with pytest.raises(ValueError, match="buffers is empty"):
        ops.kv_compact([], one, path, one, one)
    with pytest.raises(ValueError, match=r"buffers\[1\] has dtype torch.float64"):
        ops.kv_compact([buffer, buffer.double()], one, path, one, one)
    with pytest.raises(ValueError, match="last dimension must be contiguous"):
        ops.kv_compact([torch.zeros(1, 1, 2, 4).transpose(2, 3)], one, path, one, one)
    with pytest.raises(TypeError, match="lengths has dtype torch.int64"):
        ops.kv_compact([buffer], one, path, one, one.long())
