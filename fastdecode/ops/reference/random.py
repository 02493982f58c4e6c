"""The random streams of csrc/include/fastdecode/philox.cuh in torch; 32-bit words are held in int64."""

import torch

WORD = 0xFFFFFFFF


def multiply_wide(factor: int, word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of factor * word, through 16-bit halves because int64 cannot hold the product."""
    low_half, high_half = factor * (word & 0xFFFF), factor * (word >> 16)
    return (high_half + (low_half >> 16)) >> 16, ((high_half << 16) + low_half) & WORD


def philox4x32(counter: list[torch.Tensor], key0: torch.Tensor, key1: torch.Tensor) -> list[torch.Tensor]:
    """Philox4x32-10 (Salmon et al. 2011) on broadcastable word tensors."""
    for _ in range(10):
        high0, low0 = multiply_wide(0xD2511F53, counter[0])
        high1, low1 = multiply_wide(0xCD9E8D57, counter[2])
        counter = [high1 ^ counter[1] ^ key0, low1, high0 ^ counter[3] ^ key1, low0]
        key0, key1 = (key0 + 0x9E3779B9) & WORD, (key1 + 0xBB67AE85) & WORD
    return counter


def make_stream(key: torch.Tensor) -> list[torch.Tensor]:
    """Four stream words [R] (two of the key, two of the counter) of int64 keys [R, 4]."""
    low, high = (key & WORD).unbind(1), ((key >> 32) & WORD).unbind(1)
    a = philox4x32([low[1], high[1], low[2], high[2]], low[0], high[0])
    return philox4x32([a[0], a[1], low[3], high[3]], a[2], a[3])


def stream_uniform(key: torch.Tensor, count: int) -> torch.Tensor:
    """Numbers 0..count-1 of each key's stream: float64 [R, count] in (0, 1)."""
    stream = [w[:, None] for w in make_stream(key)]
    group = torch.arange((count + 3) // 4, device=key.device)[None]
    planes = []
    for plane in (0, 1):
        words = philox4x32([group, torch.full_like(group, plane), stream[2], stream[3]], stream[0], stream[1])
        planes.append(torch.stack(words, -1).flatten(1)[:, :count].double())
    return (planes[0] * 2.0**-32 + (planes[1] + 0.5) * 2.0**-64).clamp(max=1 - 2.0**-53)
