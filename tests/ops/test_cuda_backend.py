"""Path selection, options and messages of the CUDA back end, without a GPU."""

import contextlib
import types

import numpy as np
import pytest
import torch

from fastdecode.ops import _cuda_backend as backend

CUDA = torch.device("cuda", 0)


class FakeCupy:
    """Records what would be compiled and launched."""

    def __init__(self):
        self.modules, self.launches = [], []
        context = lambda *_: contextlib.nullcontext()
        self.cuda = types.SimpleNamespace(Device=context, ExternalStream=context)

    def RawModule(self, **options):
        self.modules.append(options)
        return types.SimpleNamespace(get_function=lambda name: lambda grid, block, args: self.launches.append((name, grid, block, args)))


@pytest.fixture
def without_module(monkeypatch):
    monkeypatch.setattr(backend, "_compiled", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: types.SimpleNamespace(cuda_stream=0))


def test_the_compiled_module_comes_first(monkeypatch):
    calls = []
    module = types.SimpleNamespace(verify_tree_greedy=lambda *args: calls.append(args))
    monkeypatch.setattr(backend, "_compiled", lambda: module)
    monkeypatch.setattr(backend, "_cupy", lambda: pytest.fail("cupy must not be asked"))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: types.SimpleNamespace(cuda_stream=7))
    backend.kernel("verify_tree_greedy", CUDA)(1, 2)
    assert calls == [(1, 2, 7)]


def test_neither_names_the_remedy(monkeypatch, without_module):
    monkeypatch.setattr(backend, "_cupy", lambda: None)
    with pytest.raises(RuntimeError, match=r"verify_chain.*fastdecode\[cuda12\].*fastdecode\[cuda13\].*nvcc"):
        backend.kernel("verify_chain", CUDA)


def test_operations_without_a_kernel_use_the_reference(without_module):
    assert backend.kernel("no_such_operation", CUDA) is None


@pytest.mark.parametrize("vocab, threads", [(5, 32), (10_000, 256), (128_000, 512)])
def test_cupy_compiles_once_and_passes_one_struct(monkeypatch, without_module, vocab, threads):
    cupy = FakeCupy()
    monkeypatch.setattr(backend, "_cupy", lambda: cupy)
    for _ in range(2):
        backend.kernel("verify_block", CUDA)(11, 12, 13, 14, 15, 3, 4, vocab, 16, 17)
    assert len(cupy.modules) == 1
    assert cupy.modules[0]["code"] == '#include "fastdecode/verify_chain.cuh"\n'
    assert "--fmad=false" in cupy.modules[0]["options"] and "--std=c++17" in cupy.modules[0]["options"]
    assert not any("fast" in option.replace("fastdecode", "") for option in cupy.modules[0]["options"])
    name, grid, block, (struct,) = cupy.launches[0]
    assert (name, grid, block) == ("verify_block_kernel", (3,), (threads,))
    assert struct.view(np.int64).tolist() == [11, 12, 13, 14, 15, 3, 4, vocab, 16, 17]


def test_cupy_unpacks_sizes_and_passes_floats_as_bits(monkeypatch, without_module):
    cupy = FakeCupy()
    monkeypatch.setattr(backend, "_cupy", lambda: cupy)
    backend.kernel("tree_attention", CUDA)(1, 2, 3, 0, (2, 10, 2, 7, 64), (4, 5, 6), [7, 8, 9], (10, 11, 12), 13, 14, 15, 1, 16, 0.125, 0, 17, 0)
    name, grid, block, (struct,) = cupy.launches[0]
    assert (name, grid, block) == ("tree_attention_kernel", (2 * 7 * 2 * 2,), (128,))  # five heads to a KV head: blocks of four and one
    words = struct.view(np.int64).tolist()
    assert words == [1, 2, 3, 0, 2, 10, 2, 7, 64, *range(4, 16), 1, 16, words[23], 0, 17, 0]
    assert struct.view(np.float32)[2 * 23] == 0.125


def test_an_empty_batch_launches_nothing(monkeypatch, without_module):
    cupy = FakeCupy()
    monkeypatch.setattr(backend, "_cupy", lambda: cupy)
    backend.kernel("verify_tree_point", CUDA)(1, 2, 3, 4, 5, 0, 4, 9, 6, 7, 8)
    assert cupy.launches == []


def test_every_kernel_has_its_source():
    for name in backend.GRIDS:
        assert backend.source(name).startswith("#include")
