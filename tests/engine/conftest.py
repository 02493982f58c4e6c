import pytest
from transformers.utils import logging

from fastdecode.targets import make_target
from fastdecode.targets.packing import NATIVE_FAMILIES
from tests.models import byte_tokenizer, small_model
from tests.threads import one_thread  # noqa: F401

logging.set_verbosity_error()  # it warns about eos_token_id=-1, which the tests use to ignore EOS


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


@pytest.fixture(params=["native", "hf"])
def both_targets(request, monkeypatch):
    """Runs a test with each target in the place of "auto"."""

    def choose(target, model, *weights):
        return make_target(request.param if target == "auto" and model.config.model_type in NATIVE_FAMILIES else target, model, *weights)

    for user in ("fastdecode.speculative.generator.make_target", "fastdecode.speculative.drafters.model.make_target"):
        monkeypatch.setattr(user, choose)
