import torch


def tree_expand(logits, scores, k):
    rows, vocab = logits.shape
    x = logits.double()
    ids = torch.full((rows, k), -1, dtype=torch.int32)
    children = torch.zeros(rows, k)
    for r in range(rows):
        if bool(x[r].isnan().any()) or not bool(x[r].max().isfinite()):
            continue
        order = x[r].argsort(descending=True, stable=True)[:k]
        order = order[x[r][order] > -torch.inf]
        ids[r, : len(order)] = order.int()
        children[r, : len(order)] = (scores[r].double() * x[r].softmax(-1)[order]).float()
    return ids.to(logits.device), children.to(logits.device)
