import torch

from fastdecode.ops.reference.race import node_key, race
from fastdecode.ops.reference.verify_tree_greedy import children, padded


def verify_tree_point(tokens, first_child, next_sibling, probs, key):
    batch, nodes = tokens.shape
    paths, following = [], []
    for b in range(batch):
        path = [0]
        while True:
            drawn = race(probs[b, path[-1]], node_key(key[b], len(path) - 1))
            match = [c for c in children(first_child[b], next_sibling[b], path[-1]) if int(tokens[b, c]) == drawn]
            if drawn < 0 or not match:
                break
            path.append(match[0])
        paths.append(path)
        following.append(drawn)
    lengths = [len(p) - 1 for p in paths]
    return padded(paths, nodes, tokens.device), torch.tensor(lengths, dtype=torch.int32), torch.tensor(following, dtype=torch.int32)
