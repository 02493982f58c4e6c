import torch

from fastdecode.ops.reference.race import Purpose, coin, node_key, race

NO_MASS = 1e-12  # a residual below this exists through rounding only


def residual(p: torch.Tensor, q: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """max(scale * p - q, 0), unnormalised; float64 [V]."""
    difference = scale * p.double() - q.double()
    return torch.where(difference <= 0, 0.0, difference)


def follow(p, q, scale, key, position) -> int:
    """The token after the kept ones: from the residual, or from p where there is no draft or the residual vanished."""
    weights = p.double() if q is None else residual(p, q, scale)
    if q is not None and float(weights.sum()) < NO_MASS:
        weights = p.double()
    return race(weights, node_key(key, position, Purpose.RESIDUAL))


def at(row: torch.Tensor, token: int) -> float:
    """Probability of a token; ids outside the vocabulary have none."""
    return float(row[token]) if 0 <= token < len(row) else 0.0


def token_rule(tokens, q, p, key):
    """Accepted tokens of one chain, and the factor of p in the residual (2211.17192)."""
    for i, token in enumerate(tokens):
        if not coin(key, i) * at(q[i], token) < at(p[i], token):
            return i, 1.0
    return len(tokens), 1.0


def block_rule(tokens, q, p, key):
    """The same for block verification (2403.10444): the longest prefix whose own coin accepts it."""
    weights = [1.0]
    for i, token in enumerate(tokens):
        top, bottom = weights[-1] * at(p[i], token), at(q[i], token)
        ratio = top / bottom if bottom else (float("inf") if top > 0 else float("nan"))
        weights.append(1.0 if ratio >= 1 else ratio)
    accepted, last = 0, len(tokens)
    for i in range(1, last + 1):
        bar = weights[i]
        if i < last:
            mass = float(residual(p[i], q[i], weights[i]).sum())
            total = mass + 1 - weights[i]
            bar = mass / total if total else 1.0
        if coin(key, i - 1) < bar:
            accepted = i
    return accepted, 1.0 if accepted == last else weights[accepted]


def _verify(rule, tokens, q, p, num, key):
    accepted, following = [], []
    for b, count in enumerate(num.tolist()):
        length, scale = rule(tokens[b, :count].tolist(), q[b], p[b], key[b])
        accepted.append(length)
        following.append(follow(p[b, length], q[b, length] if length < count else None, scale, key[b], length))
    return torch.tensor(accepted, dtype=torch.int32), torch.tensor(following, dtype=torch.int32)


def verify_chain(tokens, q, p, num, key):
    return _verify(token_rule, tokens, q, p, num, key)


def verify_block(tokens, q, p, num, key):
    return _verify(block_rule, tokens, q, p, num, key)
