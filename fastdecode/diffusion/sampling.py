"""How logits become proposals: temperature and filters, guidance, and what is done about the end of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from fastdecode import ops
from fastdecode.ops import VocabStats

NUMBERS = {"temperature": "0 takes the most probable token", "cfg_scale": "0 is off", "alg_temp": "0 takes the best positions"}


@dataclass(frozen=True)
class Sampling:
    """How proposals are drawn.

    LLaDA (arXiv:2502.09992) draws at a temperature and scores by the model's own probabilities. Dream (arXiv:2508.15487) scores by
    those of the law that it draws from: `law_scores`, which `top_p` and `top_k` bring with them.

    Attributes:
        temperature: 0 takes the most probable token.
        top_p: draw from the fewest most probable tokens whose probabilities reach this sum; 1 is off.
        top_k: of those, from the k most probable ones; 0 is off.
        law_scores: whether scores are of temperature, top_p and top_k too.
        ties: which of equal scores, of which filters make many, is best: that of the more probable token in the model's eyes
            ("probability"), or that of the first position ("position").
        alg_temp: positions are drawn with weights softmax(score / alg_temp); 0 takes the best.
        cfg_scale: classifier-free guidance: logits are given + cfg_scale * (given - without the prompt) (arXiv:2502.09992).
        logits_eos_inf: whether the end of the text is never proposed.
        confidence_eos_eot_inf: whether positions that propose the end of the text or of a turn come last. "reference": as the
            published code does it, which takes their probability out of everybody's sum too (at temperatures above 0 only the
            end of a turn counts).

    Raises:
        ValueError: a value out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    law_scores: bool = False
    ties: str = "probability"
    alg_temp: float = 0.0
    cfg_scale: float = 0.0
    logits_eos_inf: bool = False
    confidence_eos_eot_inf: bool | str = False

    def __post_init__(self):
        for name, off in NUMBERS.items():
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value!r} must be a number of at least 0; {off}")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p!r} must lie above 0 and at most at 1; 1 is off")
        if not isinstance(self.top_k, int) or isinstance(self.top_k, bool) or self.top_k < 0:
            raise ValueError(f"top_k={self.top_k!r} must be an integer of at least 0; 0 is off")
        if self.ties not in ("probability", "position"):
            raise ValueError(f"ties={self.ties!r} is unknown: use probability or position")
        for name in ("law_scores", "logits_eos_inf"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False")
        if not isinstance(self.confidence_eos_eot_inf, bool) and self.confidence_eos_eot_inf != "reference":
            raise ValueError(f"confidence_eos_eot_inf={self.confidence_eos_eot_inf!r} must be True, False or 'reference'")

    @property
    def processed(self) -> bool:
        """Whether scores are of another law than the model's: one pass over the logits does not find them."""
        return self.law_scores or self.top_p < 1 or self.top_k > 0


class Proposals(NamedTuple):
    """What a pass proposes.

    Attributes:
        stats: of R rows, under the law that scores are of. model: the same under the model's own law at temperature 1.
        tie: float32 [R], log-probability of the proposals in the model's eyes, where equal scores are told apart by it.
    """

    stats: VocabStats
    model: VocabStats
    tie: torch.Tensor | None = None


@torch.inference_mode()
def processed(logits: torch.Tensor, sampling: Sampling, banned: torch.Tensor, key: torch.Tensor | None) -> Proposals:
    """Proposals under the law of temperature, top_p and then top_k, as Dream applies them, also where nothing is drawn.

    Args:
        logits: [R, V], overwritten. banned: int32, ids that are never proposed. key: int64 [R, 4], of draws at temperatures above 0.
    """
    rows, device = len(logits), logits.device
    constant = lambda value, dtype=torch.float32: torch.full((rows,), value, dtype=dtype, device=device)
    model = ops.vocab_stats(logits, banned=banned.to(device))
    logits[:, banned.long().to(device)] = -torch.inf
    law = ops.process_probs(logits, temperature=constant(sampling.temperature or 1.0), top_p=constant(sampling.top_p)).log_()
    if sampling.top_k:
        law = ops.process_probs(law, top_k=constant(sampling.top_k, torch.int32)).log_()
    drawing = {"temperature": constant(1.0), "key": key.to(device)} if sampling.temperature else {}
    stats = ops.vocab_stats(law, **drawing)
    tie = None
    if sampling.ties == "probability":
        chosen = stats.sample.long().clamp(min=0)[:, None]
        tie = (logits.gather(1, chosen)[:, 0].float() - model.logsumexp).nan_to_num(nan=-torch.inf).cpu()
    return Proposals(*(VocabStats(found.floats.cpu(), found.ints.cpu()) for found in (stats, model)), tie)


def without(stats: VocabStats, ids: int) -> VocabStats:
    """Statistics whose log-sum-exp lacks the last `ids` of the tokens whose logits are known."""
    floats = stats.floats.clone()
    gone = (stats.id_logits[:, -ids:].double() - stats.logsumexp.double()[:, None]).exp().sum(1)
    floats[:, 3] += torch.log1p(-gone.clamp(max=1 - 2.0**-52)).float()
    return stats._replace(floats=floats)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
