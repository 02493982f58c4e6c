import pytest
import torch

from fastdecode import ops
from fastdecode.ops import VocabStats, reference

as_int = lambda values: torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("counts", [[0], [], [1], [7, 0, 40], [33] * 5])
def test_equals_reference(impl, device, counts):
    generator = torch.Generator().manual_seed(len(counts))
    rows, batch = sum(counts), len(counts)
    stats = VocabStats(*reference.vocab_stats(torch.randn(rows, 12, generator=generator) * 2)) if rows else VocabStats.empty(0)
    begin = as_int([0, *torch.tensor(counts).cumsum(0).tolist()])
    position = torch.cat([torch.arange(n) + 5 * i for i, n in enumerate(counts)] or [torch.empty(0)]).int()
    start = as_int([5 * i + i % 3 for i in range(batch)])
    reach, remaining = as_int([n // 2 + 1 for n in counts]), as_int([max(1, n) for n in counts])
    arguments = (begin, position, start, reach, remaining)
    for bar in (0.0, 0.3, 0.9, float("inf")):
        options = {"delimiters": as_int([1, 4, 7]), "bar": bar, "default": 6}
        want = torch.empty(batch, dtype=torch.int32)
        reference.adaptive_block_size(stats, *arguments, *options.values(), want)
        moved = VocabStats(stats.floats.to(device), stats.ints.to(device))
        got = ops.adaptive_block_size(moved, *(t.to(device) for t in arguments), **{**options, "delimiters": options["delimiters"].to(device)})
        assert torch.equal(got.cpu(), want)


def test_wrong_arguments_are_named():
    stats, one = VocabStats.empty(1), as_int([1])
    with pytest.raises(ValueError, match="default=0"):
        ops.adaptive_block_size(stats, as_int([0, 1]), one, one, one, one, delimiters=one, bar=0.3, default=0)
    with pytest.raises(ValueError, match=r"begin has shape \[1\], expected \[2\]"):
        ops.adaptive_block_size(stats, one, one, one, one, one, delimiters=one, bar=0.3, default=4)
