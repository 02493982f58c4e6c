"""A draft comes to say what its target says, whichever method trains it."""

import dataclasses

import pytest
import torch

from fastdecode.training.distillation import DistillationRun, Recipe, Teacher, most_behind
from fastdecode.training.divergences import forward_kl
from fastdecode.training.draft_recipe import METHODS, distill, small_draft
from tests.models import byte_tokenizer, random_prompt, small_model
from tests.threads import one_thread  # noqa: F401

RECIPE = Recipe(steps=12, batch=3, refresh=4, written=5, answer=6, warmup=2, longest=40)


@pytest.fixture(scope="module")
def target():
    return small_model(scale=12.0)


@pytest.fixture(scope="module")
def teacher(target):
    return Teacher(target)


@pytest.fixture(scope="module")
def data(teacher):
    """Text with the target's hidden states; answers begin at token 5."""
    texts = [random_prompt(16 + i % 7, seed=i) for i in range(12)]
    return [(torch.tensor(tokens, dtype=torch.int32), teacher.read(tokens), 2, 5) for tokens in texts]


def draft(target, seed: int = 0):
    return small_draft(target, 64, 1, seed)


def run_of(folder, target, teacher, data, reference=None, **changes) -> DistillationRun:
    return DistillationRun(dataclasses.replace(RECIPE, **changes), folder, teacher, data, draft(target), reference)


def test_the_teachers_laws_are_those_of_its_model(target, teacher):
    tokens = random_prompt(9, seed=3)
    with torch.inference_mode():
        want = target(torch.tensor([tokens])).logits[0].log_softmax(-1)
    torch.testing.assert_close(teacher.logits(teacher.read(tokens)[:, -1]).log_softmax(-1), want, rtol=0.05, atol=0.1)


def test_only_tokens_of_answers_are_learned(target, teacher, data, tmp_path):
    run = run_of(tmp_path, target, teacher, data)
    tokens, places, hidden = run._batch([data[0], data[3]])
    assert tokens.shape == (2, 19) and places.tolist() == [[0, t] for t in range(4, 15)] + [[1, t] for t in range(4, 18)] and len(hidden) == len(places)
    logits = run._draft_logits(run.model, tokens, places)
    changed = tokens.clone()
    changed[0, 16:] = 1  # padding
    assert torch.equal(logits, run._draft_logits(run.model, changed, places))


def test_conversations_whose_answer_is_cut_off_are_left_out(target, teacher, data, tmp_path):
    tokens, hidden, turn, _ = data[2]
    run = run_of(tmp_path, target, teacher, [*data[:2], (tokens, hidden, turn, len(tokens))])
    assert [i for batch in run.batches for i in batch] == [1]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_brings_the_draft_nearer(method, target, teacher, data, tmp_path):
    def mean(run) -> float:
        run.held_out = list(range(len(data)))  # random text can only be learned by heart
        kept, tokens = (sum(column) for column in zip(*run.acceptance()))
        return kept / tokens

    before = mean(run_of(tmp_path / "untrained", target, teacher, data))
    run = distill(method, tmp_path, teacher, data, lambda: draft(target), dataclasses.replace(RECIPE, steps=80, rate=5e-3))
    assert mean(run) > before + 0.1


@pytest.mark.parametrize("divergence", ("rkl", "jsd", "tvd"))
def test_the_divergence_is_that_of_the_recipe(divergence, target, teacher, data, tmp_path):
    run = run_of(tmp_path, target, teacher, data, divergence=divergence)
    assert run._loss_of(data[:2], 0) != run_of(tmp_path, target, teacher, data)._loss_of(data[:2], 0)
    run.train()
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_keeping_all_tokens_is_plain_distillation(target, teacher, data, tmp_path):
    plain, kept = run_of(tmp_path, target, teacher, data), run_of(tmp_path, target, teacher, data, reference=draft(target, 1), keep=1.0)
    assert torch.equal(plain._loss_of(data[:3], 0), kept._loss_of(data[:3], 0))


def test_the_tokens_that_count_are_those_furthest_behind_the_reference(target, teacher, data, tmp_path):
    reference = draft(target, 1)
    run = run_of(tmp_path, target, teacher, data, reference, keep=0.4)
    tokens, places, hidden = run._batch(data[:3])
    laws = teacher.logits(hidden)
    own, other = (forward_kl(laws, run._draft_logits(model, tokens, places)) for model in (run.model, reference))
    chosen = (own - other).topk(round(0.4 * len(own))).indices
    loss = run._loss_of(data[:3], 0)
    torch.testing.assert_close(loss, own[chosen].mean())
    loss.backward()
    assert all(p.grad is None for p in reference.parameters()) and any(p.grad is not None for p in run.model.parameters())


def test_ties_are_kept_together():
    assert most_behind(torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0]), 0.4).tolist() == [False, True, True, True, False]
    assert most_behind(torch.tensor([1.0, 2.0]), 0.01).tolist() == [False, True]


def test_what_the_draft_writes_answers_questions_of_the_data(target, teacher, data, tmp_path):
    run = run_of(tmp_path, target, teacher, data, on_policy=1.0)
    own = run._written(0)
    questions = {tuple(tokens[:5].tolist()) for tokens, *_ in data}
    assert len(own) == 5 and all(tuple(tokens[:5].tolist()) in questions and answer == 5 and 1 <= len(tokens) - answer <= 6 for tokens, _, _, answer in own)
    for tokens, hidden, _, _ in own:
        torch.testing.assert_close(hidden, teacher.read(tokens.tolist()))


def test_an_interrupted_run_ends_as_an_uninterrupted_one(target, teacher, data, tmp_path):
    changes = {"on_policy": 0.5, "finish": 0.25, "steps": 9}
    whole = run_of(tmp_path / "whole", target, teacher, data, **changes)
    whole.train()
    part = run_of(tmp_path / "part", target, teacher, data, **changes)
    for _ in range(6):
        part.update()
    part.save()
    resumed = run_of(tmp_path / "part", target, teacher, data, **changes)
    resumed.train()
    for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(("changes", "message"), (({"divergence": "l2"}, "divergence='l2' is unknown"), ({"on_policy": 1.5}, "on_policy=1.5 must be"), ({"keep": 0.0}, "keep=0.0 must be"), ({"finish": float("nan")}, "finish=nan must be"), ({"batch": -1}, "batch=-1 must be at least 1"), ({"steps": 0}, "steps=0 must be at least 1")))
def test_recipes_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPE, **changes)


def test_drafts_and_references_that_do_not_fit_are_refused(target, teacher, data, tmp_path):
    with pytest.raises(ValueError, match="keep=0.4 chooses tokens by a reference"):
        run_of(tmp_path, target, teacher, data, keep=0.4)
    other = small_model(vocab_size=300)
    with pytest.raises(ValueError, match="draft has 300 tokens, its target"):
        DistillationRun(RECIPE, tmp_path, teacher, data, other)


def test_a_recipe_makes_a_model_that_drafts(tmp_path, monkeypatch):
    from fastdecode import SpeculativeGenerator
    from fastdecode.training import draft_recipe
    from fastdecode.training.on_policy import TurnFilter, Writer, write

    target, tokenizer = small_model(), byte_tokenizer()
    target.save_pretrained(tmp_path / "target")
    tokenizer.save_pretrained(tmp_path / "target")
    monkeypatch.setattr(TurnFilter, "accepts", lambda self, text: True)
    monkeypatch.setattr(draft_recipe, "Writer", lambda *arguments: Writer(*arguments, rows=3, question=20, answer=8))
    monkeypatch.setattr(draft_recipe, "write", lambda *arguments, progress: write(*arguments, chunk=5, progress=progress))
    steps: list[int] = []
    run = draft_recipe.train(str(tmp_path / "target"), tmp_path, "adaspec", 60, dataclasses.replace(RECIPE, steps=100), hidden_size=32, layers=1, trained=lambda step, loss: steps.append(step))
    assert run.step == 50 and steps == [50, 100] and run.data.answer_tokens >= 60
    prompt = random_prompt(12, seed=9)
    plain, drafted = (SpeculativeGenerator.from_pretrained(str(tmp_path / "target"), drafter=d) for d in ("none", str(tmp_path / "draft")))
    again = drafted.generate(prompt, max_new_tokens=12, do_sample=False, speculate=4)
    assert again.token_ids == plain.generate(prompt, max_new_tokens=12, do_sample=False).token_ids and again.stats.drafted > 0


def test_new_drafts_have_whole_heads(target):
    assert small_draft(target, 32, 1, 0).config.num_attention_heads == 1 and small_draft(target, 192, 1, 0).config.num_attention_heads == 3
    with pytest.raises(ValueError, match="hidden_size=100 must be 32 or a multiple of 64"):
        small_draft(target, 100, 1, 0)
