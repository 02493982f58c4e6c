import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("batch, heads, count, dim", [(1, 1, 1, 1), (3, 2, 9, 64), (2, 3, 17, 5), (0, 2, 4, 8), (2, 2, 0, 8)])
def test_equals_reference(impl, device, dtype, batch, heads, count, dim):
    generator = torch.Generator().manual_seed(count)
    states = torch.randn(batch, count, heads, dim, generator=generator).mul(40).to(dtype).transpose(1, 2)  # strided, as models make them
    buffer = torch.randn(batch + 2, heads, 24, dim, generator=generator).mul(40).to(dtype)
    rows = torch.randperm(batch + 2, generator=generator)[:batch]
    positions = torch.stack([torch.randperm(24, generator=generator)[:count] for _ in range(batch)]) if batch else torch.empty(0, count, dtype=torch.long)
    want, got = buffer.clone(), buffer.clone().to(device)
    reference.kv_write(states, want, rows, positions)
    ops.kv_write(states.to(device), got, rows.to(device), positions.to(device))
    assert torch.equal(got.cpu(), want)


def test_wrong_arguments_are_named():
    states, buffer, rows, positions = torch.zeros(1, 2, 3, 4), torch.zeros(2, 2, 8, 4), torch.tensor([1]), torch.tensor([[0, 1, 2]])
    with pytest.raises(IndexError, match="rows of batch row 0 is 2"):
        ops.kv_write(states, buffer, torch.tensor([2]), positions)
    with pytest.raises(IndexError, match="positions of batch row 0 holds 8"):
        ops.kv_write(states, buffer, rows, torch.tensor([[0, 8, 2]]))
    with pytest.raises(ValueError, match="do not fit buffer"):
        ops.kv_write(states, buffer.double(), rows, positions)
    with pytest.raises(ValueError, match="states has strides"):
        ops.kv_write(torch.zeros(1, 2, 4, 3).transpose(2, 3), buffer, rows, positions)
    with pytest.raises(ValueError, match="buffer must be a tensor with four dimensions"):
        ops.kv_write(states, buffer[0], rows, positions)
    with pytest.raises(ValueError, match=r"positions has shape \[1, 2\]"):
        ops.kv_write(states, buffer, rows, positions[:, :2].contiguous())
