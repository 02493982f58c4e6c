"""A draft head learns from its target, and drafts in training as it will when it decodes."""

import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastdecode.speculative.eagle_head import EagleHead as CompiledHead
from fastdecode.targets.native import NativeTarget
from fastdecode.training.cross_entropy import cross_entropy
from fastdecode.training.eagle import EagleHead, EagleRun, HeadShape, Recipe, Target, draft_vocabulary, feature_scale
from tests.heads import read_level, read_text
from tests.models import random_prompt, small_model
from tests.threads import one_thread  # noqa: F401

SHAPE = HeadShape(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16, draft_vocab_size=40)
TAPS = (1, 2, 3)


@pytest.fixture(scope="module")
def model():
    return small_model()


def target_of(model) -> Target:
    return Target(model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach(), model.model.norm.weight.detach(), model.config.rms_norm_eps)


def conversations(model, count: int = 6) -> list:
    """Tokens, hidden states, where the question and where the answer begins."""
    native, data = NativeTarget(model), []
    for i in range(count):
        tokens = random_prompt(19 + 2 * i, seed=i)
        kept: list[torch.Tensor] = []
        native.prefill(native.new_state(1, 64, TAPS), 0, tokens, kept.append)
        data.append((torch.tensor(tokens, dtype=torch.int32), kept[0].permute(1, 0, 2).bfloat16(), 2, 5 + i))
    return data


def run_of(model, folder, shape: HeadShape = SHAPE, **changes) -> EagleRun:
    recipe = Recipe(**{"taps": TAPS, "steps": 30, "batch": 3, "unroll": 3, "warmup": 3, "longest": 24, **changes})
    return EagleRun(recipe, folder, target_of(model), conversations(model), shape)


def head_of(scale: float = 1.0) -> EagleHead:
    torch.manual_seed(0)
    target = Target(torch.randn(60, 64), torch.randn(60, 64), torch.ones(64), 1e-5)
    return EagleHead(SHAPE, target, target.rows[:40], torch.full((192,), scale)).eval()


def test_cross_entropy_and_its_gradient_are_those_of_torch():
    logits, law = torch.randn(5, 40, requires_grad=True), torch.randn(5, 40).softmax(-1)
    weight = torch.rand(5)
    (cross_entropy(logits, law) * weight).sum().backward()
    got, logits.grad = logits.grad, None
    want = -(law * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(cross_entropy(logits, law), want, rtol=1e-5, atol=1e-5)
    (want * weight).sum().backward()
    torch.testing.assert_close(got, logits.grad, rtol=1e-4, atol=1e-6)


def test_unrolled_steps_are_those_of_drafting_one_by_one():
    """Chain t of the training pass equals a head that is fed the true features up to t and then its own outputs."""
    head = head_of()
    features, tokens, steps = torch.randn(1, 7, 192), torch.randint(60, (1, 10)), 3
    with torch.inference_mode():
        together = head(features, tokens, torch.tensor([7]), steps)
        for t in range(7):
            # Only the first t + 1 features exist; the chain's own tokens follow.
            alone = head(features[:, : t + 1], tokens[:, : t + 1 + steps], torch.tensor([t + 1]), steps)
            for i in range(steps):
                torch.testing.assert_close(together[i][0, t], alone[i][0, t], rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing():
    head = head_of()
    features, tokens = torch.randn(1, 5, 192), torch.randint(60, (1, 7))
    with torch.inference_mode():
        short = head(features, tokens, torch.tensor([5]), 2)
        padded = head(torch.cat([features, torch.randn(1, 3, 192)], 1), torch.cat([tokens, torch.zeros(1, 3, dtype=torch.long)], 1), torch.tensor([5]), 2)
    for a, b in zip(short, padded):
        torch.testing.assert_close(a[0], b[0, :5], rtol=1e-4, atol=1e-4)


def test_chains_that_go_on_are_those_that_were_chosen():
    head, features, tokens = head_of(2.0), torch.randn(2, 6, 192), torch.randint(60, (2, 9))
    chains = torch.tensor([[0, 3, 4], [1, 2, 5]])
    with torch.inference_mode():
        whole, part = (head(features, tokens, torch.tensor([6, 6]), 3, chosen) for chosen in (None, chains))
    assert torch.equal(whole[0], part[0])
    for a, b in zip(whole[1:], part[1:]):
        torch.testing.assert_close(a.gather(1, chains[..., None].expand(-1, -1, 64)), b, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_cross_entropy_with_the_targets_law(model, tmp_path):
    run = run_of(model, tmp_path, unroll=1, question=0.5)
    tokens, hidden, turn, answer = run.data[1]
    tokens, length = tokens.long(), len(tokens)
    law = run.target.logits(hidden[:, -1], run.rows).softmax(-1)[1:]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        normed = run.model(hidden.float().flatten(1)[None], torch.cat([tokens, torch.zeros(1, dtype=torch.long)])[None], torch.tensor([length]), 1)[0][0, :-1]
    entropy = -(law * (normed.bfloat16() @ run.rows.T).float().log_softmax(-1)).sum(-1)
    weight = torch.tensor([0.0 if t < turn else 0.5 if t < answer - 1 else 1.0 for t in range(1, length)])
    got = run._loss_of([1], random.Random(0))
    torch.testing.assert_close(got, (entropy * weight).sum() / weight.sum(), rtol=0.01, atol=0.01)


def test_the_head_learns_and_is_accepted_more(tmp_path):
    run = run_of(small_model(scale=12.0), tmp_path, dataclasses.replace(SHAPE, draft_vocab_size=259), steps=60, rate=3e-3)
    before, loss = run.acceptance([0, 1]), run._loss_of([0, 1, 2], random.Random(0)).item()
    run.train()
    after = run.acceptance([0, 1])
    assert run._loss_of([0, 1, 2], random.Random(0)).item() < 0.8 * loss and all(a > b + 0.1 for a, b in zip(after, before)) and all(0 <= a <= 1 for a in after)


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


def test_what_is_exported_drafts_as_it_did_in_training(model, tmp_path):
    run = run_of(model, tmp_path / "run", steps=3)
    run.train()
    run.export(tmp_path / "head", torch.float32)
    tensors, config = load_file(tmp_path / "head" / "model.safetensors"), json.loads((tmp_path / "head" / "config.json").read_text())
    assert {"fc.weight", "midlayer.self_attn.q_proj.weight", "midlayer.mlp.gate_proj.weight", "midlayer.hidden_norm.weight", "midlayer.input_layernorm.weight", "midlayer.post_attention_layernorm.weight", "norm.weight", "d2t", "t2d"} <= set(tensors)
    assert torch.equal(torch.arange(40) + tensors["d2t"], run.vocabulary) and int(tensors["t2d"].sum()) == 40
    assert tensors["midlayer.self_attn.q_proj.weight"].shape == (64, 128) and config["draft_vocab_size"] == 40 and config["sliding_window"] == run.recipe.longest
    head = CompiledHead.load(tmp_path / "head", NativeTarget(model))
    assert head.taps == TAPS and head.vocabulary.tolist() == run.vocabulary.tolist()
    tokens, hidden, *_ = run.data[2]
    tokens = tokens[:12].tolist()
    with torch.inference_mode():
        want = run.model(hidden[:11].float().flatten(1)[None], torch.tensor(tokens + [0, 0])[None], torch.tensor([11]), 2)
    cache = head.transformer.new_cache(1, 16)
    out, logits = read_text(head, cache, 0, tokens[1:], head.features(hidden[:11].float().permute(1, 0, 2)))
    torch.testing.assert_close(logits[0], want[0][0, -1] @ run.target.rows[run.vocabulary].T, rtol=1e-3, atol=1e-3)
    _, logits = read_level(head, cache, 11, (np.zeros(1, np.int32), np.full(1, -1, np.int32)), 1, out[-1:])
    torch.testing.assert_close(logits[0], want[1][0, -1] @ run.target.rows[run.vocabulary].T, rtol=1e-3, atol=1e-3)


def test_a_run_can_go_on_from_a_head(model, tmp_path):
    first = run_of(model, tmp_path / "first", steps=3)
    first.train()
    first.export(tmp_path / "head", torch.float32)
    second = run_of(model, tmp_path / "second", start=str(tmp_path / "head"))
    for (name, a), (_, b) in zip(first.model.named_parameters(), second.model.named_parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0, msg=name)
    with pytest.raises(ValueError, match="start: the head in .* has not the sizes"):
        run_of(model, tmp_path / "third", dataclasses.replace(SHAPE, intermediate_size=128), start=str(tmp_path / "head"))


def test_the_draft_vocabulary_holds_the_most_frequent_tokens():
    data = [(torch.tensor([9, 9, 9, 5, 5, 7, 5, 7, 2]), None, 0, 3)]
    assert draft_vocabulary(data, 2).tolist() == [5, 7]
    assert draft_vocabulary(data, 5).tolist() == [0, 1, 2, 5, 7]


def test_features_are_scaled_to_one(model):
    data = conversations(model)
    scaled = torch.cat([hidden[1:] for _, hidden, *_ in data]).float().flatten(1) / feature_scale(data)
    torch.testing.assert_close(scaled.square().mean(0), torch.ones(192), rtol=1e-3, atol=1e-3)
