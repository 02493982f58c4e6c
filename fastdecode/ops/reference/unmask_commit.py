import math

import torch

MASKED, LOWEST = 2**31 - 1, -3.0e38


def unmask_commit(stats, begin, position, tokens, changed, quota, step, scorer, rule, bar, result, factor=None, noise=None, tie=None, accepted=None, canvas=None, eos=None, cut=math.inf):
    top1, top2, _, total, entropy, sample = stats.floats.double().unbind(1)[:6]
    scores = {
        "confidence": lambda: (sample - total).exp(),
        "margin": lambda: (top1 - total).exp() - (top2 - total).exp(),
        "neg_entropy": lambda: -entropy,
        "left_to_right": lambda: -position.double(),
        "given": lambda: result.scores.double(),
    }[scorer]()
    if factor is not None:
        scores = scores * factor.double()
    if noise is not None:
        scores = scores + noise.double()
    scores = torch.where(scores > LOWEST, scores, LOWEST).float()  # NaN too
    proposal = stats.ints[:, 1]
    for b in range(len(quota)):
        rows = torch.arange(int(begin[b]), int(begin[b + 1]), device=tokens.device)
        columns = position[rows].long()
        own = scores[rows].masked_fill((proposal[rows] < 0) | (changed[b, columns] != MASKED), -math.inf)
        order = torch.arange(len(own), device=own.device) if tie is None else tie[rows].argsort(descending=True, stable=True)
        order = order[own[order].argsort(descending=True, stable=True)]
        result.scores[rows] = own
        result.rank[rows[order]] = torch.arange(len(rows), dtype=torch.int32, device=tokens.device)
        best = own[order][own[order] > -math.inf]
        count = max(_taken(best.tolist(), rule, torch.tensor(bar, dtype=torch.float32).item()), int(quota[b]))
        taken = torch.zeros_like(own, dtype=torch.bool)
        taken[order[:count]] = True
        if accepted is not None:
            taken |= accepted[rows]
        taken &= own > -math.inf
        tokens[b, columns[taken]] = proposal[rows[taken]]
        changed[b, columns[taken]] = step
        result.chosen[b] = taken.sum()
        if canvas is not None:
            ending = taken & torch.isin(proposal[rows], eos) & (own >= cut) & (cut < math.inf)
            result.finish[b] = _finish(tokens[b], changed[b], canvas[b].tolist(), eos, columns[ending], step)


def _finish(tokens, changed, canvas, eos, cuts, step):
    """Fills the masks behind the first cut, and says how far the canvas has come."""
    begin, block, end = canvas
    if len(cuts):
        behind = torch.arange(begin, end, device=tokens.device)
        behind = behind[(behind > cuts[0]) & (changed[behind] == MASKED)]
        tokens[behind], changed[behind] = int(tokens[cuts[0]]), step
    masks = (changed[begin:end] == MASKED).nonzero()[:, 0]
    ends = (torch.isin(tokens[begin:end], eos) & (changed[begin:end] >= 0) & (changed[begin:end] != MASKED)).nonzero()[:, 0]
    mask, ended = (int(found[0]) + begin if len(found) else end for found in (masks, ends))
    return 3 if ended < mask else 2 if mask >= end else 1 if mask >= block else 0


def _taken(scores, rule, bar):
    """How many of the descending scores the rule takes."""
    if rule == "top_k" or not scores:
        return 0
    if rule == "threshold":
        return sum(score >= bar for score in scores)
    count = 1
    while count < len(scores) and (count + 2) * (1.0 - scores[count]) < bar:
        count += 1
    return len(scores) if rule == "factor_with_last" and count == len(scores) - 1 else count
