from __future__ import annotations

from typing import Callable, NamedTuple

import numpy as np
import torch

from fastdecode import _C
from fastdecode.ops import _check, reference
from fastdecode.ops._dispatch import DTYPE_CODES, kernel, runs_cuda
from fastdecode.ops.reference import acceptance
from fastdecode.ops.reference.transport import KNOTS
from fastdecode.ops.verify_tree_greedy import TreePath
from fastdecode.ops.verify_tree_recursive import check_draws

VERIFIERS = ("naive", "recursive", "recursive_without_replacement", "k_seq")
MAX_BLOCK_DRAWS = 64
BLOCK_FRAME = 135  # doubles that the CUDA kernel of whole trees keeps per node


class TransportPlan(NamedTuple):
    """How R nodes accept their drafts, see `verify_tree_transport`.

    Attributes:
        head: float64 [R, 3]; columns alpha (chance that a draft is kept), cap (the highest ratio p/q of which all draft mass
            is kept), threshold (score that the best draft must reach; above 1 where the rows are not laws).
        knots: float64 [R, 5, K] for the K knots of the ratio grid: end of the interval on [0, 1], kept mass per draft mass, the
            same if the highest position won, running sums of what the latter lacks and has too much.
    """

    head: torch.Tensor
    knots: torch.Tensor

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> "TransportPlan":
        """Uninitialised plans of `rows` nodes, for `transport_plan(out=)`."""
        return cls(torch.empty(rows, 3, dtype=torch.float64, device=device), torch.empty(rows, 5, KNOTS, dtype=torch.float64, device=device))

    @property
    def alpha(self) -> torch.Tensor:
        return self.head[:, 0]

    @property
    def cap(self) -> torch.Tensor:
        return self.head[:, 1]

    @property
    def threshold(self) -> torch.Tensor:
        return self.head[:, 2]


def transport_alpha(p: torch.Tensor, q: torch.Tensor, n: int, rule: str = "iid") -> float | torch.Tensor:
    """Chance that one of n drafts is kept: the optimum of any exact rule, or what a known verifier reaches.

    A diagnostic in double precision; `transport_plan` gives the rate of the fast rule, below "iid" by what its grid costs (see
    docs/transport.md).

    Args:
        p, q: [V] or [R, V], target and draft laws; rows are normalised.
        n: number of drafts.
        rule: how drafts are made: "iid" (independent draws), "without_replacement", "hybrid:k" (the k most probable tokens and n - k
            independent draws from the rest); or a verifier: "naive" (draw from p and look), "recursive" (SpecInfer), for
            draws with and without replacement, "k_seq" (SpecTr).

    Returns:
        A float, or float64 [R] for rows.

    Raises:
        TypeError, ValueError: shapes that differ, laws that are not, an unknown rule, a negative n.
    """
    for name, law in (("p", p), ("q", q)):
        if not isinstance(law, torch.Tensor):
            raise TypeError(f"{name} is {type(law).__name__}, expected a torch.Tensor")
    if p.shape != q.shape or p.dim() not in (1, 2) or p.shape[-1] == 0:
        raise ValueError(f"p and q have shapes {list(p.shape)} and {list(q.shape)}; pass two laws [V], or two matrices of them [R, V], over the same vocabulary")
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(f"n={n!r} must be an integer of at least 0")
    if not isinstance(rule, str):
        raise TypeError(f"rule is {type(rule).__name__}, expected a str such as 'iid'")
    hybrid = rule.startswith("hybrid:") and rule[7:].isdigit()
    if rule not in ("iid", "without_replacement", *VERIFIERS) and not hybrid:
        raise ValueError(f"rule={rule!r} is unknown: use iid, without_replacement, hybrid:k, {', '.join(VERIFIERS)}")
    rows = [_laws(p, "p"), _laws(q, "q")]
    rate = acceptance.reached if rule in VERIFIERS else acceptance.optimum
    rates = [float(rate(a, b, n, rule)) for a, b in zip(*rows)]
    return rates[0] if p.dim() == 1 else torch.tensor(rates, dtype=torch.float64)


def _laws(rows: torch.Tensor, name: str) -> np.ndarray:
    values = rows.detach().double().cpu().reshape(-1, rows.shape[-1]).numpy()
    sums = values.sum(1, keepdims=True)
    if not (np.isfinite(values).all() and (values >= 0).all() and (np.abs(sums - 1) < 1e-3).all()):
        raise ValueError(f"{name} has rows that are not laws (negative, not finite, or a sum that is not 1 within 1e-3); of logits pass {name}.softmax(-1)")
    return values / sums


def transport_plan(
    p: torch.Tensor,
    q: torch.Tensor,
    draws: torch.Tensor,
    weight: torch.Tensor | None = None,
    p_lse: torch.Tensor | None = None,
    q_lse: torch.Tensor | None = None,
    out: TransportPlan | None = None,
) -> TransportPlan:
    """Acceptance plans of many nodes.

    Args:
        p, q: float32 or bfloat16 [R, V], target law and the law that drafts are drawn from, independently: probabilities, or logits
            if `p_lse` or `q_lse` is given.
        draws: int32 [R], how many.
        weight: float64 [R], the part of p that a node has to emit; 1 by default.
        p_lse, q_lse: float32 [R], the logarithm of the sum of the exponentials of each row of logits (`vocab_stats` has it). Probabilities
            exp(logit - lse) are made where they are used and stored nowhere.
        out: plans of as many rows, from `TransportPlan.empty`, to be overwritten. Fresh memory, 42 KB per node, would be cleared page by
            page.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device.
    """
    target = _rows("p", p, p_lse, (None, None))
    rows, vocab = p.shape
    draft = _rows("q", q, q_lse, (rows, vocab), p.device)
    _check.tensor("draws", draws, torch.int32, (rows,), p.device)
    if weight is not None:
        _check.tensor("weight", weight, torch.float64, (rows,), p.device)
        if not bool(((weight > 0) & (weight <= 1)).all()):
            raise ValueError(f"weight={weight.tolist()} must lie above 0 and at most at 1: the part of p that a node has to emit")
    if rows and int(draws.min()) < 0:
        raise ValueError(f"draws={draws.tolist()} must not be negative; 0 means that nothing was drawn")
    plan = TransportPlan.empty(rows, p.device) if out is None else out
    _check.tensor("out.head", plan.head, torch.float64, (rows, 3), p.device)
    _check.tensor("out.knots", plan.knots, torch.float64, (rows, 5, KNOTS), p.device)
    run = kernel("transport_plan", p.device)
    if run is None:
        for to, made in zip(plan, reference.transport_plan(p, q, draws, weight, p_lse, q_lse)):
            to.copy_(made)
        return plan
    run(target, draft, draws.data_ptr(), 0 if weight is None else weight.data_ptr(), rows, vocab, plan.head.data_ptr(), plan.knots.data_ptr())
    return plan


def _rows(name: str, values, lse, shape: tuple, device: torch.device | None = None) -> tuple[int, int, int]:
    """Rows of laws as the kernels take them: addresses of the values and of the logarithms of sums, dtype."""
    _check.tensor(name, values, (torch.float32, torch.bfloat16), shape, device)
    if lse is not None:
        _check.tensor(f"{name}_lse", lse, torch.float32, tuple(values.shape[:-1]), values.device)
    return values.data_ptr(), 0 if lse is None else lse.data_ptr(), DTYPE_CODES[values.dtype]


def verify_tree_transport(
    tokens: torch.Tensor,
    first_child: torch.Tensor,
    next_sibling: torch.Tensor,
    probs: torch.Tensor,
    draft: torch.Tensor,
    key: torch.Tensor,
    draw_offsets: torch.Tensor,
    draw_tokens: torch.Tensor,
    probs_lse: torch.Tensor | None = None,
    draft_lse: torch.Tensor | None = None,
) -> TreePath:
    """Optimal-transport verification of trees whose children were drawn independently from a draft law.

    At each node one of the draws is kept with the highest chance that any exact rule has (but for the width of a grid, see
    docs/transport.md), else a token comes from what is left of the target's law. Every draw gets a score, uniform on [0, 1]: a position in the interval of its ratio
    p/q, now and then exchanged with another interval's; the highest score wins if it reaches a threshold. The method follows
    the implementability of reduced-form auctions (Border 1991); the optimum is that of Hu et al. (arXiv:2502.18779). Tokens of the tree
    that were not drawn (deterministic children) must have no mass in `draft`; they are reached through what is left of the target.

    Args:
        tokens: int32 [B, N], node 0 is the root; siblings carry distinct tokens.
        first_child, next_sibling: int32 [B, N], node numbers, -1 for none.
        probs: float32 or bfloat16 [B, N, V], the target's law after each node: probabilities, or logits if `probs_lse` is given.
        draft: the same, row i is the law the draws of node i came from; rows of nodes without draws are not read.
        key: int64 [B, 4], (seed, request, round << 32, any). Node i uses word 2 + i; word 3 becomes ACCEPT for draws (four
            numbers each, in order) and RESIDUAL for the final draw, an exponential race as in `verify_tree_point`.
        draw_offsets, draw_tokens: int32 [B, N + 1] and [T]: the draws of node i of row b are
            draw_tokens[draw_offsets[b, i] : draw_offsets[b, i + 1]], repeats included. A kept draw that is no child of the node ends the
            walk and becomes `next_token`. Negative ids are padding.
        probs_lse, draft_lse: float32 [B, N], as in `transport_plan`.

    Returns:
        TreePath. `next_token` is -1 where what is left of p holds NaN or infinity or has no mass. A row of `probs` with another sum than 1 means
        the law in proportion to it. Where the row of `draft` is not a law (negative, NaN, a sum further than 2^-8 from 1), or the
        sum of `probs` does not lie between 1/4 and 4, draws are ignored and the token comes from p.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout.
    """
    return _verify("verify_tree_transport", lambda cuda, batch, nodes: 5 * KNOTS * batch if cuda else 0, tokens, first_child, next_sibling, probs, draft, key, draw_offsets, draw_tokens, probs_lse, draft_lse)


def verify_tree_transport_block(
    tokens: torch.Tensor,
    first_child: torch.Tensor,
    next_sibling: torch.Tensor,
    probs: torch.Tensor,
    draft: torch.Tensor,
    key: torch.Tensor,
    draw_offsets: torch.Tensor,
    draw_tokens: torch.Tensor,
    probs_lse: torch.Tensor | None = None,
    draft_lse: torch.Tensor | None = None,
) -> TreePath:
    """As `verify_tree_transport`, but a node is kept or not together with everything below it.

    Generalises block verification (arXiv:2403.10444) from one draft per position to any number: never fewer tokens on average than token
    by token. At most 64 draws per node.
    """
    if isinstance(draw_offsets, torch.Tensor) and draw_offsets.numel() and int(draw_offsets.diff(dim=-1).max()) > MAX_BLOCK_DRAWS:
        raise ValueError(f"a node has {int(draw_offsets.diff(dim=-1).max())} draws, at most {MAX_BLOCK_DRAWS} are supported; use verify_tree_transport")
    arrays = (5 + MAX_BLOCK_DRAWS) * KNOTS  # a plan, and the score laws of the draws of a node
    return _verify("verify_tree_transport_block", lambda cuda, batch, nodes: batch * (arrays + BLOCK_FRAME * nodes) if cuda else _C.num_threads() * arrays, tokens, first_child, next_sibling, probs, draft, key, draw_offsets, draw_tokens, probs_lse, draft_lse)


def _verify(operation: str, doubles: Callable[[bool, int, int], int], tokens, first_child, next_sibling, probs, draft, key, draw_offsets, draw_tokens, probs_lse, draft_lse) -> TreePath:
    batch, nodes = _check.tree(tokens, first_child, next_sibling)
    target = _rows("probs", probs, probs_lse, (batch, nodes, None), tokens.device)
    vocab = probs.shape[2]
    law = _rows("draft", draft, draft_lse, (batch, nodes, vocab), tokens.device)
    _check.tensor("key", key, torch.int64, (batch, 4), tokens.device)
    if draw_offsets is None or draw_tokens is None:
        raise ValueError(f"{'draw_offsets' if draw_offsets is None else 'draw_tokens'} is None; the draws of every node are needed")
    draws = check_draws(draw_offsets, draw_tokens, batch, nodes, tokens.device)
    run = kernel(operation, tokens.device)
    if run is None:
        inputs = (tokens, first_child, next_sibling, probs, draft, key, draw_offsets, draw_tokens, probs_lse, draft_lse)
        return TreePath(*(t.to(tokens.device) for t in getattr(reference, operation)(*(None if t is None else t.cpu() for t in inputs))))
    out = TreePath.empty(batch, nodes, tokens.device)
    workspace = torch.empty(doubles(runs_cuda(tokens.device), batch, nodes), dtype=torch.float64, device=tokens.device)
    tree, rest = ([t.data_ptr() for t in tensors] for tensors in ((tokens, first_child, next_sibling), (key, draw_offsets, draw_tokens)))
    run(*tree, target, law, *rest, batch, nodes, vocab, draws, workspace.data_ptr(), *(t.data_ptr() for t in out))
    return out
