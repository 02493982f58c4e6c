"""The AMX products, on tile instructions where the machine has them and everywhere on emulated ones: the same source."""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

from fastdecode import _C

ROOT = Path(__file__).parents[2]
FLAGS = "-std=c++17 -O2 -shared -fPIC -ffp-contract=off -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vnni -mavx2 -mfma -mf16c -w".split()
TILES = {"emulated": ["-DFD_AMX_EMULATED"], "real": ["-mamx-tile", "-mamx-bf16", "-mamx-int8"]}
STORE, ADD, SILU, GELU = range(4)

pytestmark = pytest.mark.skipif(not dict(_C.cpu_features())["avx512_bf16"], reason="the vector part of the kernels needs AVX-512 BF16")


@pytest.fixture(scope="module", params=TILES)
def library(request, tmp_path_factory):
    if request.param == "real" and not dict(_C.cpu_features())["amx_bf16"]:
        pytest.skip("this machine has no AMX")
    path = tmp_path_factory.mktemp("amx") / "amx.so"
    csrc = ROOT / "csrc"
    subprocess.run(["g++", *FLAGS, *TILES[request.param], f"-I{csrc}", f"-I{csrc / 'include'}", str(Path(__file__).parent / "amx_gemm.cpp"), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def pack(weights: torch.Tensor) -> torch.Tensor:
    """[N, K] -> panels [N / 16, K / 2, 16, 2]."""
    n, k = weights.shape
    return weights.view(n // 16, 16, k // 2, 2).transpose(1, 2).contiguous()


def pack_bytes(weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """int8 [N, K] and float32 [N] -> panels of [K / 4, 16, 4] bytes (128 added) and 16 scales."""
    n, k = weights.shape
    packed = (weights.int() + 128).to(torch.uint8).view(n // 16, 16, k // 4, 4).transpose(1, 2).reshape(n // 16, 16 * k)
    return torch.cat([packed, scales.view(n // 16, 16).view(torch.uint8)], 1).contiguous()


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def width(tensor: torch.Tensor | None) -> ctypes.c_int64:
    return ctypes.c_int64(0 if tensor is None else tensor.shape[1])


def call(library, a, packed, depth, epilogue, panels, out=None, bias=None, gated=None):
    size, row_bytes = ctypes.c_int64, a.shape[1] * a.element_size()
    library.amx_gemm(
        int(a.dtype == torch.uint8), pointer(a), size(row_bytes), pointer(packed), size(a.shape[0]), size(depth), size(panels[0]), size(panels[1]),
        epilogue, pointer(out), width(out), pointer(bias), pointer(gated), width(gated),
    )  # fmt: skip


def run(library, a, weights, epilogue, panels, out=None, bias=None, gated=None):
    call(library, a, pack(weights), weights.shape[1], epilogue, panels, out, bias, gated)


def byte_rows(library, x: torch.Tensor) -> torch.Tensor:
    rows = torch.zeros(x.shape[0], 2 * x.shape[1] + 64, dtype=torch.uint8)
    for i in range(x.shape[0]):
        library.byte_input(pointer(x[i]), width(x), width(x), pointer(rows[i]))
    return rows


@pytest.mark.parametrize("rows", [1, 2, 3, 15, 16, 17, 31, 32, 33, 70])
@pytest.mark.parametrize("panels", [(0, 1), (0, 6), (1, 6), (3, 3)])
def test_products(library, rows, panels):
    torch.manual_seed(rows)
    a, weights, bias = torch.randn(rows, 96).bfloat16(), torch.randn(96, 96).bfloat16(), torch.randn(96)
    out, start = torch.full((rows, 96), 7.0), torch.randn(rows, 96)
    run(library, a, weights, STORE, panels, out, bias)
    want = torch.full((rows, 96), 7.0)
    columns = slice(16 * panels[0], 16 * panels[1])
    want[:, columns] = (a.float() @ weights.float().T + bias)[:, columns]
    assert (out - want).abs().max() < 1e-4
    added = start.clone()
    run(library, a, weights, ADD, panels, added)
    assert (added[:, columns] - start[:, columns] - (a.float() @ weights.float().T)[:, columns]).abs().max() < 1e-4 if panels[0] < panels[1] else torch.equal(added, start)


@pytest.mark.parametrize("epilogue, activation", [(SILU, torch.nn.functional.silu), (GELU, lambda x: torch.nn.functional.gelu(x, approximate="tanh"))])
def test_gated_products(library, epilogue, activation):
    a, weights = torch.randn(19, 64).bfloat16(), torch.randn(64, 64).bfloat16()
    gated = torch.zeros(19, 32, dtype=torch.bfloat16)
    run(library, a, weights, epilogue, (0, 4), gated=gated)
    product = (a.float() @ weights.float().T).view(19, 2, 2, 16)
    want = (activation(product[:, :, 0]) * product[:, :, 1]).reshape(19, 32)
    assert (gated.float() - want).abs().max() < 0.01 * want.abs().max()


def wide_range(*shape: int) -> torch.Tensor:
    """Normal numbers, some of them so small that products or sums of them are denormal."""
    return (torch.randn(*shape) * 2.0 ** torch.randint(-70, 1, shape).clamp(max=-40).where(torch.rand(shape) < 0.5, torch.zeros(shape, dtype=torch.long))).bfloat16()


@pytest.mark.parametrize("numbers", [lambda *shape: torch.randn(*shape).bfloat16(), wide_range, lambda *shape: wide_range(*shape) * 1e-19])
@pytest.mark.parametrize("together", [2, 3, 16, 17, 32, 50])
def test_a_row_does_not_depend_on_the_others(library, together, numbers):
    torch.manual_seed(together)
    a, weights = numbers(50, 128), numbers(80, 128)
    outs = torch.zeros(50, 80)
    for start in range(0, 50, together):
        run(library, a[start : start + together].contiguous(), weights, STORE, (0, 5), outs[start : start + together])
    for row in range(50):
        alone = torch.zeros(1, 80)
        run(library, a[row : row + 1].contiguous(), weights, STORE, (0, 5), alone)
        assert torch.equal(alone[0], outs[row])


@pytest.mark.parametrize("rows", [9, 16, 40])
@pytest.mark.parametrize("dim", [16, 64, 80, 128])
def test_weighted_values_are_the_same_for_one_row_and_for_many(library, rows, dim):
    torch.manual_seed(rows + dim)
    keys, begin, end = 300, 32, 293
    p, values = torch.zeros(rows, 320), torch.randn(keys, dim).bfloat16()
    p[:, begin:end] = torch.rand(rows, end - begin) * 10.0 ** torch.randint(-30, 1, (rows, end - begin))
    p = p.bfloat16()
    values[end:] = torch.nan  # not to be touched
    size = ctypes.c_int64

    def weigh(p: torch.Tensor, values: torch.Tensor, slots: torch.Tensor | None, begin: int, end: int) -> torch.Tensor:
        out = torch.zeros(p.shape[0], dim)
        library.amx_weigh(pointer(p), size(2 * p.shape[1]), pointer(values), pointer(slots), size(dim), size(p.shape[0]), size(begin), size(end), pointer(out))
        return out

    together = weigh(p, values, None, begin, end)
    want = p[:, begin:end].double() @ values[begin:end].double()
    assert (together - want).abs().max() < 1e-5 * want.abs().max()
    scattered, slots = torch.empty_like(values), torch.randperm(keys).int()
    scattered[slots.long()] = values
    for row in range(rows):
        assert torch.equal(weigh(p[row : row + 1].contiguous(), values, None, begin, end)[0], together[row])
        shifted = torch.full((1, 320), torch.nan).bfloat16()
        shifted[:, : end - begin] = p[row, begin:end]
        assert torch.equal(weigh(shifted, scattered, slots[begin:end].contiguous(), 0, end - begin)[0], together[row])


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 15, 16, 17, 40])
@pytest.mark.parametrize("panels", [(0, 1), (0, 3), (2, 3)])
def test_products_of_bytes(library, rows, panels):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 128, generator=generator)
    weights = torch.randint(-127, 128, (48, 128), generator=generator, dtype=torch.int8)
    scales = torch.rand(48, generator=generator)
    out, columns = torch.zeros(rows, 48), slice(16 * panels[0], 16 * panels[1])
    call(library, byte_rows(library, x), pack_bytes(weights, scales), 128, STORE, panels, out)
    exact = x.double() @ (weights.double() * scales[:, None].double()).T
    step = x.abs().amax(1, keepdim=True).double() / 16383  # of the inputs; errors of half a step at random
    bound = 6 * step * (weights.double().square().sum(1).sqrt() * scales)[None] / 12**0.5 + 1e-4
    assert ((out - exact).abs() <= bound)[:, columns].all()
    assert not out[:, : columns.start].any() and not out[:, columns.stop :].any()


def test_inputs_of_bytes_that_are_not_finite(library):
    x = torch.randn(4, 64)
    x[1, 5], x[2, 9], x[3] = torch.nan, torch.inf, 0
    weights, scales, out = torch.ones(16, 64, dtype=torch.int8), torch.ones(16), torch.zeros(4, 16)
    call(library, byte_rows(library, x), pack_bytes(weights, scales), 64, STORE, (0, 1), out)
    assert out[0].isfinite().all() and out[1:3].isnan().all() and not out[3].any()
