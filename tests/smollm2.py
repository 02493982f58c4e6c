"""The real model of the tests: SmolLM2-135M-Instruct, pulled once into the user's cache directory."""

import functools
import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdecode.checkpoints import pull


@functools.lru_cache(maxsize=1)
def path() -> str:
    try:
        return str(pull("smollm2-135m-instruct"))
    except RuntimeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"SmolLM2 could not be fetched: {error}")


@functools.lru_cache(maxsize=2)
def load(dtype: torch.dtype):
    """(model, tokenizer)"""
    return AutoModelForCausalLM.from_pretrained(path(), dtype=dtype).eval(), AutoTokenizer.from_pretrained(path())
