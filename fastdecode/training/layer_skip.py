"""Training a model so that its early layers can already say the next token (LayerSkip, arXiv:2404.16710)."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel


def layer_skip_loss(model: PreTrainedModel, tokens: torch.Tensor, early: float = 0.2) -> torch.Tensor:
    """Cross entropy of the next token behind every layer, through the final norm and head that all layers share.

    Layers count in proportion to their number, all but the last together `early` times as much as the last one.

    Args:
        model: a decoder whose `model.norm` stands before its head (Llama, Qwen, Mistral, ...).
        tokens: int64 [B, T].
    """
    if not 0 <= early < float("inf"):
        raise ValueError(f"early={early} must be a finite number of at least 0: what early exits weigh beside the last layer")
    if tokens.dim() != 2 or tokens.shape[1] < 2:
        raise ValueError(f"tokens has shape {list(tokens.shape)}, expected [B, T] with T of at least 2: every token is learned from those before it")
    if not hasattr(model.base_model, "norm"):
        raise ValueError(f"model is {type(model).__name__}, which has no model.norm before its head; early exits are for Llama's relatives")
    # All but the last are in front of the norm, which the last one has behind it.
    *inner, last = model.base_model(tokens, output_hidden_states=True, use_cache=False).hidden_states[1:]
    states = [*(model.base_model.norm(h) for h in inner), last]
    weights = [early * (i + 1) / sum(range(1, len(states))) for i in range(len(inner))] + [1.0]
    head, target = model.get_output_embeddings(), tokens[:, 1:].flatten()
    losses = (w * F.cross_entropy(head(h[:, :-1]).flatten(0, 1).float(), target) for w, h in zip(weights, states))
    return sum(losses) / sum(weights)
