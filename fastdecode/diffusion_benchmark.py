"""Quality and speed of policies for masked diffusion on the tasks of ParallelBench, beside the plain sampler in torch."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from typing import Any, Callable

import torch

from fastdecode.benchmark import header
from fastdecode.diffusion.facts import Facts
from fastdecode.diffusion.fitting import own_filter
from fastdecode.diffusion.generator import DiffusionGenerator
from fastdecode.diffusion.order import global_ar_ness, local_ar_ness
from fastdecode.diffusion.parallel_bench import Example, examples
from fastdecode.diffusion.policies import Factor, FreeDraft, Threshold, UniformSteps
from fastdecode.targets.weights import load_layout

PEER = "peer:llada"
PLAIN = "llada"  # one token per step, everything computed again: what lossless methods must equal
Method = Callable[[str], tuple[str, int, int, list[int]]]  # prompt -> text, tokens, forwards, positions in the order of their commits (none: not known)


@dataclass(frozen=True)
class Settings:
    """What every method has to do: fill `new_tokens` positions, in blocks of `block`."""

    new_tokens: int = 32
    block: int = 32
    dtype: str = "bfloat16"


def plain_llada(model, tokenizer, facts: Facts, settings: Settings) -> Method:
    """LLaDA's sampler (arXiv:2502.09992, algorithm of semi-autoregressive decoding with low-confidence remasking) in plain torch:
    every step runs the whole sequence, makes the logits of all positions and commits one token."""

    @torch.inference_mode()
    def run(prompt: str):
        ids = tokenizer(prompt)["input_ids"]
        x = torch.tensor([ids + [facts.mask] * settings.new_tokens])
        bias = torch.zeros(1, 1, x.shape[1], x.shape[1], dtype=model.dtype)
        forwards = 0
        for begin in range(len(ids), x.shape[1], settings.block):
            end = min(begin + settings.block, x.shape[1])
            for _ in range(end - begin):
                logits = model(input_ids=x, attention_mask=bias, use_cache=False).logits
                logits[..., facts.mask] = -torch.inf
                proposal = logits.argmax(-1)
                probability = logits.float().softmax(-1).gather(-1, proposal[..., None])[..., 0]
                score = torch.where(x == facts.mask, probability, -torch.inf)
                score[:, end:] = -torch.inf
                best = score.topk(1).indices[0]
                x[0, best] = proposal[0, best]
                forwards += 1
        answer = x[0, len(ids) :].tolist()
        stop = next((i + 1 for i, t in enumerate(answer) if t in facts.eos), len(answer))
        return tokenizer.decode(answer[:stop], skip_special_tokens=True), stop, forwards, []

    return run


def parts_of(name: str, path: str, block: int) -> tuple[str, dict[str, Any]]:
    """Preset and parts of a method: a preset, or top-K, threshold-X, factor-X, freedave-D and, without a cache, drafts-D for one point of a policy."""
    kind, _, value = name.rpartition("-")
    point: dict[str, Callable[[], dict[str, Any]]] = {
        "top": lambda: {"steps": UniformSteps(-(-block // int(value)))},
        "threshold": lambda: {"unmask": Threshold(float(value))},
        "factor": lambda: {"unmask": Factor(float(value))},
        "drafts": lambda: {"drafts": FreeDraft(int(value))},
    }
    if kind in point:
        return "llada", point[kind]()
    if kind == "freedave":
        return kind, {"drafts": FreeDraft(int(value))}
    return name, {"unmask": own_filter(path)} if name == "learn2pd" else {}


def own_method(generator: DiffusionGenerator, settings: Settings) -> Method:
    def run(prompt: str):
        result = generator.generate(prompt, max_new_tokens=settings.new_tokens)
        return result.text, len(result.token_ids), result.stats.forwards, [p for p, _, _ in result.stats.commit_order]

    return run


def make_methods(path: str, names: list[str], settings: Settings) -> dict[str, Method]:
    """Runners by name. Raises ValueError for an unknown name."""
    methods: dict[str, Method] = {}
    base: DiffusionGenerator | None = None
    for name in names:
        if name == PEER:
            model = load_layout(path, getattr(torch, settings.dtype))
            loaded = base or DiffusionGenerator.from_pretrained(path, "llada", dtype=settings.dtype)
            methods[name] = plain_llada(model, loaded.tokenizer, loaded.facts, settings)
            continue
        preset, parts = parts_of(name, path, settings.block)
        if base is None:
            base = generator = DiffusionGenerator.from_pretrained(path, preset, dtype=settings.dtype, **parts)
        else:
            generator = DiffusionGenerator(base.target, base.tokenizer, preset, facts=base.facts, **parts)
        methods[name] = own_method(generator, settings)
    return methods


def run(methods: dict[str, Method], tasks: list[str], count: int, repeats: int, settings: Settings, seed: int, progress: Callable = iter) -> dict[str, Any]:
    """Measures every method on the examples of a task, one right behind the other as a user would, then the next method, in random order
    for every task and repeat; returns the report as plain data."""
    questions = {task: examples(task, count, seed=seed) for task in tasks}
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    order = list(methods)
    for i, task in enumerate(progress(repeats * tasks)):
        random.Random(i).shuffle(order)
        for name in order:
            methods[name](questions[task][0].prompt)  # another method has had the caches
            samples[name] += [_sample(methods[name], question) for question in questions[task]]
    described = {**vars(settings), "examples_per_task": count, "repeats": repeats, "seed": seed}
    return {**header(), "settings": described, "methods": {name: _report(own, samples.get(PEER), samples.get(PLAIN)) for name, own in samples.items()}}


def _sample(method: Method, example: Example) -> dict[str, Any]:
    begun = time.perf_counter()
    text, tokens, forwards, order = method(example.prompt)
    seconds = time.perf_counter() - begun
    metrics = {"local_ar_ness": local_ar_ness(order), "global_ar_ness": global_ar_ness(order)} if order else {}
    return {"task": example.task, "text": text, "right": example.score(text), "seconds": seconds, "tokens": tokens, "nfe": forwards, **metrics}


def _report(samples: list[dict[str, Any]], peer: list[dict[str, Any]] | None, plain: list[dict[str, Any]] | None) -> dict[str, Any]:
    of_task = lambda group, task: [s for s in group or [] if s["task"] == task]
    tasks = {task: _summary(*(of_task(group, task) for group in (samples, peer, plain))) for task in dict.fromkeys(s["task"] for s in samples)}
    overall = {key: statistics.mean(t[key] for t in tasks.values()) for key in next(iter(tasks.values()))}
    return {**overall, "per_task": tasks}


def _summary(samples: list[dict[str, Any]], peer: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, float]:
    mean = lambda key: statistics.mean(s[key] for s in samples)
    rate = lambda group: statistics.median(s["tokens"] / s["seconds"] for s in group)
    result = {"exact_match": mean("right"), "nfe": mean("nfe"), "tokens_per_forward": sum(s["tokens"] for s in samples) / sum(s["nfe"] for s in samples), "tokens_per_second": rate(samples)}
    if peer:
        result["speedup_vs_peer"] = rate(samples) / rate(peer)
    if plain:
        result["same_as_llada"] = statistics.mean(s["text"] == p["text"] for s, p in zip(samples, plain))
    if "local_ar_ness" in samples[0]:
        result |= {"local_ar_ness": mean("local_ar_ness"), "global_ar_ness": mean("global_ar_ness")}
    return result
