"""Acceptance rates of a real pair of models: the optimum for every way of drafting, and what each verification rule reaches.

The comparison that Hu et al. (arXiv:2502.18779) make, for the user's own target, draft and prompts. The target writes a text after
every prompt; at positions of that text both models give their laws, and all rates are computed from the same two rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Sequence

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from fastdecode import SpeculativeGenerator, ops
from fastdecode.benchmark import header
from fastdecode.speculative.drafters.drawn_tree import draws_for

OVERDRAWN = "transport_overdrawn"  # as `ModelDrafter` draws: more often than there is room for, since repeats cost no node
BASE = "recursive_without_replacement"  # what others do with as many distinct drafts; differences are to this
VERIFYING = ("recursive", BASE, "k_seq", "naive")
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
    rows: dict[tuple[float, int], list[tuple[str, list[dict[str, float]]]]] = {(t, n): [] for t in settings.temperatures for n in settings.counts}
    for category, ids in progress(prompts):
        for temperature in settings.temperatures:
            text = generator.generate(ids, max_new_tokens=settings.tokens, do_sample=True, temperature=temperature, top_k=0, seed=0).token_ids
            laws = [_cut(p, q) for p, q in zip(*(_laws(model, ids, text, temperature, settings.stride) for model in (target, draft)))]
            for n in settings.counts:
                rows[temperature, n].append((category, [_rates(p, q, n) for p, q in laws]))
    cells = [{"temperature": t, "drafts": n, **_summary(texts)} for (t, n), texts in rows.items()]
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
    draft = q.float()
    plans = ops.transport_plan(p.float().repeat(2, 1), draft.repeat(2, 1), torch.tensor([n, draws_for(draft, n)], dtype=torch.int32))
    optimum = {"iid": alpha("iid"), "without_replacement": alpha("without_replacement"), "hybrid": max(alpha(f"hybrid:{k}") for k in range(1, n + 1))}
    reached = {"transport": float(plans.alpha[0]), OVERDRAWN: float(plans.alpha[1]), **{name: alpha(name) for name in VERIFYING}}
    return {**{f"optimum {name}": rate for name, rate in optimum.items()}, **reached}


def _summary(texts: Sequence[tuple[str, Sequence[dict[str, float]]]], draws: int = 2000) -> dict[str, Any]:
    """Means per category and their mean, and their differences to `BASE`, from texts of a category with the rates at their positions.

    The 95 % intervals are a bootstrap over texts, because positions of one text are alike.
    """
    names = list(texts[0][1][0])
    generator = np.random.default_rng(0)
    means, boots = {}, {}
    for category in sorted({c for c, _ in texts}):
        own = [positions for c, positions in texts if c == category]
        sums = np.array([[sum(at[name] for at in positions) for name in names] + [len(positions)] for positions in own])  # [texts, names + 1]
        drawn = sums[generator.integers(len(own), size=(draws, len(own)))].sum(1)
        means[category], boots[category] = sums.sum(0)[:-1] / sums.sum(0)[-1], drawn[:, :-1] / drawn[:, -1:]
    overall, overall_boot = np.mean(list(means.values()), 0), np.mean(list(boots.values()), 0)

    def measured(mean: np.ndarray, boot: np.ndarray) -> dict[str, float]:
        low, high = np.quantile(boot, (0.025, 0.975))
        return {"rate": float(mean), "low": float(low), "high": float(high)}

    def of(pick: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        return {**measured(pick(overall), pick(overall_boot)), "per_category": {c: measured(pick(means[c]), pick(boots[c])) for c in means}}

    base = names.index(BASE)
    return {
        "positions": sum(len(positions) for _, positions in texts),
        "verifiers": {name: of(lambda x: x[..., i]) for i, name in enumerate(names)},
        "more_than_base": {name: of(lambda x: x[..., i] - x[..., base]) for i, name in enumerate(names) if i != base},
    }
