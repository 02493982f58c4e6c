import torch

from fastdecode.ops.reference.unmask_commit import MASKED


def draft_states(ints, begin, position, rank, chosen, tokens, changed, depth, step, draft_tokens, draft_changed, count):
    for b in range(len(tokens)):
        rows = torch.arange(int(begin[b]), int(begin[b + 1]), device=tokens.device)
        left = rows[rank[rows].argsort()][int(chosen[b]) :]
        count[b] = min(max(len(left), 1), depth)
        for k in range(int(count[b])):
            draft_tokens[b, k], draft_changed[b, k] = tokens[b], changed[b]
            draft_tokens[b, k, position[left[:k]].long()] = ints[left[:k], 1]
            draft_changed[b, k, position[left[:k]].long()] = step


def verify_states(tokens, changed, next_tokens, next_changed, count, reached):
    for b in range(len(tokens)):
        at = 0
        while True:
            agrees = (changed[b] == MASKED) | ((next_changed[b, at] != MASKED) & (tokens[b] == next_tokens[b, at]))  # [depth, L]
            further = [k for k in range(at + 1, int(count[b])) if bool(agrees[k].all())]
            if not further:
                break
            at = further[-1]
        reached[b] = at
