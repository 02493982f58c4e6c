from __future__ import annotations

from typing import NamedTuple

import torch

from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import kernel


class ChainVerdict(NamedTuple):
    """What a verification keeps of each chain.

    Attributes:
        accept_len: int32 [B], accepted draft tokens.
        next_token: int32 [B], the token that follows them; -1 where the deciding row has no mass or holds NaN or infinity.
    """

    accept_len: torch.Tensor
    next_token: torch.Tensor


def verify_chain(tokens: torch.Tensor, q: torch.Tensor, p: torch.Tensor, num: torch.Tensor, key: torch.Tensor) -> ChainVerdict:
    """Speculative sampling, token by token (arXiv:2211.17192, arXiv:2302.01318).

    Token x_i is kept while u_i < p_i(x_i) / q_i(x_i), strictly, so a token without target mass is never kept. The next token comes
    from max(p_n - q_n, 0), from p_n where that has a mass below 1e-12, or from the last row of p when all tokens were kept.

    Args:
        tokens: int32 [B, G], draft tokens.
        q: float32 [B, G, V], the law each token was drawn from (after the drafter's processors).
        p: float32 [B, G + 1, V], the target's law before each token and after the last.
        num: int32 [B], tokens of each row, at most G.
        key: int64 [B, 4], (seed, request, round << 32, any). Position i uses word 2 + i; word 3 becomes ACCEPT for its coin
            (index 0) and RESIDUAL for the final draw, an exponential race as in `verify_tree_point`.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout.
    """
    return _verify("verify_chain", reference.verify_chain, tokens, q, p, num, key)


def verify_block(tokens: torch.Tensor, q: torch.Tensor, p: torch.Tensor, num: torch.Tensor, key: torch.Tensor) -> ChainVerdict:
    """Block verification (arXiv:2403.10444): the same law of the output, never fewer kept tokens on average than `verify_chain`.

    With w_0 = 1 and w_i = min(1, w_{i-1} p(x_i) / q(x_i)), prefix i passes when u_i < Z_i / (Z_i + 1 - w_i), where Z_i is the mass of
    max(w_i p_i - q_i, 0); the whole chain passes when u < w. The longest prefix that passes is kept, whatever the shorter ones
    did; the next token comes from max(w_i p_i - q_i, 0). A prefix whose rows hold NaN does not pass.

    Arguments and errors as in `verify_chain`.
    """
    return _verify("verify_block", reference.verify_block, tokens, q, p, num, key)


def _verify(name, readable, tokens, q, p, num, key) -> ChainVerdict:
    batch, length = _check.tensor("tokens", tokens, torch.int32, (None, None)).shape
    vocab = _check.tensor("q", q, torch.float32, (batch, length, None), tokens.device).shape[2]
    _check.tensor("p", p, torch.float32, (batch, length + 1, vocab), tokens.device)
    _check.tensor("num", num, torch.int32, (batch,), tokens.device)
    _check.tensor("key", key, torch.int64, (batch, 4), tokens.device)
    if num.device.type == "cpu" and batch and not 0 <= int(num.min()) <= int(num.max()) <= length:
        raise ValueError(f"num spans {int(num.min())} ... {int(num.max())}, expected 0 ... {length}, the number of columns of tokens")
    run = kernel(name, tokens.device)
    if run is None:
        return ChainVerdict(*readable(tokens, q, p, num, key))
    out = ChainVerdict(*(torch.empty(batch, dtype=torch.int32, device=tokens.device) for _ in range(2)))
    inputs = (t.data_ptr() for t in (tokens, q, p, num, key))
    run(*inputs, batch, length, vocab, *(t.data_ptr() for t in out))
    return out
