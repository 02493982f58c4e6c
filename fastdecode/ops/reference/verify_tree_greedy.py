import torch


def children(first_child: torch.Tensor, next_sibling: torch.Tensor, node: int) -> list[int]:
    """Child nodes of one node, in sibling order. first_child, next_sibling: int32 [N]."""
    result, child = [], int(first_child[node])
    while child >= 0:
        result.append(child)
        child = int(next_sibling[child])
    return result


def padded(paths: list[list[int]], nodes: int, device: torch.device) -> torch.Tensor:
    """Ragged node lists to int32 [B, nodes], padded with -1."""
    rows = [p + [-1] * (nodes - len(p)) for p in paths]
    return torch.tensor(rows, dtype=torch.int32, device=device).reshape(len(paths), nodes)


def verify_tree_greedy(tokens, first_child, next_sibling, choice):
    batch, nodes = tokens.shape
    paths, following = [], []
    for b in range(batch):
        path = [0]
        while True:
            wanted = int(choice[b, path[-1]])
            match = [c for c in children(first_child[b], next_sibling[b], path[-1]) if int(tokens[b, c]) == wanted]
            if not match:
                break
            path.append(match[0])
        paths.append(path)
        following.append(wanted)
    lengths = [len(p) - 1 for p in paths]
    return padded(paths, nodes, tokens.device), torch.tensor(lengths, dtype=torch.int32), torch.tensor(following, dtype=torch.int32)
