"""How far a draft's law is from its target's, per token and with gradients for the draft's logits.

Methods: DistillSpec (Zhou et al. 2023, arXiv:2310.08461). Every function takes the target's and the draft's logits [N, V], of the same
vocabulary, and returns float32 [N], zero where the laws are equal.
"""

from __future__ import annotations

import math
from typing import Callable

import torch

LEAST = -30.0  # logarithm of a target probability, at least: what the target rules out must not cost a reverse divergence infinity


def _logarithms(target: torch.Tensor, draft: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return target.float().log_softmax(-1), draft.float().log_softmax(-1)


def _relative_entropy(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of logarithms; what p rules out adds nothing."""
    return torch.where(p > -math.inf, p.exp() * (p - q), 0.0).sum(-1)


def forward_kl(target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
    """KL(p || q): the draft must cover all that the target may say."""
    return _relative_entropy(*_logarithms(target, draft))


def reverse_kl(target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
    """KL(q || p): the draft must not say what the target would not."""
    p, q = _logarithms(target, draft)
    return _relative_entropy(q, p.clamp(min=LEAST))


def jensen_shannon(target: torch.Tensor, draft: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """share KL(p || m) + (1 - share) KL(q || m), m = share p + (1 - share) q, divided by min(share, 1 - share) so that its scale does not depend on it."""
    p, q = _logarithms(target, draft)
    m = torch.logaddexp(p + math.log(share), q + math.log1p(-share))
    return (share * _relative_entropy(p, m) + (1 - share) * _relative_entropy(q, m)) / min(share, 1 - share)


def total_variation(target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
    """1 - sum min(p, q): how often a sampled draft is rejected. Nearly flat where the laws are far apart."""
    p, q = _logarithms(target, draft)
    return 1 - torch.minimum(p.exp(), q.exp()).sum(-1)


DIVERGENCES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"fkl": forward_kl, "rkl": reverse_kl, "jsd": jensen_shannon, "tvd": total_variation}
