import torch

FORGOTTEN = 1e-6


def credit_fuse(stats, ids, values, alpha, gamma, beta, floats, ints):
    argmax, top1, total = stats.argmax, stats.top1.double(), stats.logsumexp.double()
    values.mul_(beta)
    found = ids == argmax[:, None]
    slot = torch.where(found.any(1), found.int().argmax(1), values.argmin(1))[:, None]
    kept = torch.where(found.any(1), values.gather(1, slot)[:, 0], 0.0)
    values.scatter_(1, slot, (kept.double() + (top1 - total).exp() ** gamma).float()[:, None])
    ids.scatter_(1, slot, argmax[:, None])
    logits = stats.id_logits.double().scatter(1, slot, top1[:, None]).masked_fill(ids < 0, -torch.inf)
    bonus = alpha * torch.log1p(values.double())
    fused = logits + bonus
    weight = (total - top1).exp() + ((logits - top1[:, None]).exp() * torch.expm1(bonus)).nan_to_num(0.0).sum(1)
    best = fused.max(1).values
    floats.copy_(stats.floats)
    floats[:, 0], floats[:, 3], floats[:, 5] = best.float(), (top1 + weight.log()).float(), best.float()
    # The argmax of the logits always holds credit, so the best of the credited tokens is the best of all; ties take the lowest id.
    ints.copy_(torch.where((fused == best[:, None]) & (ids >= 0), ids, 2**31 - 1).min(1).values[:, None])
    forgotten = values < FORGOTTEN
    ids.masked_fill_(forgotten, -1)
    values.masked_fill_(forgotten, 0.0)
