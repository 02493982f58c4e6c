"""The main job on a real model: same tokens as transformers, in fp32."""

import copy
import json
from pathlib import Path

import pytest
import torch

from fastdecode import SpeculativeGenerator
from fastdecode.speculative.drafters import ModelDrafter
from tests import smollm2

pytestmark = pytest.mark.model
PROMPTS = Path(__file__).parents[2] / "bench/data/spec_bench_120.jsonl"
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def smol():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield smollm2.load(torch.float32)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def chats():
    questions = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    short = [q for q in questions if len(q["turns"][0]) < 400]
    return [[{"role": "user", "content": q["turns"][0]}] for q in short[::12]][:4]


@pytest.fixture(scope="module")
def answers(smol, chats):
    model, tokenizer = smol
    result = []
    for chat in chats:
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        result.append(out[0, ids["input_ids"].shape[1] :].tolist())
    return result


def thinner(model, removed: tuple[int, ...]):
    """The model without some of its layers: a draft model with the same tokenizer."""
    draft = copy.deepcopy(model)
    draft.model.layers = torch.nn.ModuleList(layer for i, layer in enumerate(draft.model.layers) if i not in removed)
    for i, layer in enumerate(draft.model.layers):
        layer.self_attn.layer_idx = i
    draft.config.num_hidden_layers = len(draft.model.layers)
    return draft


@pytest.mark.parametrize("drafter, batch", [("none", 1), ("suffix", 1), ("prompt_lookup", 1), ("model", 1), ("composite", 1), ("suffix", 4), ("model", 4)])
def test_greedy_equals_transformers(smol, chats, answers, drafter, batch):
    model, tokenizer = smol
    count = max(2, batch)
    made = {"model": lambda: ModelDrafter(thinner(model, (12, 18)), num_tokens=4), "composite": lambda: ["suffix", "prompt_lookup"]}.get(drafter, lambda: drafter)()
    generator = SpeculativeGenerator(model, tokenizer, drafter=made)
    for start in range(0, count, batch):
        results = generator.generate(chats[start : start + batch], max_new_tokens=NEW_TOKENS)
        assert [r.token_ids for r in results] == answers[start : start + batch]


def test_sampled_tokens_do_not_depend_on_speculation(smol, chats):
    model, tokenizer = smol
    settings = dict(max_new_tokens=24, do_sample=True, temperature=0.8, seed=1)
    plain = SpeculativeGenerator(model, tokenizer, drafter="none").generate(chats[:2], **settings)
    fast = SpeculativeGenerator(model, tokenizer, drafter=["suffix", "prompt_lookup"]).generate(chats[:2], **settings)
    assert [r.token_ids for r in fast] == [r.token_ids for r in plain]
