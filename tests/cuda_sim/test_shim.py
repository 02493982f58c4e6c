"""The host shim must catch what a GPU would punish, and let correct kernels pass."""

import shutil

import pytest
import torch

from tests.cuda_sim import build

SEEDS = range(5)


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("pybind11")
    if shutil.which(build.os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler")
    return build.build("fastdecode_shim_test", [build.HERE / "shim_kernels.cpp", build.find_csrc() / "sim/sim.cpp"])


def outputs(kernels, name, *arguments):
    """The kernel's output under each seed."""
    results = []
    for seed in SEEDS:
        kernels.set_seed(seed)
        out = torch.full((64,), -1, dtype=torch.int32)
        getattr(kernels, name)(out.data_ptr(), *arguments)
        results.append(out.tolist())
    return results


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("rotate", (False,), "race on shared memory: thread .* values.*without a barrier|which this block has not written"),
        ("warp_rotate", (False,), "race on shared memory|which this block has not written"),
        ("counts", (False,), "race on shared memory"),
        ("count_and_write", (), "race on shared memory|which this block has not written"),
        ("some_leave", (), "missing synchronisation: thread 0 waits at block_sync .* has ended"),
        ("two_barriers", (), r"divergent synchronisation: thread 0 waits at block_sync \(shim_kernels.cpp:\d+\)"),
        ("half_a_shuffle", (), "missing synchronisation: thread 0 waits at a shuffle or ballot .* has ended"),
        ("beyond", (), r"accesses values\[63\], which has 63 elements \(out of bounds\)"),
        ("unwritten", (), "which this block has not written"),
    ],
)
def test_broken_kernels_are_caught_under_every_seed(kernels, name, arguments, message):
    for seed in SEEDS:
        kernels.set_seed(seed)
        out = torch.zeros(64, dtype=torch.int32)
        with pytest.raises(RuntimeError, match=message):
            getattr(kernels, name)(out.data_ptr(), *arguments)


def test_order_dependence_in_global_memory_shows_between_seeds(kernels):
    assert len({tuple(out) for out in outputs(kernels, "last_one")}) > 1


def test_correct_kernels_pass(kernels):
    assert all(out == [(i + 1) % 64 for i in range(64)] for out in outputs(kernels, "rotate", True))
    assert all(out == [i ^ 1 for i in range(64)] for out in outputs(kernels, "warp_rotate", True))
    assert all(out == [480 + 16 * (i % 4) for i in range(64)] for out in outputs(kernels, "counts", True))
    assert all(out == [63 * 32 + 64 + 7] * 64 for out in outputs(kernels, "reductions"))


def test_a_launch_after_a_failed_one_works(kernels):
    with pytest.raises(RuntimeError):
        kernels.some_leave(torch.zeros(64, dtype=torch.int32).data_ptr())
    assert outputs(kernels, "rotate", True)[0][0] == 1
