"""One test, several implementations: `impl` runs a test once for each, `device` is where its tensors live."""

import pytest
import torch

from fastdecode import _C
from fastdecode.ops import implementation

LEVELS = ["scalar", "avx2", "avx512", "amx"]


def available(name: str) -> str | None:
    """Why an implementation cannot run here, or None."""
    if name in LEVELS:
        with_level = _C.isa()
        try:
            _C.set_isa(name)
        except ValueError as error:
            return str(error)
        finally:
            _C.set_isa(with_level)
    if name == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    return None


SEEDS = [1, 2, 3]  # thread orders of the simulated GPU


@pytest.fixture(params=["reference", *LEVELS, *(f"cuda-sim-{seed}" for seed in SEEDS), pytest.param("cuda", marks=pytest.mark.gpu)])
def impl(request):
    if request.param.startswith("cuda-sim"):
        simulator = simulator_for(request)
        simulator.set_seed(int(request.param.rsplit("-", 1)[1]))
        with implementation("cuda-sim", simulator):
            yield "cuda-sim"
        return
    reason = available(request.param)
    if reason:
        pytest.skip(reason)
    with implementation(request.param):
        yield request.param


def simulator_for(request):
    """The host build of the CUDA sources, if it holds the operation that the test's file names or is named after."""
    operation = getattr(request.module, "OPERATION", request.module.__name__.rsplit("test_", 1)[1])
    simulator = request.getfixturevalue("cuda_simulator")
    if not hasattr(simulator, operation):
        pytest.skip(f"{operation} has no CUDA version")
    return simulator


@pytest.fixture
def device(impl):
    return torch.device("cuda" if impl == "cuda" else "cpu")


@pytest.fixture
def rows(impl):
    """How many rows a statistical test draws: fewer where an implementation is slow."""
    if impl == "reference":
        pytest.skip("too slow for statistics; the tests of equality tie it to the others")
    share = {"cuda-sim": 100}.get(impl, 1)
    return lambda count: count // share
