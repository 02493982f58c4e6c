import shutil

import pytest


@pytest.fixture(scope="session")
def cuda_simulator():
    """The CUDA sources compiled for the host; `set_seed` picks the order in which blocks and threads run."""
    from tests.cuda_sim import build

    pytest.importorskip("pybind11")
    if shutil.which(build.os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler for the host build of the CUDA sources")
    try:
        sources = build.simulator_sources()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return build.build("fastdecode_sim", sources, build.os.environ.get("FASTDECODE_SIM_FLAGS", ""))
