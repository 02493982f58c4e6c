import numpy as np
import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference
from fastdecode.ops.unmask_commit import MASKED

as_int = lambda values: torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("batch, length", [(0, 5), (1, 1), (3, 31), (4, 32), (5, 97)])
@pytest.mark.parametrize("shift", [0, 1])
def test_equals_reference(impl, device, batch, length, shift):
    generator = np.random.default_rng(length)
    changed = torch.from_numpy(generator.choice([-1, 0, 3, 7, MASKED], (batch, length))).int()
    low = torch.from_numpy(generator.integers(0, length + 1, batch)).int()
    high = torch.maximum(low, torch.from_numpy(generator.integers(0, length + 1, batch)).int())
    for since in (-2, -1, 3, 7, MASKED):
        arguments = (changed, low, high, torch.full((batch,), since, dtype=torch.int32))
        want, count = torch.full_like(changed, -9), torch.empty_like(low)
        reference.active_set(*arguments, shift, want, count)
        got, found = ops.active_set(*(t.to(device) for t in arguments), shift)
        assert torch.equal(found.cpu(), count)
        for b in range(batch):
            assert torch.equal(got[b, : count[b]].cpu(), want[b, : count[b]])
            if since == -2:
                assert got[b, : count[b]].tolist() == list(range(low[b], high[b]))


def test_left_neighbours_stay_inside_the_window(impl, device):
    changed = as_int([[MASKED, -1, MASKED, -1, -1, MASKED]]).to(device)
    positions, count = ops.active_set(changed, *(as_int([v]).to(device) for v in (2, 5, 0)), 1)
    assert positions[0, : count[0]].tolist() == [2]
    positions, count = ops.active_set(changed, *(as_int([v]).to(device) for v in (0, 6, 0)), 1)
    assert positions[0, : count[0]].tolist() == [0, 1, 2, 4, 5]


def test_wrong_arguments_are_named():
    changed, one = torch.zeros(1, 4, dtype=torch.int32), as_int([1])
    with pytest.raises(IndexError, match="window 1 .. 9 of row 0"):
        ops.active_set(changed, one, as_int([9]), one)
    with pytest.raises(IndexError, match="window 3 .. 1 of row 0"):
        ops.active_set(changed, as_int([3]), one, one)
    with pytest.raises(ValueError, match="shift=2"):
        ops.active_set(changed, one, one, one, 2)
    with pytest.raises(TypeError, match="low has dtype torch.int64"):
        ops.active_set(changed, one.long(), one, one)
