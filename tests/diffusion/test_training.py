"""Training goes on unchanged after an interruption, and what it exports is a LLaDA checkpoint."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from fastdecode import DiffusionGenerator
from fastdecode.diffusion.parallel_bench import pieces
from fastdecode.training.masked_diffusion import ANSWER, Batches, Recipe, Run, longest, loss_of
from fastdecode.training.masked_transformer import MaskedTransformer, Shape
from fastdecode.training.piece_tokenizer import longest_of, piece_tokenizer
from fastdecode.training.unmask_filter import LENGTH, Replay, oracle, train_filter
from tests.diffusion.models import all_logits
from tests.threads import one_thread  # noqa: F401

SMALL = Recipe(steps=7, batch=6, layers=1, warmup=2)


def trained(recipe: Recipe, folder, stop_at: int | None = None) -> Run:
    run = Run(recipe, folder)
    if stop_at is not None:
        while run.step < stop_at:
            run.update()
        run.save()
        return run
    run.train()
    return run


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path):
    whole = trained(SMALL, tmp_path / "whole")
    trained(SMALL, tmp_path / "parts", stop_at=3)
    resumed = trained(SMALL, tmp_path / "parts")
    assert resumed.step == whole.step == 7
    for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters()):
        assert torch.equal(a, b), name
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        Run(Recipe(steps=8, batch=6, layers=1), tmp_path / "parts")


def test_batches_depend_on_seed_and_step_alone():
    tokenizer = piece_tokenizer(pieces())
    a, b = Batches(SMALL, tokenizer)[5], Batches(SMALL, tokenizer)[5]
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["tokens"], Batches(SMALL, tokenizer)[4]["tokens"])
    masked = a["tokens"] == tokenizer.mask_token_id
    assert (masked.sum(1) >= 1).all() and ((a["weight"] > 0).sum(1) == masked.sum(1)).all()
    rows = a["first"][:, None] + torch.arange(ANSWER)
    answers = a["tokens"].gather(1, rows)
    assert torch.equal(torch.where(answers == tokenizer.mask_token_id, a["target"], answers), a["target"])
    assert [longest(s, 100) for s in (0, 6, 12, 50)] == [3, 4, 5, 6]


def test_a_pattern_takes_the_longest_word():
    words = ["a", "ab", "abcd", "b", "b.", "b.*", "+", "x\n", "xy", "xyz"]
    pattern = re.compile(longest_of(words))
    for text in ("abc", "abcd", "b.*", "b.+", "b+", "xyzz", "xy", "x\n", "+a"):
        assert pattern.match(text)[0] == max((w for w in words if text.startswith(w)), key=len)
    assert not pattern.match("c") and not pattern.match("x")


def test_training_lowers_the_loss(tmp_path):
    run = Run(Recipe(steps=60, batch=16, layers=1, warmup=5), tmp_path)
    before = loss_of(run.model, run.batches[1000]).item()
    run.train()
    assert loss_of(run.model, run.batches[1000]).item() < 0.8 * before
    assert run.curve[0][0] == 50


def test_what_is_exported_is_a_llada_checkpoint(tmp_path):
    run = trained(SMALL, tmp_path / "run", stop_at=2)
    run.export(tmp_path / "model")
    config, tensors = json.loads((tmp_path / "model" / "config.json").read_text()), load_file(tmp_path / "model" / "model.safetensors")
    assert config["model_type"] == "llada" and "model.transformer.blocks.0.ff_out.weight" in tensors and "model.transformer.ff_out.weight" not in tensors
    made = DiffusionGenerator.from_pretrained(tmp_path / "model", "llada", target="hf", dtype=torch.float32)
    tokens = [5, 9, 30, run.tokenizer.mask_token_id, run.tokenizer.mask_token_id]
    want = all_logits(made.target.model, tokens)
    rounded = MaskedTransformer(Shape(len(run.tokenizer), n_layers=1))
    rounded.load_state_dict({n: p.to(torch.bfloat16).float() for n, p in run.model.named_parameters()})
    with torch.inference_mode():
        got = rounded(torch.tensor([tokens]), torch.tensor([5]), torch.tensor([0]), 5)[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert made.tokenizer.decode(made.tokenizer("Compute 27+15:\n")["input_ids"]) == "Compute 27+15:\n"


def test_the_filter_learns_what_is_final(tmp_path):
    run = trained(SMALL, tmp_path / "run", stop_at=1)
    run.export(tmp_path / "model")
    made = DiffusionGenerator.from_pretrained(tmp_path / "model", "llada", end_at_eos=False)
    prompts = [list(made.tokenizer(f"Compute {i}+{i}:\n")["input_ids"]) for i in range(12)]
    answers = [(r.token_ids + r.token_ids[-1:] * LENGTH)[:LENGTH] for r in made.generate(prompts, max_new_tokens=LENGTH)]
    replay = Replay(made.target, prompts, answers, made.facts.mask)
    confidence, right, masked = replay.collect(oracle)
    assert confidence.shape == right.shape == masked.shape and masked[:12].all() and confidence.shape[1] == LENGTH
    network, quality = train_filter(replay, iterations=40)
    assert network.length == LENGTH and set(quality) == {"precision", "recall", "states"}
