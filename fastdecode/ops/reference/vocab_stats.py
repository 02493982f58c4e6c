import math

import torch

from fastdecode.ops.reference.random import stream_uniform


def vocab_stats(logits, ids=None, banned=None, temperature=None, key=None):
    x = logits.double()
    if banned is not None:
        x = x.index_fill(1, banned[(banned >= 0) & (banned < x.shape[1])].long(), -math.inf)
    nan = x.isnan().any(1)
    top1, first = x.max(1).values, x.argmax(1)
    without_first = x.scatter(1, first[:, None], -math.inf)
    top2, second = without_first.max(1).values, without_first.argmax(1)
    probs = x.softmax(1)
    entropy = -torch.where(probs > 0, probs * x.log_softmax(1), probs).sum(1)
    entropy = entropy.masked_fill(top1.isinf(), math.nan)
    sample = first if key is None else torch.where((temperature > 0) & top1.isfinite(), gumbel_sample(x, temperature, key), first)

    floats = torch.zeros(x.shape[0], 16, dtype=torch.float64, device=x.device)
    columns = (top1, top2, second.masked_fill(top2 == -math.inf, -1), x.logsumexp(1), entropy, x.gather(1, sample[:, None])[:, 0])
    floats[:, :6] = torch.stack(columns, 1).masked_fill(nan[:, None], math.nan)
    floats[:, 2].masked_fill_(nan, -1)
    ints = torch.stack([first, sample], 1).masked_fill((nan | (top1 == -math.inf))[:, None], -1)
    return floats.float(), ints.int(), None if ids is None else logits_of(x, ids)


def gumbel_sample(x, temperature, key):
    """The token with the highest logit / temperature - log E, where E is the token's exponential variate."""
    exponential = -torch.log1p(-stream_uniform(key, x.shape[1]))
    scores = x / temperature.double()[:, None] - exponential.log()
    return scores.masked_fill(x == -math.inf, -math.inf).argmax(1)


def logits_of(x, ids):
    valid = (ids >= 0) & (ids < x.shape[1])
    return x.gather(1, ids.clamp(0, x.shape[1] - 1).long()).masked_fill(~valid, -math.inf).float()
