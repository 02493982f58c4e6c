"""The head that ships for SmolLM2-135M-Instruct."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fastdecode import SpeculativeGenerator, assets
from fastdecode.benchmark import chat_ids
from fastdecode.speculative.drafters import AlternatingDrafter, CompositeDrafter, EagleDrafter, SuffixDrafter, make_drafter
from fastdecode.training.on_policy import TurnFilter
from tests.models import small_model
from tests.smollm2 import path
from tests.threads import one_thread  # noqa: F401

HEAD = assets.find("heads") / "smollm2-135m-instruct"
QUESTIONS = ["A farmer has 17 sheep and buys 25 more. How many sheep does he have now? Explain.", "Write a short poem about the sea.", "Why is the sky blue?"]


@pytest.fixture(scope="module")
def generator():
    return SpeculativeGenerator.from_pretrained(path(), drafter="eagle", dtype="bfloat16")


def test_it_is_small_and_says_where_it_comes_from():
    assert (HEAD / "model.safetensors").stat().st_size < 16e6
    card = (HEAD / "README.md").read_text()
    assert all(word in card for word in ("fastdecode train eagle", "hours", "tokens per pass"))
    assert json.loads((HEAD / "config.json").read_text())["draft_vocab_size"] == 8192
    with safe_open(HEAD / "model.safetensors", "pt") as tensors:
        assert all(torch.isfinite(tensors.get_tensor(name)).all() for name in tensors.keys() if "2" not in name)


def test_it_is_found_for_its_model_alone(generator):
    assert isinstance(generator.drafter, EagleDrafter) and generator.drafter.path == HEAD
    auto = make_drafter("auto", generator.target)
    assert isinstance(auto, CompositeDrafter) and [type(d) for d in auto.drafters] == [SuffixDrafter, EagleDrafter]
    other = SpeculativeGenerator(small_model())
    assert isinstance(other.drafter, AlternatingDrafter)
    with pytest.raises(ValueError, match="no installed package brings a head for this model"):
        SpeculativeGenerator(small_model(), drafter="eagle")


def test_text_is_that_of_plain_decoding(generator):
    for question in QUESTIONS:
        ids = chat_ids(generator.tokenizer, question)
        for sampling in ({"do_sample": False}, {"do_sample": True, "temperature": 0.8, "seed": 3}):
            plain = generator.generate(ids, max_new_tokens=48, speculate=False, **sampling)
            assert generator.generate(ids, max_new_tokens=48, speculate=24, **sampling).token_ids == plain.token_ids


def test_it_is_right_more_often_than_not(generator):
    stats = [generator.generate(chat_ids(generator.tokenizer, q), max_new_tokens=64, speculate=31, do_sample=False).stats for q in QUESTIONS]
    assert sum(s.emitted for s in stats) / sum(s.rounds for s in stats) > 2.0


def test_questions_of_the_benchmark_are_kept_out():
    texts = [turn for line in Path("bench/data/spec_bench_120.jsonl").read_text().splitlines() for turn in json.loads(line)["turns"]]
    turns = TurnFilter(texts)
    long = [t for t in texts if 8 <= len(t.split()) <= 150]
    assert len(long) > 50 and not any(turns.accepts(t) for t in long)
