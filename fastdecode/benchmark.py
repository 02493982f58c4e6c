"""Measuring speculative decoding beside its peers: interleaved repeats, the same number of tokens, prefill apart."""

from __future__ import annotations

import json
import platform
import random
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

import torch
import transformers

from fastdecode import _C, SpeculativeGenerator
from fastdecode._version import __version__
from fastdecode.peers import GGUF_PEERS, Arrivals, TokenClock, transformers_generate
from fastdecode.targets import make_target
from fastdecode.targets.base import TargetModel

NAMED_CATEGORIES = ("translation", "summarization", "qa", "math_reasoning", "rag")  # of Spec-Bench; all others are mt_bench


def sample_of(events: Arrivals) -> dict[str, Any]:
    """Tokens after the first arrival and the seconds they took: what came with the prompt's pass is not counted."""
    tokens = [t for _, new in events for t in new]
    return {"tokens": tokens, "counted": len(tokens) - len(events[0][1]), "seconds": events[-1][0] - events[0][0], "rounds": len(events)}


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


@dataclass(frozen=True)
class Settings:
    """What every method of a run has to do.

    Attributes:
        new_tokens: exactly so many (EOS is ignored).
        temperature: 0 takes the most probable token.
        target: of the methods that are not peers and do not name one.
        gguf: the model's file for the peers that read it.
    """

    new_tokens: int
    temperature: float = 0.0
    target: str = "auto"
    gguf: Path | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        return {"do_sample": True, "temperature": self.temperature, "top_k": 0} if self.temperature else {"do_sample": False}


def method(name: str, model, tokenizer, settings: Settings, targets: dict[tuple[str, str], TargetModel] | None = None) -> Callable[[list[int]], dict[str, Any]]:
    """Function from prompt ids to a measured sample.

    A name is a peer (hf, hf-prompt-lookup, llama-cpp, openvino-genai), "plain" or a drafter; "-int8" behind it asks for
    weights of one byte, "@hf" or "@native" for another target. Methods with the same `targets` share packed weights, and so
    where these lie in memory, which a pass can be 5 % faster or slower for.
    """
    peer = {
        "hf": lambda: transformers_generate(model, settings.new_tokens, settings.sampling),
        "hf-prompt-lookup": lambda: transformers_generate(model, settings.new_tokens, settings.sampling, prompt_lookup_num_tokens=10),
    }.get(name)
    if name in GGUF_PEERS:
        peer = lambda: GGUF_PEERS[name].start(settings.gguf, _C.num_threads(), settings.new_tokens, settings.temperature)
    if peer is None:
        return _own_method(name, model, tokenizer, settings, {} if targets is None else targets)
    runner = peer()
    return lambda ids: sample_of(runner(ids))


def _missing(name: str, settings: Settings) -> str | None:
    """Why a peer cannot run."""
    if name not in GGUF_PEERS:
        return None
    if not GGUF_PEERS[name].installed:
        return f"{GGUF_PEERS[name].package} is not installed"
    return None if settings.gguf else "the model is not there as a GGUF file (--gguf)"


def _own_method(name: str, model, tokenizer, settings: Settings, targets: dict[tuple[str, str], TargetModel]) -> Callable[[list[int]], dict[str, Any]]:
    base, _, target = name.partition("@")
    drafter, kind = base.removesuffix("-int8"), (target or settings.target, "int8" if base.endswith("-int8") else "auto")
    if kind not in targets:
        targets[kind] = make_target(kind[0], model, kind[1])
    generator = SpeculativeGenerator(model, tokenizer, drafter="none" if drafter == "plain" else drafter, target=targets[kind])

    def run(ids: list[int]) -> dict[str, Any]:
        clock = TokenClock()
        result = generator.generate(ids, streamer=clock, seed=0, max_new_tokens=settings.new_tokens, eos_token_id=-1, **settings.sampling)
        return {**sample_of(clock.events), "mean_acceptance_length": result.stats.mean_acceptance_length}

    return run


def run(model, tokenizer, prompts: list[tuple[str, str]], names: list[str], repeats: int, settings: Settings, progress: Callable = iter) -> dict[str, Any]:
    """Measures every method on every prompt, interleaved, `repeats` times; returns the report as plain data."""
    encoded = [(category, chat_ids(tokenizer, text)) for category, text in prompts]
    missing = {name: {"missing": reason} for name in names if (reason := _missing(name, settings))}
    targets: dict[tuple[str, str], TargetModel] = {}
    runners = {name: method(name, model, tokenizer, settings, targets) for name in names if name not in missing}
    for runner in runners.values():  # warm-up
        runner(encoded[0][1])
    samples: dict[str, list[dict]] = {name: [] for name in runners}
    order = list(runners)
    for repeat in range(repeats):
        for i in progress(range(len(encoded))):
            random.Random(repeat * len(encoded) + i).shuffle(order)
            for name in order:
                samples[name].append({"prompt": i, "category": encoded[i][0], **runners[name](encoded[i][1])})
    described = {"dtype": str(model.dtype), "repeats": repeats, "prompts": len(encoded), **asdict(settings), "gguf": settings.gguf.name if settings.gguf else None}
    return {**header(), "settings": described, "methods": {**_report(samples), **missing}}


def chat_ids(tokenizer, text: str) -> list[int]:
    """Token ids of a conversation that starts with this message."""
    return list(tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True)["input_ids"])


def _report(samples: dict[str, list[dict]]) -> dict[str, Any]:
    report = {}
    for name, own in samples.items():
        plain = samples.get(_plain_of(name), [])
        report[name] = _summary(own, {s["prompt"]: s["tokens"] for s in plain})
        report[name] |= {f"speedup_vs_{peer}": _ratios(own, theirs) for peer, theirs in (("hf", samples.get("hf")), ("plain", plain)) if theirs}
    return report


def _plain_of(name: str) -> str:
    """The plain decoding of the same model: same weights, same target. Peers are compared with ours."""
    base, _, target = name.partition("@")
    return "plain" + ("-int8" if base.endswith("-int8") else "") + (f"@{target}" if target else "")


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
