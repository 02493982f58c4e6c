"""Acceptance rates of a real pair of models: the optimum for every way of drafting, and what each verification rule reaches.

The comparison that Hu et al. (arXiv:2502.18779) make, for the user's own target, draft and prompts. The target writes a text after
every prompt; at positions of that text both models give their laws, and all rates are computed from the same two rows.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from fastdecode import SpeculativeGenerator, ops
from fastdecode.benchmark import header

DRAFTING = ("iid", "without_replacement", "hybrid")  # hybrid: the best number of deterministic drafts
VERIFYING = ("transport", "recursive", "recursive_without_replacement", "k_seq", "naive")
CUT = 1e-7  # tokens of less mass in both laws are put together into one, which changes a rate by no more than that mass


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        temperatures: of both laws. counts: numbers of drafts. tokens: of the text after each prompt; every `stride`-th position counts.
    """

    temperatures: Sequence[float] = (0.8, 1.0)
    counts: Sequence[int] = (2, 4, 8)
    tokens: int = 48
    stride: int = 4


def load_pair(target: str, draft: str, removed: Sequence[int] = ()):
    """Both models in float32, and the target's tokenizer; `removed` layers are taken out of the draft."""
    load = lambda name: AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    small = load(draft)
    layers = len(small.model.layers) if removed else 0
    if any(i >= layers for i in removed):
        raise ValueError(f"without_layers={list(removed)} names layers beyond the draft's {layers}")
    return load(target), without_layers(small, removed) if removed else small, AutoTokenizer.from_pretrained(target)


def without_layers(model: PreTrainedModel, removed: Sequence[int]) -> PreTrainedModel:
    """The model with some decoder layers taken out: a draft with the same tokenizer where there is no other. Changes the model."""
    model.model.layers = torch.nn.ModuleList(layer for i, layer in enumerate(model.model.layers) if i not in removed)
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = i
    model.config.num_hidden_layers = len(model.model.layers)
    return model


def compare(target: PreTrainedModel, draft: PreTrainedModel, prompts: Sequence[tuple[str, list[int]]], settings: Settings, progress: Callable[[Iterable], Iterable] = iter) -> dict[str, Any]:
    """Rates by temperature and number of drafts; prompts are (category, token ids). The report is plain data."""
    generator = SpeculativeGenerator(target, drafter="suffix")
    rows: dict[tuple[float, int], list[dict[str, Any]]] = {(t, n): [] for t in settings.temperatures for n in settings.counts}
    for category, ids in progress(prompts):
        for temperature in settings.temperatures:
            text = generator.generate(ids, max_new_tokens=settings.tokens, do_sample=True, temperature=temperature, top_k=0, seed=0).token_ids
            for p, q in zip(*(_laws(model, ids, text, temperature, settings.stride) for model in (target, draft))):
                p, q = _cut(p, q)
                for n in settings.counts:
                    rows[temperature, n].append({"category": category, **_rates(p, q, n)})
    cells = [{"temperature": t, "drafts": n, **_summary(samples)} for (t, n), samples in rows.items()]
    return {**header(), "settings": vars(settings) | {"prompts": len(prompts)}, "rates": cells}


def _laws(model: PreTrainedModel, prompt: list[int], text: list[int], temperature: float, stride: int) -> torch.Tensor:
    """float64 [positions, V]: laws of the tokens of the text, every `stride`-th."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + text[:-1]]), use_cache=False, logits_to_keep=len(text)).logits[0, ::stride]
    return (logits.double() / temperature).softmax(-1)


def _cut(p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Laws of the common vocabulary, with the rare tokens of both as one."""
    common = min(len(p), len(q))
    p, q = p[:common] / p[:common].sum(), q[:common] / q[:common].sum()
    seen = (p > CUT) | (q > CUT)
    join = lambda law: torch.cat([law[seen], law[~seen].sum()[None]])
    return join(p), join(q)


def _rates(p: torch.Tensor, q: torch.Tensor, n: int) -> dict[str, float]:
    alpha = lambda rule: ops.transport_alpha(p, q, n, rule)
    plan = ops.transport_plan(p.float()[None], q.float()[None], torch.tensor([n], dtype=torch.int32))
    optimum = {"iid": alpha("iid"), "without_replacement": alpha("without_replacement"), "hybrid": max(alpha(f"hybrid:{k}") for k in range(1, n + 1))}
    reached = {"transport": float(plan.alpha[0]), **{name: alpha(name) for name in VERIFYING[1:]}}
    return {**{f"optimum {name}": rate for name, rate in optimum.items()}, **reached}


def _summary(samples: list[dict[str, Any]], draws: int = 400) -> dict[str, Any]:
    """Mean over categories of mean rates, with a 95 % bootstrap interval over positions; and the means per category."""
    names = [name for name in samples[0] if name != "category"]
    categories = sorted({s["category"] for s in samples})
    groups = {c: [s for s in samples if s["category"] == c] for c in categories}
    generator = random.Random(0)
    result = {}
    for name in names:
        per_category = {c: statistics.fmean(s[name] for s in group) for c, group in groups.items()}
        boot = sorted(statistics.fmean(statistics.fmean(s[name] for s in generator.choices(group, k=len(group))) for group in groups.values()) for _ in range(draws))
        result[name] = {"rate": statistics.fmean(per_category.values()), "low": boot[int(0.025 * draws)], "high": boot[int(0.975 * draws)], "per_category": per_category}
    return {"positions": len(samples), "verifiers": result}
