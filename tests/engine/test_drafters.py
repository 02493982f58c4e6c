"""What look-up drafters propose, and the trees made of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastdecode import _C, ops
from fastdecode.speculative.drafters import AdaptiveTrigramDrafter, Budget, CompositeDrafter, PromptLookupDrafter, SuffixDrafter
from fastdecode.speculative.drafters.drawn_tree import DrawnTree, as_independent, draw, draw_distinct, draws_for, random_numbers, without_most_probable
from fastdecode.speculative.tree import Draft, DraftTree, Draws, merge
from tests.laws import assert_follows, random_laws
from tests.models import random_prompt
from tests.trees import random_trees

WIDE = Budget(nodes=40, depth=12, min_score=0.0)


def propose(drafter, text: list[int], budget: Budget = WIDE, observed: list[int] = ()) -> Draft:
    """The draft behind a prompt and the tokens emitted since."""
    state = drafter.begin([SimpleNamespace(prompt=text, tokens=[])])
    drafter.observe(state, 0, list(observed))
    return drafter.propose(state, [0], [budget])[0]


def paths(draft: Draft) -> list[tuple[int, ...]]:
    """The tokens from the root down to every node."""
    result: list[tuple[int, ...]] = []
    for token, parent in zip(draft.tokens.tolist(), draft.parents.tolist()):
        result.append((result[parent] if parent >= 0 else ()) + (token,))
    return result


def draft_of(*nodes: tuple[int, int, float]) -> Draft:
    tokens, parents, scores = zip(*nodes)
    return Draft(np.array(tokens, np.int32), np.array(parents, np.int32), np.array(scores, np.float32))


def steps_occur(text: list[int], path: tuple[int, ...]) -> bool:
    """Whether every step of the path was seen; the whole path need not be, as rare contexts are cut to shorter ones."""
    seen = set(zip(text, text[1:]))
    return all(step in seen for step in zip([text[-1], *path], path))


def test_suffix_continues_repeated_text():
    sentence = [1, 2, 3, 4, 5, 6, 7, 8]
    assert (4, 5, 6, 7, 8) in paths(propose(SuffixDrafter(), sentence + [9] + sentence[:3]))
    assert (4, 5, 6, 7, 8) in paths(propose(SuffixDrafter(), sentence + [9], observed=sentence[:3]))
    assert len(propose(SuffixDrafter(), [1, 2, 3, 4])) == 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("drafter", [SuffixDrafter, PromptLookupDrafter], ids=["suffix", "prompt_lookup"])
def test_drafts_are_well_formed_and_made_of_steps_that_occurred(drafter, seed):
    rng = np.random.default_rng(seed)
    text = rng.integers(0, 4, 300).tolist()
    draft = propose(drafter(), text)
    found = paths(draft)
    assert len(draft) and len(set(found)) == len(found), "siblings are distinct"
    assert all(steps_occur(text, path) for path in found)
    for node, parent in enumerate(draft.parents.tolist()):
        assert parent < node and (parent < 0 or draft.scores[node] <= draft.scores[parent])
    assert ((draft.scores > 0) & (draft.scores <= 1)).all()


@pytest.mark.parametrize("budget", [Budget(1, 12, 0.0), Budget(7, 2, 0.0), Budget(40, 12, 0.3), Budget(0, 5, 0.0), Budget(5, 0, 0.0)])
def test_suffix_respects_its_budget(budget):
    for seed in range(5):
        draft = propose(SuffixDrafter(), np.random.default_rng(seed).integers(0, 4, 200).tolist(), budget)
        assert len(draft) <= budget.nodes
        assert max(map(len, paths(draft)), default=0) <= budget.depth
        assert (draft.scores >= budget.min_score).all()


def test_suffix_with_one_repeated_id():
    draft = propose(SuffixDrafter(), [3] * 50_000)
    assert paths(draft) == [(3,) * n for n in range(1, len(draft) + 1)] and len(draft) == WIDE.depth


def test_suffix_corpus_is_used_up_to_the_borders_of_its_documents():
    drafter = SuffixDrafter(corpus=[[1, 2, 3, 4], [5, 6, 7]])
    assert paths(propose(drafter, [9, 1, 2]))[:2] == [(3,), (3, 4)]
    assert all(5 not in path for path in paths(propose(drafter, [9, 1, 2])))
    assert len(propose(drafter, [9, 4])) == 0, "nothing follows the end of a document"
    assert (7,) in paths(propose(drafter, [9, 5, 6]))


def test_suffix_remembers_finished_requests_only_when_asked_to():
    for remember in (False, True):
        drafter = SuffixDrafter(remember=remember)
        request = SimpleNamespace(prompt=[1, 2, 3], tokens=[4, 5])
        state = drafter.begin([request])
        drafter.observe(state, 0, request.tokens)
        drafter.end(state, 0)
        assert ((4, 5) in paths(propose(drafter, [9, 2, 3]))) == remember


@pytest.mark.parametrize(
    "text, max_ngram, want",
    [
        ([1, 2, 3, 1, 2], 2, [3, 1, 2]),
        ([7, 2, 8, 1, 2, 9, 1, 2], 2, [9, 1, 2]),  # the longer context wins over the earlier one
        ([7, 2, 8, 1, 2, 9, 1, 2], 1, [8, 1, 2, 9, 1, 2]),  # one token: its earliest occurrence
        ([1, 2, 3, 1, 2, 4, 1, 2], 2, [3, 1, 2, 4, 1, 2]),  # equal length: the earliest occurrence
        ([4, 4, 4], 2, [4]),
        ([1, 2, 3], 3, []),
        ([1], 3, []),
    ],
)
def test_prompt_lookup_follows_the_rule_of_transformers(text, max_ngram, want):
    draft = propose(PromptLookupDrafter(max_ngram=max_ngram, branches=1), text)
    assert draft.tokens.tolist() == want and draft.parents.tolist() == list(range(-1, len(want) - 1))


def test_prompt_lookup_equals_transformers_on_random_text():
    from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

    theirs = PromptLookupCandidateGenerator(num_output_tokens=5, max_matching_ngram_size=3, max_length=10_000)
    for seed in range(30):
        text = np.random.default_rng(seed).integers(0, 5, 5 + 2 * seed).tolist()
        candidates, _ = theirs.get_candidates(torch.tensor([text]))
        ours = propose(PromptLookupDrafter(max_ngram=3, num_tokens=5, branches=1), text)
        assert ours.tokens.tolist() == candidates[0, len(text) :].tolist()


def test_prompt_lookup_branches_and_limits():
    text = [1, 2, 3, 9, 1, 2, 4, 9, 1, 2, 5, 9, 1, 2]
    first = lambda branches: [p[0] for p in paths(propose(PromptLookupDrafter(max_ngram=2, branches=branches, num_tokens=3), text)) if len(p) == 1]
    assert first(1) == [3] and first(2) == [3, 5] and first(3) == [3, 5, 4]
    assert len(propose(PromptLookupDrafter(), text, Budget(4, 3, 0.0))) == 4
    assert max(map(len, paths(propose(PromptLookupDrafter(), text, Budget(9, 2, 0.0))))) == 2


def test_merge_is_the_union_of_the_paths():
    a = draft_of((1, -1, 0.9), (2, 0, 0.5), (3, 1, 0.2))
    b = draft_of((1, -1, 0.4), (4, 0, 0.3), (5, -1, 0.6))
    merged = merge([a, b], 10)
    assert set(paths(merged)) == set(paths(a)) | set(paths(b))
    assert dict(zip(paths(merged), merged.scores.tolist()))[(1,)] == pytest.approx(0.9), "the better estimate stays"


def test_merge_keeps_the_best_nodes_and_their_parents():
    for seed in range(10):
        texts = [random_prompt(60, seed), np.random.default_rng(seed).integers(0, 4, 80).tolist()]
        drafts = [propose(SuffixDrafter(), texts[1]), propose(PromptLookupDrafter(), texts[1])]
        whole = merge(drafts, 1000)
        scores = dict(zip(paths(whole), whole.scores.tolist()))
        for size in (0, 1, 5, 12):
            kept = paths(merge(drafts, size))
            assert len(kept) == min(size, len(whole)) and all(p[:-1] in kept for p in kept if len(p) > 1)
            assert sorted(scores[p] for p in kept) == sorted(sorted(scores.values(), reverse=True)[: len(kept)]), seed


def test_merge_copes_with_scores_that_rise():
    kept = merge([draft_of((1, -1, 0.1), (2, 0, 0.9)), draft_of((5, -1, 0.5))], 2)
    assert paths(kept) == [(1,), (5,)] or paths(kept) == [(5,), (1,)], "no child without its parent"


def test_drawn_drafts_are_not_merged():
    drawn = draft_of((1, -1, 0.5))
    drawn = Draft(drawn.tokens, drawn.parents, drawn.scores, (Draws(-1, [1], torch.ones(4) / 4),))
    with pytest.raises(ValueError, match="drawn at random"):
        merge([drawn], 4)
    composite = CompositeDrafter([SuffixDrafter()])
    fixed = draft_of((2, -1, 0.1))
    assert composite._combine([drawn, fixed], WIDE).tokens.tolist() == [2] and composite._combine([drawn], WIDE) is drawn


def test_following_trees_is_greedy_verification():
    for seed in range(20):
        tree = random_trees(3, 1 + seed, vocab=4, seed=seed)
        choice = np.random.default_rng(seed).integers(0, 4, tree.tokens.shape).astype(np.int32)
        path, length, next_token = (t.tolist() for t in ops.verify_tree_greedy(tree.tokens, tree.first_child, tree.next_sibling, torch.from_numpy(choice)))
        kept = _C.follow_trees(*(t.numpy() for t in (tree.tokens, tree.first_child, tree.next_sibling)), choice)
        assert kept == [(p[: n + 1], t) for p, n, t in zip(path, length, next_token)]
    with pytest.raises(ValueError, match=r"must be \[B, N\] with N > 0"):
        _C.follow_trees(*[np.zeros((1, 3), np.int32)] * 3, np.zeros((1, 2), np.int32))
    none, tokens = np.full((1, 2), -1, np.int32), np.array([[1, 2]], np.int32)
    for link in (0, 2, -2):
        with pytest.raises(ValueError, match=f"node 0 of row 0 is linked to {link}, which is neither -1 nor a later node"):
            _C.follow_trees(tokens, np.array([[link, -1]], np.int32), none, tokens)


def test_extent_of_a_draft():
    assert draft_of((7, -1, 0.5), (3, 0, 0.4), (9, -1, 0.3), (4, 1, 0.2)).extent == (3, 9, 3)
    assert Draft.empty().depth == 0 and draft_of((1, 5, 0.5), (2, 1, 0.1)).depth == 1, "what is no tree is refused elsewhere"
    with pytest.raises(ValueError, match="equal length above 0, got 1 and 2"):
        _C.draft_extent(np.zeros(1, np.int32), np.zeros(2, np.int32))


class Proposer:
    """Proposes the same in every round, by row, and remembers what it was told."""

    name = "proposer"

    def __init__(self, *drafts: Draft, judges_levels: bool = False):
        self.drafts, self.judges_levels = drafts, judges_levels
        self.told: list[Budget] = []

    def begin(self, requests):
        return None

    def propose(self, state, rows, budgets):
        self.told = list(budgets)
        return [self.drafts[r] if b.nodes else Draft.empty() for r, b in zip(rows, budgets)]

    def observe(self, state, row, tokens): ...

    def end(self, state, row): ...


def test_a_judge_of_levels_is_trusted_as_its_own_first_tokens_were_right():
    """In both rows it says 8 or 9; in row 0 it is 8, which nobody else has said, in row 1 it is 9, which the text has said, too."""
    judge = Proposer(*[draft_of((8, -1, 0.5), (9, -1, 0.25))] * 2, judges_levels=True)
    composite = CompositeDrafter([Proposer(Draft.empty(), draft_of((9, -1, 0.4))), judge])
    state = composite.begin([None, None])

    def told(rounds: int, nodes: int = 8) -> list[Budget]:
        for _ in range(rounds):
            composite.propose(state, [0, 1], [Budget(nodes, 8, 0.0, least=0.1, open_score=0.2)] * 2)
            composite.observe(state, 0, [8])
            composite.observe(state, 1, [9, 7])
        return judge.told

    first = told(1)
    assert [(b.least, b.open_score) for b in first] == [(0.1, 0.2)] * 2 and [len(b.covered) for b in first] == [0, 1]
    right, wrong = told(100)
    assert right.least == pytest.approx(0.1 * 0.75, rel=0.1) and right.open_score == pytest.approx(2 * right.least)
    assert wrong.least > 0.4, "what the text knew is not to its credit"
    assert told(400, nodes=0)[1].least < 0.15, "given up, it gets another chance"


@pytest.mark.parametrize("nodes", [1, 5, 64, 65, 130])
def test_tree_identities(nodes):
    random = random_trees(3, nodes, vocab=12, seed=nodes)
    sizes = [nodes, max(1, nodes // 2), 1]
    draft = lambda b, n: Draft(random.tokens[b, 1:n].numpy(), random.parents[b, 1:n].numpy() - 1, np.ones(n - 1, np.float32))
    tree = DraftTree.build([70, 71, 72], [draft(b, n) for b, n in enumerate(sizes)])
    assert tree.num_nodes.tolist() == sizes and tree.tokens[:, 0].tolist() == [70, 71, 72] and tree.shape == (3, nodes)
    visible = (tree.ancestors[..., None] >> torch.arange(64) & 1).flatten(2)[..., :nodes].bool()  # [B, N, N]
    assert (visible.sum(-1) == tree.depth + 1).all()
    assert not visible.triu(1).any() and visible.diagonal(dim1=1, dim2=2).all()
    for b, size in enumerate(sizes):
        assert (tree.parents[b, size:] == -1).all() and (tree.depth[b, size:] == 0).all() and (tree.first_child[b, size:] == -1).all()
        for node in range(size):
            child, children = int(tree.first_child[b, node]), []
            while child >= 0:
                children.append(child)
                assert int(tree.parents[b, child]) == node and visible[b, child, node]
                child = int(tree.next_sibling[b, child])
            assert children == [i for i in range(1, size) if tree.parents[b, i] == node]
            assert len({int(tree.tokens[b, c]) for c in children}) == len(children)
            ancestors = [i for i in range(1, nodes) if visible[b, node, i]]
            assert tree.path_tokens(b, node) == [int(tree.tokens[b, i]) for i in ancestors]


def test_draws_follow_their_law():
    law = torch.tensor([0.4, 0.0, 0.3, 0.2, 0.1])
    tokens = torch.tensor(draw(law, 20_000, random_numbers((1, -5, 3, 1))))
    assert_follows(tokens, law)
    assert draw(law, 5, random_numbers((1, -5, 3, 1))) == tokens[:5].tolist()  # counted, not remembered
    pairs = torch.tensor([draw_distinct(law, 2, random_numbers((1, i, 3, 1))) for i in range(4000)])
    want = law[:, None] * law / (1 - law[:, None])
    want.fill_diagonal_(0)
    assert_follows(pairs[:, 0] * 5 + pairs[:, 1], want.flatten())
    assert sorted(draw_distinct(law, 9, random_numbers((0, 0, 0, 0)))) == [0, 2, 3, 4]


def test_distinct_draws_become_independent_ones():
    """The first tokens of the stream keep their order, and any place of the stream has the law."""
    law = torch.tensor([0.6, 0.2, 0.15, 0.05])
    streams = []
    for i in range(6000):
        drawn = draw_distinct(law, 3, random_numbers((0, i, 0, 0)))
        stream = as_independent(Draws(-1, drawn, law, False), random_numbers((1, i, 0, 0)))
        assert list(dict.fromkeys(stream))[:3] == drawn[: len(set(stream))]
        streams.append(stream)
    assert len({len(s) for s in streams}) == 1 and len(streams[0]) > 3
    pairs = torch.tensor([s[1] * 4 + s[2] for s in streams])
    assert_follows(pairs, (law[:, None] * law).flatten())


def test_more_draws_than_room_for_children():
    flat, peaked = torch.full((1000,), 1e-3), torch.tensor([0.97, 0.01, 0.01, 0.01])
    assert draws_for(flat, 4) == 4 and draws_for(peaked, 3) == 64 and draws_for(peaked, 1) == 1
    for children in (1, 2, 5):
        counts = [draws_for(random_laws(50, seed=s), children) for s in range(20)]
        assert min(counts) >= children and max(counts) <= 64


def test_drawn_trees_keep_to_their_budget():
    laws = random_laws(40, 30, seed=2)
    tree = DrawnTree(nodes=13, depth=4, key=(0, 0, 0, 1))
    while tree.growing:
        tree.grow(laws[: 1 + len(tree.tokens)])
    draft = tree.draft()
    assert 4 <= len(draft) <= 13 and draft.depth <= 4
    assert {d.node for d in draft.draws} <= {-1, *range(len(draft))} and all(d.law is not None for d in draft.draws)
    for token, parent in zip(draft.tokens.tolist(), draft.parents.tolist()):
        assert token in next(d.tokens for d in draft.draws if d.node == parent)


def test_fixed_drafts_are_in_every_tree_and_never_drawn():
    laws = random_laws(40, 30, seed=2)
    tree = DrawnTree(nodes=13, depth=1, key=(0, 0, 0, 1), fixed=2)
    tree.grow(laws[:1])
    (draws,), top = tree.draft().draws, laws[0].topk(2).indices.tolist()
    assert set(top) <= set(tree.tokens) and not set(top) & set(draws.tokens)
    assert not draws.law[top].any() and abs(float(draws.law.sum()) - 1) < 1e-6


@pytest.mark.parametrize("law, count, fixed, rest", [
    ([0.25, 0.25, 0.5], 2, [2, 0], [0, 1, 0]),  # of equals the lower id
    ([0.0, 1.0, 0.0], 2, [1], None),  # what has no chance is not drafted
    ([0.5, 0.5], 5, [0, 1], None),
    ([0.5, 0.5], 0, [], [0.5, 0.5]),
])  # fmt: skip
def test_the_most_probable_tokens_and_what_they_leave(law, count, fixed, rest):
    found, left = without_most_probable(torch.tensor(law), count)
    assert found == fixed and (left is None if rest is None else left.tolist() == rest)


def weights(drafter) -> dict[tuple[int, ...], float]:
    rows, values = drafter.map.dump()
    return {tuple(row): value for row, value in zip(rows.reshape(-1, 3).tolist(), values.tolist())}


def test_trigrams_with_one_successor_each_are_a_chain():
    draft = propose(AdaptiveTrigramDrafter(), [1, 2, 3, 4, 5, 6, 1, 2], WIDE._replace(depth=4))
    assert draft.tokens.tolist() == [3, 4, 5, 6] and draft.parents.tolist() == [-1, 0, 1, 2]
    assert all(a > b for a, b in zip(draft.scores, draft.scores[1:]))


@pytest.mark.parametrize("seed", range(5))
def test_trigram_drafts_are_steps_of_the_map_and_the_same_every_time(seed):
    text = np.random.default_rng(seed).integers(0, 6, 300).tolist()
    drafter, twin = AdaptiveTrigramDrafter(corpus=[text]), AdaptiveTrigramDrafter(corpus=[text])
    draft, again = (propose(d, text[-20:]) for d in (drafter, twin))
    assert all(np.array_equal(a, b) for a, b in zip(draft.arrays, again.arrays)) and 0 < len(draft) <= 40
    known = weights(drafter)
    for path in paths(draft):
        context = [*text[-2:], *path]
        assert all(tuple(context[i : i + 3]) in known for i in range(len(path)))
    assert len(set(paths(draft))) == len(draft) and np.all(draft.scores[draft.parents >= 0] < draft.scores[draft.parents[draft.parents >= 0]])


def test_trigram_weights_rise_to_their_limit_and_the_lightest_make_room():
    drafter = AdaptiveTrigramDrafter()
    state = drafter.begin([SimpleNamespace(prompt=[1, 2, 3], tokens=[])])
    assert weights(drafter) == {(1, 2, 3): pytest.approx(0.04)}
    before = 0.0
    for _ in range(90):
        drafter.observe(state, 0, [])
        assert weights(drafter)[1, 2, 3] >= before
        before = weights(drafter)[1, 2, 3]
    assert before == 3.0
    for token in range(20, 40):
        drafter.map.learn(np.array([1, 2, token], np.int32))
    assert len(weights(drafter)) == 12 and weights(drafter)[1, 2, 3] == 3.0 and (1, 2, 39) in weights(drafter)


def test_old_trigrams_make_room():
    drafter = AdaptiveTrigramDrafter(max_pairs=10)
    drafter.map.learn(np.arange(100, dtype=np.int32))
    assert len(drafter.map) == 10 and min(weights(drafter)) == (88, 89, 90)


def test_trigrams_learn_from_what_the_target_favours():
    drafter = AdaptiveTrigramDrafter()
    state = drafter.begin([SimpleNamespace(prompt=[1, 2], tokens=[])])
    drafter.learn(state, 0, torch.tensor([[1, 2], [2, 7]], dtype=torch.int32), torch.tensor([[7, 8], [9, -1]], dtype=torch.int32))
    assert set(weights(drafter)) == {(1, 2, 7), (1, 2, 8), (2, 7, 9)}
    assert set(paths(drafter.propose(state, [0], [WIDE])[0])) == {(7,), (8,), (7, 9)}


def test_every_request_may_have_a_map_of_its_own():
    drafter = AdaptiveTrigramDrafter(corpus=[[1, 2, 3]], shared=False)
    state = drafter.begin([SimpleNamespace(prompt=[4, 5, 6, 4, 5], tokens=[]), SimpleNamespace(prompt=[9, 4, 5], tokens=[])])
    assert paths(drafter.propose(state, [0], [WIDE])[0])[0] == (6,) and len(drafter.propose(state, [1], [WIDE])[0]) == 0
    drafter.learn(state, 1, torch.tensor([[4, 5]], dtype=torch.int32), torch.tensor([[8, 7]], dtype=torch.int32))
    assert set(paths(drafter.propose(state, [1], [WIDE])[0])) == {(8,), (7,)}
    assert set(weights(drafter)) == {(1, 2, 3)}  # what was given
    state = drafter.begin([SimpleNamespace(prompt=[1, 2], tokens=[])])
    assert paths(drafter.propose(state, [0], [WIDE])[0]) == [(3,)]
    with pytest.raises(ValueError, match="shared='no' must be"):
        AdaptiveTrigramDrafter(shared="no")


def test_trigrams_are_saved_and_loaded(tmp_path):
    drafter = AdaptiveTrigramDrafter(corpus=[random_prompt(200, seed=1)])
    drafter.save(tmp_path / "map.safetensors")
    assert weights(AdaptiveTrigramDrafter(path=tmp_path / "map.safetensors")) == weights(drafter)
    from safetensors.numpy import save_file

    save_file({"trigrams": np.zeros((3, 2), np.int32), "weights": np.ones(3, np.float32)}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="does not hold trigrams"):
        AdaptiveTrigramDrafter(path=tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="iterations=0 must be"):
        AdaptiveTrigramDrafter(iterations=0)


def test_searches_over_trigrams_stay_small():
    """At most 64 nodes and the pending token, whatever is known."""
    text = np.random.default_rng(0).integers(0, 5, 2000).tolist()
    assert len(propose(AdaptiveTrigramDrafter(corpus=[text]), text[-9:], Budget(64, 12, 0.0))) <= 64


def test_a_dynamic_tree_goes_on_from_its_best_candidates():
    tree = _C.DynamicTree(2, 0.0)
    vocabulary = np.array([10, 11, 12, 13], np.int32)
    assert tree.promised == 1.0
    tree.add(np.array([[3, 0, 1]], np.int32), np.array([[0.5, 0.3, 0.1]], np.float32), vocabulary)
    assert tree.promised == pytest.approx(0.8) and tree.open().tolist() == [0, 0] and tree.tokens.tolist() == [13, 10]
    tree.add(np.array([[1, 2, -1], [0, 3, 1]], np.int32), np.array([[0.1, 0.05, 0.0], [0.25, 0.02, 0.01]], np.float32), vocabulary)
    assert tree.levels == 2 and tree.open().tolist() == [0, 1]
    assert tree.tokens.tolist() == [13, 10, 11, 10] and tree.parents.tolist() == [-1, -1, 0, 1] and tree.open_scores.tolist() == pytest.approx([0.1, 0.25])
    draft = Draft(*tree.best(4))
    assert set(paths(draft)) == {(13,), (10,), (11,), (10, 10)}
    assert len(Draft(*tree.best(100))) == 8
    with pytest.raises(ValueError, match="candidate 4 is outside the draft vocabulary 0 .. 3"):
        tree.add(np.array([[4], [0]], np.int32), np.ones((2, 1), np.float32), vocabulary)
    with pytest.raises(ValueError, match=r"must be \[2, k\]"):
        tree.add(np.array([[1, 2, 3]], np.int32), np.ones((1, 3), np.float32), vocabulary)
    pruned = _C.DynamicTree(4, 0.2)
    pruned.add(np.array([[0, 1]], np.int32), np.array([[0.7, 0.1]], np.float32), vocabulary)
    assert len(pruned.open()) == 1
    narrowed = _C.DynamicTree(4, 0.0, 0.25)
    narrowed.add(np.array([[0, 1, 2]], np.int32), np.array([[0.6, 0.25, 0.1]], np.float32), vocabulary)
    assert narrowed.promised == pytest.approx(0.85) and narrowed.open().tolist() == [0, 0] and len(Draft(*narrowed.best(9))) == 3
    narrowed.add(np.array([[0], [1]], np.int32), np.array([[0.2], [0.1]], np.float32), vocabulary)
    assert narrowed.promised == 0 and narrowed.open().tolist() == [] and len(Draft(*narrowed.best(9))) == 5
