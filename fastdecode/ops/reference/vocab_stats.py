import math

import torch

from fastdecode.ops.reference.random import stream_uniform

FORGOTTEN = 1e-6  # credit below


def vocab_stats(logits, ids=None, banned=None, temperature=None, key=None, credit=None):
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
    if credit is not None:
        floats[:, 6] = floats[:, 3]
        for r, row in enumerate(credit.rows.tolist()):
            if row >= 0 and ints[r, 0] >= 0 and top1[r].isfinite():
                add_credit(x[r], floats[r], ints[r], credit.ids[row], credit.values[row], credit.rates[r].double())
    return floats.float(), ints.int(), None if ids is None else logits_of(x, ids)


def add_credit(x, floats, ints, ids, values, rates):
    """Gives credit to the most probable token of the logits x, and looks at x + alpha log(1 + credit)."""
    alpha, gamma, beta = rates
    values.mul_(beta.float())
    holder = (ids == ints[0]).nonzero()
    slot = holder[0, 0] if len(holder) else values.argmin()  # without room, the least credited one goes
    values[slot] = (values[slot].double() if len(holder) else 0.0) + (floats[0] - floats[3]).exp() ** gamma
    ids[slot] = ints[0]
    changed = x.clone()
    changed[ids[ids >= 0].long()] += alpha * values[ids >= 0].double().log1p()
    law = changed.log_softmax(0)
    ints[1] = changed.argmax()
    floats[3], floats[4], floats[5] = changed.logsumexp(0), -(law.exp() * law).nan_to_num(0.0).sum(), changed.max()
    ids[values < FORGOTTEN], values[values < FORGOTTEN] = -1, 0.0


def gumbel_sample(x, temperature, key):
    """The token with the highest logit / temperature - log E, where E is the token's exponential variate."""
    exponential = -torch.log1p(-stream_uniform(key, x.shape[1]))
    scores = x / temperature.double()[:, None] - exponential.log()
    return scores.masked_fill(x == -math.inf, -math.inf).argmax(1)


def logits_of(x, ids):
    valid = (ids >= 0) & (ids < x.shape[1])
    return x.gather(1, ids.clamp(0, x.shape[1] - 1).long()).masked_fill(~valid, -math.inf).float()
