"""Rows at the edge of what a law is, and beyond: the target's law all the same, or no token; equal in all implementations."""

import functools

import numpy as np
import pytest
import torch

from fastdecode import ops
from fastdecode.ops import reference
from tests.laws import keys, random_laws
from tests.ops.test_verify_tree_transport import kept_and_left, single

OPERATION = "transport_plan"
LAW, OTHER = (random_laws(24, seed=s, sharpness=1.5) for s in (1, 2))
UNIFORM, ONE_HOT, OTHER_ONE_HOT = torch.full((24,), 1 / 24), torch.eye(24)[5], torch.eye(24)[6]


def changed(law: torch.Tensor, *values: float) -> torch.Tensor:
    """The law with other first entries; NaN and infinity may be among them."""
    return torch.cat([torch.tensor(values), law[len(values) :]])


def half(law: torch.Tensor, first: bool) -> torch.Tensor:
    """Renormalised on 12 of the tokens, zero on the others."""
    kept = torch.where((torch.arange(24) < 12) == first, law, 0)
    return kept / kept.sum()


LAWS = {  # p, q: drafts take part
    "p is one token": (ONE_HOT, LAW),
    "q is one token": (LAW, ONE_HOT),
    "both are the same token": (ONE_HOT, ONE_HOT),
    "both are one token, not the same": (ONE_HOT, OTHER_ONE_HOT),
    "p is q": (LAW, LAW),
    "no common token": (half(LAW, True), half(OTHER, False)),
    "p without half of the tokens": (half(LAW, True), OTHER),
    "q without half of the tokens": (LAW, half(OTHER, False)),
    "negative zeros": (changed(half(LAW, False), -0.0, -0.0), changed(half(OTHER, False), -0.0, 0.0)),
    "denormal target": (changed(half(LAW, False), 1e-42, 1e-45), OTHER),
    "denormal draft": (LAW, changed(half(OTHER, False), 1e-42, 1e-45)),
    "denormal both": (changed(half(LAW, False), 1e-42, 1e-45, 1e-40), changed(half(OTHER, False), 1e-40, 1e-45, 1e-45)),
    "ratios beyond the grid": (changed(half(LAW, False), 0.4, 1e-30), changed(half(OTHER, False), 1e-30, 0.4) / 1.4),
    "one token in the vocabulary": (torch.ones(1), torch.ones(1)),
    "p sums to 0.3": (0.3 * LAW, OTHER),
    "p sums to 3.9": (3.9 * LAW, OTHER),
    "q sums to 1.003": (LAW, 1.003 * OTHER),
}
NO_LAWS = {  # drafts are ignored
    "p sums to 0.2": (0.2 * LAW, OTHER),
    "p sums to 4.1": (4.1 * LAW, OTHER),
    "p sums to 17, 1 and twice what integers of the histogram hold": (17 * LAW, OTHER),
    "p is all ones": (torch.ones(17), UNIFORM[:17] * 24 / 17),
    "p sums to 1e-30": (1e-30 * LAW, OTHER),
    "p is huge": (3e37 * LAW, OTHER),
    "q sums to 0.99": (LAW, 0.99 * OTHER),
    "q sums to 17": (LAW, 17 * OTHER),
    "q is all ones": (UNIFORM[:17] * 24 / 17, torch.ones(17)),
    "q is huge": (LAW, 3e37 * OTHER),
    "q is zero": (LAW, 0 * OTHER),
    "q has NaN": (LAW, changed(OTHER, torch.nan)),
    "q has infinity": (LAW, changed(OTHER, torch.inf)),
    "q has a negative entry": (LAW, changed(OTHER, -0.1, float(OTHER[:2].sum()) + 0.1)),
    "p has a negative entry": (changed(LAW, -0.1), OTHER),
}
NO_TARGETS = {"p has NaN": (changed(LAW, torch.nan), OTHER), "p has infinity": (changed(LAW, torch.inf), OTHER), "p is zero": (0 * LAW, OTHER), "neither is anything": (0 * LAW, 0 * LAW)}
CASES = {**LAWS, **NO_LAWS, **NO_TARGETS}


@pytest.mark.parametrize("n", [1, 2, 64])
@pytest.mark.parametrize("name", LAWS)
def test_laws_come_out_exactly(name, n):
    p, q = (x.numpy() for x in LAWS[name])
    assert single(p, q, n).threshold <= 1
    kept, left = kept_and_left(p, q, n)
    assert np.abs(kept + left - p / p.sum(dtype=float)).max() < 1e-12 and (kept >= 0).all() and (left >= 0).all()
    assert (kept + left)[p == 0].sum() == 0


@pytest.mark.parametrize("name", {**NO_LAWS, **NO_TARGETS})
def test_drafts_of_rows_that_are_no_laws_are_ignored(name):
    assert single(*(x.numpy() for x in CASES[name]), 3).threshold == 2


@functools.cache
def planned(name: str):
    """Arguments, and what the reference makes of them."""
    arrays = (*(law.repeat(4, 1) for law in CASES[name]), torch.tensor([0, 1, 2, 64], dtype=torch.int32))
    return arrays, reference.transport_plan(*arrays, None)


@functools.cache
def verified(operation: str, name: str, n: int):
    """The same for eight lone nodes with n draws each."""
    p, q = CASES[name]
    count = 8
    one, offsets = torch.zeros(count, 1, dtype=torch.int32), torch.arange(count + 1) * n
    possible = q.nan_to_num(0, 1).clamp(0, 1) + (q.sum() == 0)
    draws = torch.multinomial(possible, max(1, count * n), True, generator=torch.Generator().manual_seed(n))[: count * n].int()
    rows = (law.expand(count, 1, -1).contiguous() for law in (p, q))
    arrays = (one, one - 1, one - 1, *rows, keys(count), torch.stack([offsets[:-1], offsets[1:]], 1).int(), draws)
    return arrays, getattr(reference, operation)(*arrays)


@pytest.mark.parametrize("name", CASES)
def test_plans_equal_the_reference(impl, device, name):
    arrays, want = planned(name)
    got = ops.transport_plan(*(t.to(device) for t in arrays))
    assert torch.equal(got.knots[:, 0].cpu(), want[1][:, 0])
    torch.testing.assert_close(got.head.cpu(), want[0], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(got.knots.cpu(), want[1], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("operation", ["verify_tree_transport", "verify_tree_transport_block"])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_tokens_equal_the_reference(impl, device, operation, n):
    for name, (p, _) in CASES.items():
        arrays, (_, _, tokens) = verified(operation, name, n)
        got = getattr(ops, operation)(*(t.to(device) for t in arrays))
        assert torch.equal(got.next_token.cpu(), tokens), name
        assert (tokens == -1).all() if name in NO_TARGETS else (p[tokens.long()] > 0).all(), name
