"""Measuring speculative decoding beside its peers: interleaved repeats, the same number of tokens, prefill apart."""

from __future__ import annotations

import json
import platform
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterable

import torch
import transformers

from fastdecode import _C, SpeculativeGenerator
from fastdecode._version import __version__

NAMED_CATEGORIES = ("translation", "summarization", "qa", "math_reasoning", "rag")  # of Spec-Bench; all others are mt_bench


class TokenClock:
    """A streamer that notes when tokens arrive."""

    def __init__(self):
        self.events: list[tuple[float, list[int]]] = []
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt:
            self.events.append((time.perf_counter(), value.flatten().tolist()))
        self._prompt = False

    def end(self) -> None:
        pass

    def sample(self) -> dict[str, Any]:
        """Tokens after the first arrival and the seconds they took: what came with the prompt's pass is not counted."""
        tokens = [t for _, new in self.events for t in new]
        first = self.events[0]
        return {"tokens": tokens, "counted": len(tokens) - len(first[1]), "seconds": self.events[-1][0] - first[0], "rounds": len(self.events)}


def header() -> dict[str, Any]:
    """What every report says about where it comes from."""
    return {
        "schema": 1,
        "machine": {"processor": platform.processor() or platform.machine(), "instruction_set": _C.isa(), "threads": _C.num_threads()},
        "versions": {"fastdecode": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "command": " ".join(sys.argv),
    }


def load_prompts(path: str | Path, limit: int | None = None) -> list[tuple[str, str]]:
    """(category, first turn) of a Spec-Bench file; a limit takes evenly spread questions."""
    questions = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    if limit and limit < len(questions):
        questions = [questions[i * len(questions) // limit] for i in range(limit)]
    return [(q["category"] if q["category"] in NAMED_CATEGORIES else "mt_bench", q["turns"][0]) for q in questions]


def methods(model, tokenizer, names: Iterable[str], sampling: dict[str, Any], new_tokens: int, target: str = "auto") -> dict[str, Callable[[list[int]], dict[str, Any]]]:
    """Name -> function from prompt ids to a measured sample. Every method emits exactly `new_tokens` tokens (EOS is ignored).

    A name is a peer (hf, hf-prompt-lookup), "plain" or a drafter; "@hf" or "@native" behind it chooses another target.
    """
    common = {"max_new_tokens": new_tokens, "eos_token_id": -1, **sampling}

    def peer(**extra):
        def run(ids: list[int]) -> dict[str, Any]:
            clock, prompt = TokenClock(), torch.tensor([ids])
            with torch.inference_mode():
                model.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, streamer=clock, **common, **extra)
            return clock.sample()

        return run

    def ours(name: str):
        drafter, _, other = name.partition("@")
        generator = SpeculativeGenerator(model, tokenizer, drafter="none" if drafter == "plain" else drafter, target=other or target)

        def run(ids: list[int]) -> dict[str, Any]:
            clock = TokenClock()
            result = generator.generate(ids, streamer=clock, seed=0, **common)
            return {**clock.sample(), "mean_acceptance_length": result.stats.mean_acceptance_length}

        return run

    known = {"hf": lambda: peer(), "hf-prompt-lookup": lambda: peer(prompt_lookup_num_tokens=10)}
    return {name: known[name]() if name in known else ours(name) for name in names}


def run(
    model, tokenizer, prompts: list[tuple[str, str]], names: list[str], new_tokens: int, repeats: int, sampling: dict[str, Any], progress: Callable = iter, target: str = "auto"
) -> dict[str, Any]:  # fmt: skip
    """Measures every method on every prompt, interleaved, `repeats` times; returns the report as plain data."""
    runners = methods(model, tokenizer, names, sampling, new_tokens, target)
    encoded = [(category, _chat_ids(tokenizer, text)) for category, text in prompts]
    for runner in runners.values():  # warm-up
        runner(encoded[0][1])
    samples: dict[str, list[dict]] = {name: [] for name in names}
    order = list(names)
    for repeat in range(repeats):
        for i in progress(range(len(encoded))):
            random.Random(repeat * len(encoded) + i).shuffle(order)
            for name in order:
                samples[name].append({"prompt": i, "category": encoded[i][0], **runners[name](encoded[i][1])})
    return _report(model, names, samples, {"max_new_tokens": new_tokens, "repeats": repeats, "prompts": len(encoded), "target": target, **sampling})


def _chat_ids(tokenizer, text: str) -> list[int]:
    return list(tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True)["input_ids"])


def _report(model, names, samples, settings: dict[str, Any]) -> dict[str, Any]:
    plain = {target: {s["prompt"]: s["tokens"] for s in samples.get(f"plain{target}", [])} for target in ("", "@hf", "@native")}
    report = {name: _summary(samples[name], plain[name[name.find("@") :] if "@" in name else ""]) for name in names}
    for name in names:
        if "hf" in report:
            report[name]["speedup_vs_hf"] = _ratios(samples[name], samples["hf"])
    return {**header(), "settings": {"dtype": str(model.dtype), **settings}, "methods": report}


def _rate(samples: list[dict]) -> float:
    return sum(s["counted"] for s in samples) / sum(s["seconds"] for s in samples)


def _by_category(samples: list[dict]) -> dict[str, list[dict]]:
    return {c: [s for s in samples if s["category"] == c] for c in sorted({s["category"] for s in samples})}


def _summary(samples: list[dict], plain: dict[int, list[int]]) -> dict[str, Any]:
    categories = {c: _rate(group) for c, group in _by_category(samples).items()}
    rates = [s["counted"] / s["seconds"] for s in samples]
    lengths = [s["mean_acceptance_length"] for s in samples if "mean_acceptance_length" in s]
    return {
        "tokens_per_second": statistics.mean(categories.values()),
        "per_prompt_median": statistics.median(rates),
        "per_category": categories,
        "identical_to_plain": len({s["prompt"] for s in samples if plain.get(s["prompt"]) == s["tokens"]}) if plain else None,
        "mean_acceptance_length": statistics.mean(lengths) if lengths else None,
        "rounds": sum(s["rounds"] for s in samples),
    }


def _ratios(samples: list[dict], peer: list[dict], draws: int = 1000) -> dict[str, Any]:
    """Speed ratio overall (mean of categories) and per category, with a 95 % bootstrap interval over prompts."""
    mine, theirs = _by_category(samples), _by_category(peer)
    result, generator = {}, random.Random(0)
    for category in mine:
        prompts = sorted({s["prompt"] for s in mine[category]})
        cell = {p: tuple(sum(s[k] for s in group if s["prompt"] == p) for group in (mine[category], theirs[category]) for k in ("counted", "seconds")) for p in prompts}
        ratio = lambda chosen: (sum(cell[p][0] for p in chosen) / sum(cell[p][1] for p in chosen)) / (sum(cell[p][2] for p in chosen) / sum(cell[p][3] for p in chosen))
        boot = sorted(ratio(generator.choices(prompts, k=len(prompts))) for _ in range(draws))
        result[category] = {"ratio": ratio(prompts), "low": boot[int(0.025 * draws)], "high": boot[int(0.975 * draws)]}
    result["overall"] = {"ratio": statistics.mean(_rate(g) for g in mine.values()) / statistics.mean(_rate(g) for g in theirs.values())}
    return result
