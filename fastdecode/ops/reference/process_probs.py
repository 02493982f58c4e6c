import math

import torch


def process_probs(
    logits, temperature=None, top_k=None, top_p=None, min_p=None, repetition_penalty=None, presence_penalty=None,
    frequency_penalty=None, prefix=None, prefix_offsets=None, generated_from=None,
):  # fmt: skip
    x = logits.float()
    if prefix is not None:
        x = penalised(x, repetition_penalty, presence_penalty, frequency_penalty, prefix, prefix_offsets, generated_from)
    greedy = torch.zeros(len(x), dtype=torch.bool, device=x.device) if temperature is None else temperature == 0
    scores = x if temperature is None else x / temperature.masked_fill(greedy, 1)[:, None]
    if top_k is not None:
        scores = keep_top_k(scores, top_k)
    if top_p is not None:
        scores = keep_top_p(scores, top_p)
    if min_p is not None:
        scores = keep_min_p(scores, min_p)
    one_hot = torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), 1)
    probs = torch.where(greedy[:, None], one_hot, scores.double().softmax(1).float())
    void = x.isnan().any(1) | (x == -math.inf).all(1)
    return probs.masked_fill(void[:, None], math.nan)


def penalised(x, repetition, presence, frequency, prefix, offsets, generated_from):
    x = x.clone()
    for r in range(len(x)):
        tokens = prefix[offsets[r] : offsets[r + 1]].long()
        start = 0 if generated_from is None else max(0, int(generated_from[r]))
        valid = lambda t: t[(t >= 0) & (t < x.shape[1])]
        seen, generated = valid(tokens).unique(), valid(tokens[start:])
        if repetition is not None:
            x[r, seen] = torch.where(x[r, seen] < 0, x[r, seen] * repetition[r], x[r, seen] / repetition[r])
        count = torch.bincount(generated, minlength=x.shape[1]).float()
        if presence is not None:
            x[r] -= torch.where(count > 0, presence[r], 0)
        if frequency is not None:
            x[r] -= torch.where(count > 0, frequency[r] * count, 0)
    return x


def keep_top_k(scores, top_k):
    k = torch.where(top_k > 0, top_k, scores.shape[1]).clamp(max=scores.shape[1]).long()
    kth = scores.sort(dim=1, descending=True).values.gather(1, k[:, None] - 1)
    return scores.masked_fill(scores < kth, -math.inf)


def keep_top_p(scores, top_p):
    """A token stays if those before it, in descending order and lowest id first among equals, weigh less than top_p."""
    ordered, ids = scores.sort(dim=1, descending=True, stable=True)
    probs = ordered.double().softmax(1)
    before = probs.cumsum(1) - probs
    drop = (before >= top_p.double()[:, None]) & (top_p < 1)[:, None]
    drop[:, 0] = False
    return scores.masked_fill(torch.zeros_like(drop).scatter_(1, ids, drop), -math.inf)


def keep_min_p(scores, min_p):
    probs = scores.double().softmax(1)
    return scores.masked_fill(probs < min_p.double()[:, None] * probs.amax(1, keepdim=True), -math.inf)
