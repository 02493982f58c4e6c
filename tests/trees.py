"""Random trees in the arrays that the verification operations read."""

from typing import NamedTuple

import torch


class Tree(NamedTuple):
    tokens: torch.Tensor  # int32 [B, N]
    parents: torch.Tensor  # int32 [B, N], -1 for the root
    first_child: torch.Tensor  # int32 [B, N]
    next_sibling: torch.Tensor  # int32 [B, N]


def links(parents: torch.Tensor, descending: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """first_child and next_sibling of int32 parents [B, N]; siblings in ascending, or descending, node order."""
    first, sibling = torch.full_like(parents, -1), torch.full_like(parents, -1)
    for b in range(parents.shape[0]):
        last: dict[int, int] = {}
        nodes = range(1, parents.shape[1])
        for node in reversed(nodes) if descending else nodes:
            parent = int(parents[b, node])
            if parent in last:
                sibling[b, last[parent]] = node
            elif parent >= 0:
                first[b, parent] = node
            last[parent] = node
    return first, sibling


def random_trees(batch: int, nodes: int, vocab: int, seed: int) -> Tree:
    """Topological trees whose siblings carry distinct tokens; no node has more than `vocab` children."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: int(torch.randint(0, n, (1,), generator=generator))
    tokens = torch.zeros(batch, nodes, dtype=torch.int32)
    parents = torch.full((batch, nodes), -1, dtype=torch.int32)
    for b in range(batch):
        used: list[set[int]] = [set()]
        for node in range(1, nodes):
            open_nodes = [i for i, u in enumerate(used) if len(u) < vocab]
            parent = open_nodes[draw(len(open_nodes))]
            free = sorted(set(range(vocab)) - used[parent])
            token = free[draw(len(free))]
            used[parent].add(token)
            used.append(set())
            tokens[b, node], parents[b, node] = token, parent
    return Tree(tokens, parents, *links(parents))
