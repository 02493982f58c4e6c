import math

import torch


def visible_keys(lengths, ancestors, depth, window, slots):
    """bool [b, N, S]: which slots each node sees."""
    batch, nodes, _ = ancestors.shape
    node = torch.arange(nodes, device=ancestors.device)
    among_nodes = (ancestors[:, :, node // 64] >> (node % 64)) & 1  # [b, N, N]
    mask = torch.zeros(batch, nodes, slots, dtype=torch.bool, device=ancestors.device)
    for b, prefix in enumerate(lengths.tolist()):
        mask[b, :, :prefix] = True
        mask[b, :, prefix : prefix + nodes] = among_nodes[b].bool()
        if window:
            position = torch.arange(slots, device=ancestors.device)
            position[prefix : prefix + nodes] = prefix + depth[b]
            mask[b] &= position[None] > prefix + depth[b, :, None] - window
    return mask


def tree_attention(query, key, value, rows, lengths, ancestors, depth, scaling, window):
    if rows is not None:
        key, value = key[rows.long()], value[rows.long()]
    batch, group = query.shape[0], query.shape[1] // key.shape[1]
    wide = torch.promote_types(query.dtype, torch.float32)
    end = int(lengths.max()) + query.shape[2] if batch else 0  # later slots are not used
    key, value = (t[:batch, :, :end].to(wide).repeat_interleave(group, 1) for t in (key, value))  # [b, H, S, D]
    mask = visible_keys(lengths, ancestors, depth, window, key.shape[2])
    scores = (query.to(wide) @ key.transpose(2, 3) * scaling).masked_fill(~mask[:, None], -math.inf)
    used = mask.any(1)[:, None, :, None]  # unused slots may hold anything
    return (scores.softmax(-1) @ torch.where(used, value, 0)).transpose(1, 2).to(query.dtype).contiguous()
