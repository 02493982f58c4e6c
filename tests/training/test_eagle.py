"""A draft head learns from its target, and drafts in training as it will when it decodes."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from fastdecode.targets.native import NativeTarget
from fastdecode.training.eagle import EagleHead, EagleRun, HeadShape, Recipe, draft_vocabulary
from fastdecode.training.on_policy import Conversations
from tests.models import random_prompt, small_model
from tests.threads import one_thread  # noqa: F401

SHAPE = HeadShape(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16, draft_vocab_size=40)


@pytest.fixture(scope="module")
def model():
    return small_model()


def conversations(count: int = 6) -> Conversations:
    return Conversations.of([(random_prompt(5 + i, seed=i), random_prompt(14 + i, seed=50 + i)) for i in range(count)])


def run_of(model, folder, shape: HeadShape = SHAPE, **changes) -> EagleRun:
    recipe = Recipe(**{"taps": (0, 1, 2), "steps": 30, "batch": 3, "unroll": 3, "warmup": 3, "longest": 24, **changes})
    return EagleRun(recipe, folder, NativeTarget(model), conversations(), shape, model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach())


def test_reading_a_text_gives_hidden_states_and_logits(model):
    target, tokens = NativeTarget(model), random_prompt(12, seed=3)
    with torch.inference_mode():
        want = model(torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
    hidden, logits = target.read(tokens, [0, 2], first=4)
    torch.testing.assert_close(logits, want.logits[0, 4:], rtol=1e-4, atol=1e-4)
    for got, layer in zip(hidden, (0, 2)):
        torch.testing.assert_close(got, want.hidden_states[layer][0], rtol=1e-4, atol=1e-4)


def test_unrolled_steps_are_those_of_drafting_one_by_one():
    """Chain t of the training pass equals a head that is fed the true features up to t and then its own outputs."""
    torch.manual_seed(0)
    head = EagleHead(SHAPE, torch.randn(60, 64), torch.randn(40, 64)).eval()
    features, tokens, steps = torch.randn(1, 7, 192), torch.randint(60, (1, 10)), 3
    with torch.inference_mode():
        together = head(features, tokens, torch.tensor([7]), steps)
        for t in range(7):
            # Only the first t + 1 features exist; the chain's own tokens follow.
            alone = head(features[:, : t + 1], tokens[:, : t + 1 + steps], torch.tensor([t + 1]), steps)
            for i in range(steps):
                torch.testing.assert_close(together[i][0, t], alone[i][0, t], rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    head = EagleHead(SHAPE, torch.randn(60, 64), torch.randn(40, 64)).eval()
    features, tokens = torch.randn(1, 5, 192), torch.randint(60, (1, 7))
    with torch.inference_mode():
        short = head(features, tokens, torch.tensor([5]), 2)
        padded = head(torch.cat([features, torch.randn(1, 3, 192)], 1), torch.cat([tokens, torch.zeros(1, 3, dtype=torch.long)], 1), torch.tensor([5]), 2)
    for a, b in zip(short, padded):
        torch.testing.assert_close(a[0], b[0, :5], rtol=1e-4, atol=1e-4)


def test_the_head_learns_and_is_accepted_more(tmp_path):
    run = run_of(small_model(scale=12.0), tmp_path, dataclasses.replace(SHAPE, draft_vocab_size=259), steps=60, rate=3e-3)
    before, loss = run.acceptance([0, 1]), run._loss_of([0, 1, 2]).item()
    run.train()
    after = run.acceptance([0, 1])
    assert run._loss_of([0, 1, 2]).item() < 0.8 * loss and all(a > b + 0.1 for a, b in zip(after, before)) and all(0 <= a <= 1 for a in after)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(model, tmp_path):
    whole = run_of(model, tmp_path / "whole", steps=5)
    whole.train()
    part = run_of(model, tmp_path / "part", steps=5)
    for _ in range(2):
        part.update()
    part.save()
    resumed = run_of(model, tmp_path / "part", steps=5)
    resumed.train()
    assert resumed.step == 5
    for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters()):
        assert torch.equal(a, b), name


def test_what_is_exported_has_the_names_of_eagle3(model, tmp_path):
    run = run_of(model, tmp_path / "run", steps=1)
    run.export(tmp_path / "head")
    tensors, config = load_file(tmp_path / "head" / "model.safetensors"), json.loads((tmp_path / "head" / "config.json").read_text())
    assert {"fc.weight", "midlayer.self_attn.q_proj.weight", "midlayer.mlp.gate_proj.weight", "midlayer.hidden_norm.weight", "midlayer.input_layernorm.weight", "midlayer.post_attention_layernorm.weight", "norm.weight", "lm_head.weight", "d2t", "t2d"} <= set(tensors)
    assert torch.equal(torch.arange(40) + tensors["d2t"], run.vocabulary) and int(tensors["t2d"].sum()) == 40
    assert tensors["midlayer.self_attn.q_proj.weight"].shape == (64, 128) and config["draft_vocab_size"] == 40


def test_the_draft_vocabulary_holds_the_most_frequent_tokens():
    data = Conversations.of([([9, 9, 9], [5, 5, 7, 5, 7, 2])])
    assert draft_vocabulary(data, 2).tolist() == [5, 7]
    assert draft_vocabulary(data, 5).tolist() == [0, 1, 2, 5, 7]
