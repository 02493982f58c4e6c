import pytest
import torch
from transformers.utils import logging

from tests.models import byte_tokenizer, small_model
from tests.threads import one_thread  # noqa: F401


logging.set_verbosity_error()  # it warns about eos_token_id=-1, which the tests use to ignore EOS


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small models lose more to waking threads than they gain, most of all beside other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def llama():
    return small_model("llama")


@pytest.fixture(scope="session")
def draft_llama():
    """The same model with one layer less: agrees often, not always."""
    model = small_model("llama")
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    return model
