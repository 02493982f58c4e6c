import torch

from fastdecode.ops.reference.race import Purpose, coin, node_key, race
from fastdecode.ops.reference.verify_chain import NO_MASS
from fastdecode.ops.reference.verify_tree_greedy import children, padded


def keep(p, q, draws, key, node, replacement):
    """The token kept after one node, and whether it is one of the draws. p, q: float32 [V]; draws: token ids in draw order."""
    last = node_key(key, node, Purpose.RESIDUAL)
    target, law, mass, law_mass = p.double(), q.double(), 1.0, 1.0
    inside = torch.ones_like(target, dtype=torch.bool)
    for number, token in enumerate(draws):
        if not 0 <= token < len(p):
            continue
        chance = float(target[token]) / mass
        odds = 1.0 if law is None else float(law[token]) / law_mass
        if coin(key, node, number) * odds < chance:
            return token, True
        if not replacement or law is None:
            inside[token] = False
        target = target / mass - (0.0 if law is None else law / law_mass)
        target = torch.where((target <= 0) | ~inside, 0.0, target)
        mass, law_mass = float(target.sum()), 1.0 if law is None else float(law[inside].sum())
        if mass < NO_MASS:  # only rounding leads here
            return race(p, last), False
        if law_mass < NO_MASS:  # nothing is left to draw from: later draws were forced
            law, law_mass = None, 1.0
    return race(target, last), False


def verify_tree_recursive(tokens, first_child, next_sibling, p, q, key, replacement, draw_offsets=None, draw_tokens=None):
    batch, nodes = tokens.shape
    paths, following = [], []
    for b in range(batch):
        path = [0]
        while True:
            node = path[-1]
            below = children(first_child[b], next_sibling[b], node)
            drawn = [int(tokens[b, c]) for c in below] if draw_offsets is None else draw_tokens[int(draw_offsets[b, node]) : int(draw_offsets[b, node + 1])].tolist()
            token, accepted = keep(p[b, node], q[b, node], drawn, key[b], node, replacement)
            match = [c for c in below if accepted and int(tokens[b, c]) == token]
            if not match:
                break
            path.append(match[0])
        paths.append(path)
        following.append(token)
    lengths = [len(path) - 1 for path in paths]
    return padded(paths, nodes, tokens.device), torch.tensor(lengths, dtype=torch.int32), torch.tensor(following, dtype=torch.int32)
