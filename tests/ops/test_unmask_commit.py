import math

import pytest
import torch

from fastdecode import ops
from fastdecode.ops import VocabStats, reference
from fastdecode.ops.unmask_commit import FINISH, MASKED, RULES, SCORERS, Commits

as_int = lambda values: torch.tensor(values, dtype=torch.int32)


def case(seed: int, counts: list[int], columns: int = 40, vocab: int = 50):
    """Statistics of random rows for the candidates of some sequences, with ties and some without a proposal."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(counts)
    logits = torch.randn(rows, vocab, generator=generator) * 3
    logits[::3] = logits[:1].clone()  # equal rows: ties between positions
    if rows > 4:
        logits[4] = -math.inf
    stats = VocabStats(*reference.vocab_stats(logits))
    begin = as_int([0, *torch.tensor(counts).cumsum(0).tolist()])
    position = torch.cat([torch.randperm(columns, generator=generator)[:n].sort().values for n in counts] or [torch.empty(0)]).int()
    tokens = torch.randint(vocab, (len(counts), columns), generator=generator, dtype=torch.int32)
    changed = torch.where(torch.rand(len(counts), columns, generator=generator) < 0.7, MASKED, 3).int()
    return stats, begin, position, tokens, changed


def run(arguments, device, **options):
    stats, begin, position, tokens, changed = arguments
    moved = VocabStats(stats.floats.to(device), stats.ints.to(device), None)
    tokens, changed = tokens.clone().to(device), changed.clone().to(device)
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    commits = ops.unmask_commit(moved, begin.to(device), position.to(device), tokens, changed, step=7, **options)
    return [t if t is None else t.cpu() for t in (tokens, changed, *commits)]


@pytest.mark.parametrize("counts", [[1], [0], [], [5, 0, 33], [40, 1, 2, 17]])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scorer", SCORERS)
def test_equals_reference(impl, device, scorer, rule, counts):
    arguments = case(len(counts), counts)
    rows = sum(counts)
    generator = torch.Generator().manual_seed(rows)
    options = {"scorer": scorer, "rule": rule, "bar": {"confidence": 0.4, "margin": 0.2, "neg_entropy": -1.5, "left_to_right": -20.0, "given": 0.5}[scorer], "quota": torch.arange(len(counts), dtype=torch.int32)}
    options["scores"] = torch.rand(rows, generator=generator) if scorer == "given" else None
    options["factor"] = torch.rand(rows, generator=generator) if rows % 2 else None
    options["accepted"] = torch.rand(rows, generator=generator) < 0.2 if rows % 3 == 0 else None
    options["noise"] = torch.randn(rows, generator=generator) if rows % 4 == 2 else None
    options["tie"] = torch.randint(2, (rows,), generator=generator).float() if rows % 2 == 0 else None
    options["canvas"] = torch.randint(40, (len(counts), 3), generator=generator).sort(1).values.int()
    options["eos"], options["cut"] = as_int(range(0, 50, 7)), {"confidence": 0.1, "left_to_right": -30.0}.get(scorer, math.inf)
    stats, begin, position, tokens, changed = (t if isinstance(t, tuple) else t.clone() for t in arguments)
    scores = options["scores"].clone() if scorer == "given" else torch.empty(rows)
    want = Commits(scores, *(torch.empty(n, dtype=torch.int32) for n in (rows, len(counts), len(counts))))
    reference.unmask_commit(stats, begin, position, tokens, changed, options["quota"], 7, scorer, rule, options["bar"], want, *(options[name] for name in ("factor", "noise", "tie", "accepted", "canvas", "eos", "cut")))
    got = run(arguments, device, **options)
    assert torch.equal(got[0], tokens) and torch.equal(got[1], changed)
    torch.testing.assert_close(got[2], want.scores, rtol=2e-7, atol=0)
    assert torch.equal(got[3], want.rank) and torch.equal(got[4], want.chosen) and torch.equal(got[5], want.finish)


def certain(confidences: list[float]) -> VocabStats:
    """Statistics of rows whose proposal, token 1, has these probabilities."""
    floats = torch.zeros(len(confidences), 16)
    floats[:, 5] = torch.tensor(confidences).log()
    return VocabStats(floats, torch.ones(len(confidences), 2, dtype=torch.int32))


def committed(confidences: list[float], device, **options) -> int:
    n = len(confidences)
    result = run((certain(confidences), as_int([0, n]), torch.arange(n).int(), torch.zeros(1, n, dtype=torch.int32), torch.full((1, n), MASKED, dtype=torch.int32)), device, quota=as_int([1]), **options)
    return int(result[4][0])


@pytest.mark.parametrize("rule, confidences, want", [("factor", [0.95, 0.70, 0.60, 0.10], 2), ("factor_with_last", [0.95, 0.70, 0.60, 0.10], 2), ("factor", [0.99, 0.98, 0.97, 0.50], 3), ("factor_with_last", [0.99, 0.98, 0.97, 0.50], 4), ("factor", [0.1], 1)])
def test_worked_factors(impl, device, rule, confidences, want):
    assert committed(confidences, device, rule=rule, bar=1.0) == want


def test_threshold_takes_equal_scores_and_the_best(impl, device):
    assert committed([0.5, 0.25, 0.5, 0.125], device, rule="threshold", bar=0.5 - 1e-6) == 2
    assert committed([0.5, 0.25, 0.125], device, rule="threshold", bar=0.9) == 1


def test_ties_take_the_lower_position(impl, device):
    stats = certain([0.5] * 6)
    got = run((stats, as_int([0, 6]), as_int([1, 3, 4, 5, 8, 9]), torch.zeros(1, 10, dtype=torch.int32), torch.full((1, 10), MASKED, dtype=torch.int32)), device, quota=as_int([3]))
    assert got[1][0].tolist() == [MASKED, 7, MASKED, 7, 7, MASKED, MASKED, MASKED, MASKED, MASKED]
    assert got[3].tolist() == [0, 1, 2, 3, 4, 5]


def test_ties_can_be_broken_by_another_score(impl, device):
    tie = torch.tensor([1.0, 3.0, 2.0, 3.0])
    got = run((certain([0.5] * 4), as_int([0, 4]), as_int([0, 1, 2, 3]), torch.zeros(1, 4, dtype=torch.int32), torch.full((1, 4), MASKED, dtype=torch.int32)), device, quota=as_int([1]), tie=tie)
    assert got[3].tolist() == [3, 0, 2, 1] and got[1][0].tolist() == [MASKED, 7, MASKED, MASKED]


FINISHES = {
    # what stands at columns 2 ... 7 behind a prompt of two tokens, "." a mask, "e" an end of text -> where the block ends, what it means
    "a.....": (4, "block_open"),
    "ab....": (4, "block_full"),
    "abcdgf": (8, "canvas_full"),
    "abcd.f": (4, "block_full"),
    "ae....": (8, "text_ended"),
    ".e....": (4, "block_open"),
    "ab.e..": (4, "block_full"),
    "e": (3, "text_ended"),
    "": (2, "canvas_full"),
}


@pytest.mark.parametrize("state", FINISHES)
def test_how_far_a_canvas_has_come(impl, device, state):
    block, want = FINISHES[state]
    ids = as_int([[9, 9, *(9 if c == "e" else 1 for c in state), 5]])
    changed = as_int([[-1, -1, *(MASKED if c == "." else 3 for c in state), MASKED]])
    stats, end = certain([]), 2 + len(state)
    got = run((stats, as_int([0, 0]), as_int([]), ids, changed), device, quota=as_int([0]), canvas=as_int([[2, block, end]]), eos=as_int([8, 9]))
    assert FINISH[int(got[5][0])] == want
    given = run((stats, as_int([0, 0]), as_int([]), ids, torch.where(changed == 3, -1, changed)), device, quota=as_int([0]), canvas=as_int([[2, block, end]]), eos=as_int([8, 9]))
    assert FINISH[int(given[5][0])] != "text_ended"  # only what was generated ends a text


def test_an_end_of_text_cuts_what_stands_behind_it(impl, device):
    stats = certain([0.5, 0.9, 0.7])
    stats.ints[1:, 1] = 9
    arguments = (stats, as_int([0, 3]), as_int([1, 3, 5]), torch.zeros(1, 8, dtype=torch.int32), torch.full((1, 8), MASKED, dtype=torch.int32))
    options = {"quota": as_int([2]), "canvas": as_int([[1, 7, 7]]), "eos": as_int([9])}
    cut = run(arguments, device, cut=0.9 - 1e-6, **options)
    assert cut[0][0].tolist() == [0, 0, 0, 9, 9, 9, 9, 0] and cut[1][0].tolist() == [MASKED, MASKED, MASKED, 7, 7, 7, 7, MASKED]
    assert cut[4].tolist() == [2] and FINISH[int(cut[5][0])] == "block_open"
    assert run(arguments, device, cut=0.95, **options)[0][0].tolist() == [0, 0, 0, 9, 0, 9, 0, 0]


def test_infinite_logits_are_taken_last_but_can_be_forced(impl, device):
    logits = torch.zeros(2, 4)
    logits[0, 2] = math.inf
    stats = VocabStats(*reference.vocab_stats(logits))
    arguments = (stats, as_int([0, 2]), as_int([0, 1]), torch.zeros(1, 2, dtype=torch.int32), torch.full((1, 2), MASKED, dtype=torch.int32))
    assert run(arguments, device, quota=as_int([1]))[1][0].tolist() == [MASKED, 7]
    assert run(arguments, device, quota=as_int([2]))[0][0].tolist() == [2, 0]


def test_wrong_arguments_are_named():
    stats, begin, position, tokens, changed = case(0, [3])
    call = lambda **options: ops.unmask_commit(stats, begin, position, tokens, changed, **{"quota": as_int([1]), "step": 0, **options})
    with pytest.raises(ValueError, match="scorer='best' is unknown"):
        call(scorer="best")
    with pytest.raises(ValueError, match="rule='all' is unknown"):
        call(rule="all")
    with pytest.raises(ValueError, match="scorer='given' needs scores="):
        call(scorer="given")
    with pytest.raises(ValueError, match="has no use for scores="):
        call(scores=torch.zeros(3))
    with pytest.raises(ValueError, match=r"quota has shape \[2\], expected \[1\]"):
        call(quota=as_int([1, 1]))
    with pytest.raises(TypeError, match="accepted has dtype torch.uint8"):
        call(accepted=torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"canvas has shape \[1, 2\], expected \[1, 3\]"):
        call(canvas=as_int([[0, 3]]))
    with pytest.raises(IndexError, match=r"canvas of sequence 0 is \[0, 5, 3\], it must ascend"):
        call(canvas=as_int([[0, 5, 3]]))
    with pytest.raises(IndexError, match="position of candidate 1 is 1, it must ascend"):
        ops.unmask_commit(stats, begin, as_int([1, 1, 2]), tokens, changed, quota=as_int([1]), step=0)
    with pytest.raises(IndexError, match="begin of sequence 0"):
        ops.unmask_commit(stats, as_int([2, 1]), position, tokens, changed, quota=as_int([1]), step=0)
