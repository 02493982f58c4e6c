"""Cross entropy between laws over a vocabulary, with little memory."""

from __future__ import annotations

import torch


class _CrossEntropy(torch.autograd.Function):
    """-(law * log_softmax(logits)).sum(-1) with bfloat16 intermediates, which are large."""

    @staticmethod
    def forward(ctx, logits, law):
        top, at = logits.max(-1, keepdim=True)
        probs = logits.softmax(-1)
        log_z = top.float() - probs.gather(-1, at).float().log()
        ctx.save_for_backward(probs, law)
        return log_z[:, 0] - (law * logits).sum(-1, dtype=torch.float32)

    @staticmethod
    def backward(ctx, grad):
        probs, law = ctx.saved_tensors
        return (probs - law).mul_(grad[:, None].to(probs.dtype)), None


def cross_entropy(logits: torch.Tensor, law: torch.Tensor) -> torch.Tensor:
    """[N] from logits [N, V] and laws [N, V] that sum to 1."""
    return _CrossEntropy.apply(logits, law)
