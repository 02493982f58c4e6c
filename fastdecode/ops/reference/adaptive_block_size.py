import torch


def adaptive_block_size(stats, begin, position, start, reach, remaining, delimiters, bar, default, length):
    confidence = (stats.sample_logit.double() - stats.logsumexp.double()).exp().float()
    confidence = confidence.masked_fill(~torch.isin(stats.ints[:, 1], delimiters), -1.0)
    for b in range(len(start)):
        rows = [r for r in range(int(begin[b]), int(begin[b + 1])) if start[b] <= position[r] < start[b] + reach[b]]
        best = max(rows, key=lambda r: (float(confidence[r]), -r), default=None)
        sure = best is not None and confidence[best] >= max(bar, 0.0)
        length[b] = position[best] - start[b] + 1 if sure else min(default, int(remaining[b]))
