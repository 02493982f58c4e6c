"""What the small trained model can do, and what policies may change of it."""

import pytest

from fastdecode import DiffusionGenerator, assets
from fastdecode.diffusion.caches import Dual
from fastdecode.diffusion.fitting import own_filter
from fastdecode.diffusion.parallel_bench import TASKS, examples
from fastdecode.diffusion.policies import FreeDraft, UniformSteps
from fastdecode.diffusion.presets import PRESETS

CERTAIN = ("copy", "reverse", "insert_index", "remove_index", "replace_index", "json")


@pytest.fixture(scope="module")
def lists():
    return DiffusionGenerator.from_pretrained(assets.find("lists"), "llada")


def other(lists, preset, **parts):
    return DiffusionGenerator(lists.target, lists.tokenizer, preset, facts=lists.facts, **parts)


def share(made, task: str, count: int = 20) -> float:
    asked = examples(task, count, seed=11)
    return sum(e.score(r.text) for e, r in zip(asked, made.generate([e.prompt for e in asked], max_new_tokens=32))) / count


@pytest.mark.parametrize("task", CERTAIN)
def test_certain_tasks_are_solved_and_need_few_passes(lists, task):
    asked = [e.prompt for e in examples(task, 20, seed=11)]
    assert share(lists, task) >= 0.9
    fast = other(lists, "auto").generate(asked, max_new_tokens=32)
    slow = lists.generate(asked, max_new_tokens=32)
    assert sum(f.text == s.text for f, s in zip(fast, slow)) >= 19
    assert sum(f.stats.forwards for f in fast) < 0.1 * sum(s.stats.forwards for s in slow)


def test_parallel_commits_hurt_where_answers_are_free_and_nowhere_else(lists):
    at_once = other(lists, "llada", steps=UniformSteps(1))
    assert share(at_once, "copy") >= 0.9
    assert share(at_once, "shuffle") < share(lists, "shuffle") or share(lists, "shuffle") == 0.0


@pytest.mark.parametrize("task", ["sort", "shuffle", "add"])
def test_drafts_change_no_token(lists, task):
    asked = [e.prompt for e in examples(task, 8, seed=3)]
    static = other(lists, "llada", cache=Dual()).generate(asked, max_new_tokens=32)
    drafted = other(lists, "freedave", drafts=FreeDraft(6)).generate(asked, max_new_tokens=32)
    assert [r.token_ids for r in drafted] == [r.token_ids for r in static]
    assert sum(r.stats.forwards for r in drafted) < sum(r.stats.forwards for r in static)


def test_the_filter_needs_fewer_passes(lists):
    made = DiffusionGenerator.from_pretrained(assets.find("lists"), "learn2pd")
    asked = examples("copy", 20, seed=11)
    results = made.generate([e.prompt for e in asked], max_new_tokens=32)
    assert sum(e.score(r.text) for e, r in zip(asked, results)) >= 18
    assert sum(r.stats.forwards for r in results) < 20 * 16
    with pytest.raises(ValueError, match="has no unmask_filter.safetensors"):
        own_filter(".")


def test_every_preset_runs_on_every_task(lists):
    with pytest.raises(ValueError, match="no such blocks"):
        other(lists, "fast-dllm-v2")
    for preset in set(PRESETS) - {"fast-dllm-v2"}:
        made = other(lists, preset) if preset != "learn2pd" else DiffusionGenerator.from_pretrained(assets.find("lists"), preset)
        for result in made.generate([examples(task, 1)[0].prompt for task in TASKS], max_new_tokens=32):
            assert lists.facts.mask not in result.token_ids and 1 <= len(result.token_ids) <= 32
