import torch


def active_set(changed, low, high, since, shift, positions, count):
    for b in range(len(low)):
        window = changed[b, low[b] : high[b]] > since[b]
        if shift:
            window[:-1] |= window[1:].clone()
        found = torch.nonzero(window)[:, 0].int() + low[b]
        positions[b, : len(found)] = found
        count[b] = len(found)
