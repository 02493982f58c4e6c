import pytest
import torch

from fastdecode import ops
from fastdecode.ops import DraftStates
from fastdecode.ops.unmask_commit import MASKED, Commits

as_int = lambda values: torch.tensor(values, dtype=torch.int32)


def case(seed: int, counts: list[int], columns: int = 37):
    """Proposals for masks of some sequences, the best of which have been committed, and the sequences."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(counts)
    tokens = torch.randint(50, (len(counts), columns), generator=generator, dtype=torch.int32)
    changed = torch.where(torch.rand(tokens.shape, generator=generator) < 0.3, MASKED, 2).int()
    position = torch.cat([torch.randperm(columns, generator=generator)[:n].sort().values for n in counts] or [torch.empty(0)]).int()
    rank = torch.cat([torch.randperm(n, generator=generator) for n in counts] or [torch.empty(0)]).int()
    chosen = as_int([min(n, 1 + b % 3) for b, n in enumerate(counts)])
    ints = torch.randint(50, (rows, 2), generator=generator, dtype=torch.int32)
    begin = as_int([0, *torch.tensor(counts).cumsum(0).tolist()])
    return ints, begin, position, Commits(torch.empty(rows), rank, chosen), tokens, changed


def moved(value, device):
    return type(value)(*(None if t is None else t.to(device) for t in value)) if isinstance(value, tuple) else value.to(device)


def drafted(arguments, device, **options) -> list[tuple[list, list]]:
    """Tokens and steps of the drafts of every sequence."""
    drafts = ops.draft_states(*(moved(a, device) for a in arguments), **options)
    return [(t[:n].tolist(), c[:n].tolist()) for t, c, n in zip(drafts.tokens.cpu(), drafts.changed.cpu(), drafts.count.tolist())]


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("counts", [[], [1], [0], [3], [5, 0, 33, 2], [37, 1, 1, 17, 4]])
def test_drafts_hold_the_best_proposals(impl, device, counts, depth):
    arguments = case(len(counts), counts)
    ints, begin, position, commits, tokens, changed = arguments
    for b, (got_tokens, got_changed) in enumerate(drafted(arguments, device, depth=depth, step=9)):
        own = list(range(begin[b], begin[b + 1]))
        left = sorted((r for r in own if commits.rank[r] >= commits.chosen[b]), key=lambda r: int(commits.rank[r]))
        assert len(got_tokens) == min(depth, max(1, len(left)))
        want, steps = tokens[b].clone(), changed[b].clone()
        for k, (got, at) in enumerate(zip(got_tokens, got_changed)):
            if k:
                want[position[left[k - 1]]], steps[position[left[k - 1]]] = ints[left[k - 1], 1], 9
            assert got == want.tolist() and at == steps.tolist()


def states(*texts: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and steps of the drafts of one sequence, from letters; "." is a mask."""
    tokens = as_int([[[ord(c) for c in text] for text in texts]])
    return tokens, torch.where(tokens == ord("."), MASKED, 4).int()


CHAINS = {
    "nothing to verify": (["a..."], ["ab.."], 0),
    "the successor of the first": (["a...", "ab.."], ["ab..", "abc."], 1),
    "another token": (["a...", "ab.."], ["ax..", "abc."], 0),
    "another place": (["a...", "ab.."], ["a.b.", "abc."], 0),
    "a chain": (["a...", "ab..", "abc.", "abcd"], ["ab..", "abc.", "abcd", "abcd"], 3),
    "a chain that breaks": (["a...", "ab..", "abc.", "abcd"], ["ab..", "abx.", "abcd", "abcd"], 1),
    "a successor that says more": (["a...", "ab..", "abc.", "abcd"], ["abc.", "xxxx", "abcd", "abcd"], 3),
    "the way goes around a wrong one": (["a...", "ab..", "abc."], ["ab.c", "ab.c", "abcd"], 1),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("spare", [0, 2])
def test_chains(impl, device, name, spare):
    before, after, want = CHAINS[name]
    (tokens, changed), (next_tokens, next_changed) = states(*before, *before[:1] * spare), states(*after, *after[:1] * spare)
    drafts = moved(DraftStates(tokens, changed, as_int([len(before)])), device)
    assert ops.verify_states(drafts, next_tokens.to(device), next_changed.to(device)).tolist() == [want]


@pytest.mark.parametrize("batch, depth, length", [(0, 3, 5), (1, 1, 1), (4, 3, 130), (7, 8, 33)])
def test_verification_of_a_batch(impl, device, batch, depth, length):
    """Against the definition, on nested drafts whose successors are right with a certain chance."""
    generator = torch.Generator().manual_seed(batch)
    tokens = torch.randint(3, (batch, 1, length), generator=generator, dtype=torch.int32).repeat(1, depth, 1)
    order = torch.rand(batch, 1, length, generator=generator).argsort(-1).argsort(-1)
    changed = torch.where(order <= torch.arange(depth)[:, None], 1, MASKED).int()
    next_changed = torch.where(order <= torch.arange(depth)[:, None] + torch.randint(3, (batch, depth, 1), generator=generator), 1, MASKED).int()
    wrong = torch.rand(batch, depth, length, generator=generator) < 0.3 / length
    next_tokens = torch.where(wrong, 3, tokens).int()
    count = torch.randint(1, depth + 1, (batch,), generator=generator, dtype=torch.int32)
    got = ops.verify_states(moved(DraftStates(tokens, changed, count), device), next_tokens.to(device), next_changed.to(device)).tolist()
    for b in range(batch):
        holds = lambda j, a: all(changed[b, j, p] == MASKED or (next_changed[b, a, p] != MASKED and tokens[b, j, p] == next_tokens[b, a, p]) for p in range(length))
        at = 0
        while further := [j for j in range(at + 1, int(count[b])) if holds(j, at)]:
            at = further[-1]
        assert got[b] == at


def test_wrong_arguments_are_named():
    ints, begin, position, commits, tokens, changed = arguments = case(0, [3])
    with pytest.raises(ValueError, match="depth=0 must be a positive number"):
        ops.draft_states(*arguments, depth=0, step=1)
    with pytest.raises(ValueError, match=r"ints has shape \[2, 2\], expected \[3, 2\]"):
        ops.draft_states(ints[:2], *arguments[1:], depth=1, step=1)
    with pytest.raises(TypeError, match="commits.rank has dtype torch.int64"):
        ops.draft_states(ints, begin, position, commits._replace(rank=commits.rank.long()), tokens, changed, depth=1, step=1)
    with pytest.raises(IndexError, match="position of candidate 1 is 99, tokens has 37 columns"):
        ops.draft_states(ints, begin, as_int([0, 99, 2]), commits, tokens, changed, depth=1, step=1)
    with pytest.raises(IndexError, match="begin of sequence 0"):
        ops.draft_states(ints, as_int([2, 1]), position, commits, tokens, changed, depth=1, step=1)
    drafts = ops.draft_states(*arguments, depth=2, step=1)
    with pytest.raises(ValueError, match=r"next_tokens has shape \[1, 37\], expected \[1, 2, 37\]"):
        ops.verify_states(drafts, tokens, drafts.changed)
    with pytest.raises(IndexError, match="count of sequence 0 is 3, there is room for 1 to 2"):
        ops.verify_states(drafts._replace(count=as_int([3])), drafts.tokens, drafts.changed)
