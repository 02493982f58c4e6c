"""Tasks score what is right, and an ideal model loses by parallel commits exactly what the closed forms say."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from fastdecode import ops
from fastdecode.diffusion.parallel_bench import PUZZLES, TASKS, examples, list_text, parse_list, pieces
from fastdecode.ops.unmask_commit import MASKED
from fastdecode.training.piece_tokenizer import piece_tokenizer


@pytest.mark.parametrize("task", [*TASKS, *PUZZLES])
def test_answers_are_right_and_others_are_not(task):
    made = examples(task, 40)
    assert made == examples(task, 40) and made != examples(task, 40, seed=1)
    for e in made:
        assert e.score(e.answer) and not e.score("") and not e.score("[]") and not e.score(e.answer[: len(e.answer) // 2])
    if not {**TASKS, **PUZZLES}[task].unique:
        assert any(a.answer != b.answer for a, b in zip(made, examples(task, 40, seed=1)))


@pytest.mark.parametrize("task", TASKS)
def test_the_tokenizer_knows_every_piece(task):
    tokenizer = piece_tokenizer(pieces())
    for e in examples(task, 30, range(2, 7)):
        for text in (e.prompt, e.answer):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text
        assert len(tokenizer(e.answer)["input_ids"]) < 32


def score(task: str, items: list[str], reply: list[str], word: str = "X", index: int = 0) -> bool:
    return TASKS[task].right({"items": items, "word": word, "index": index}, list_text(reply))


def test_scores():
    abc = ["A", "B", "C"]
    assert score("shuffle", abc, ["B", "A", "C"]) and not score("shuffle", abc, abc) and not score("shuffle", abc, ["B", "A", "A"])
    assert score("insert_random", abc, ["A", "X", "B", "C"]) and not score("insert_random", abc, ["A", "X", "C", "B"]) and not score("insert_random", abc, abc)
    assert score("remove_random", abc, ["A", "C"]) and not score("remove_random", abc, ["C", "A"]) and not score("remove_random", abc, abc)
    assert score("replace_random", abc, ["A", "X", "C"]) and not score("replace_random", abc, ["X", "X", "C"]) and not score("replace_random", abc, abc)
    assert score("insert_index", abc, ["X", *abc]) and not score("insert_index", abc, [*abc, "X"])
    assert parse_list('so: ["A", "B"] done') == ["A", "B"] and parse_list("[x] [A]") == ["A"] and parse_list("none") is None
    assert TASKS["json"].right({"record": {"age": 3}}, json.dumps({"age": 3})) and not TASKS["json"].right({"record": {"age": 3}}, '{"age": "3"}')


def test_puzzles():
    square = {"symbols": ["A", "B", "C"]}
    right = PUZZLES["latin_square"].right
    assert right(square, "A,B,C\nB, C, A\nC,A,B") and right(square, "here:\nA,B,C\nB,C,A\nC,A,B\n")
    assert not right(square, "A,B,C\nA,C,B\nC,A,B") and not right(square, "A,B,C\nB,C,A")
    for e in examples("sudoku", 20):
        rows = e.answer.splitlines()
        lines = [*rows, *map("".join, zip(*rows)), *(rows[r][c : c + 2] + rows[r + 1][c : c + 2] for r in (0, 2) for c in (0, 2))]
        assert all(sorted(line) == list("1234") for line in lines)
        assert sum(row.count("0") for row in e.facts["given"]) == 4


def chance_of_a_permutation(n: int, k: int) -> float:
    """Of an ideal model that commits k positions at once, each drawn from its exact marginal given what is there: by enumeration."""

    def go(placed: tuple[int, ...]) -> float:
        if len(placed) == n:
            return 1.0
        left = [i for i in range(n) if i not in placed]
        chance = 0.0
        for drawn in itertools.product(left, repeat=k):
            if len(set(drawn)) == k:
                chance += go(placed + drawn) / len(left) ** k
        return chance

    return go(())


@pytest.mark.parametrize("n, k", [(6, 2), (6, 6), (6, 3), (4, 4), (5, 1)])
def test_shuffling_in_parallel(n, k):
    closed = math.prod(math.perm(n - (i - 1) * k, k) / (n - (i - 1) * k) ** k for i in range(1, n // k + 1))
    assert chance_of_a_permutation(n, k) == pytest.approx(closed)
    if (n, k) == (6, 2):
        assert closed == pytest.approx(0.3125)
    if (n, k) == (6, 6):
        assert closed == pytest.approx(0.015432, abs=1e-6)


@pytest.mark.parametrize("n", [3, 4, 6])
def test_replacing_in_one_step(n):
    """Every position keeps its entry with probability (n - 1) / n; one word must be there exactly once."""
    generator = np.random.default_rng(0)
    changed = (generator.random((200_000, n)) < 1 / n).sum(1)
    assert (changed == 1).mean() == pytest.approx(((n - 1) / n) ** (n - 1), abs=0.005)


def total_correlation(answers: list[tuple]) -> float:
    """Of the positions of an answer that is drawn from these, in bits: the sum of their entropies without that of the whole."""
    entropy = lambda values: -sum(c / len(values) * math.log2(c / len(values)) for c in Counter(values).values())
    return sum(entropy([a[i] for a in answers]) for i in range(len(answers[0]))) - entropy(answers)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_what_is_lost_at_least(n):
    """In one step (base 2): nothing where the answer is unique, and these closed forms where it is not."""
    assert total_correlation([tuple(range(n))]) == 0
    replaced = [tuple("w" if i == j else i for i in range(n)) for j in range(n)]
    assert total_correlation(replaced) == pytest.approx((n - 1) * math.log2(n / (n - 1)))
    assert total_correlation(list(itertools.permutations(range(n)))) == pytest.approx(n * math.log2(n) - math.log2(math.factorial(n)))
    if n % 2 == 0:  # two per step: what is lost in every step, given those before
        steps = sum(total_correlation(list(itertools.permutations(range(m), 2))) for m in range(n, 0, -2))
        assert steps == pytest.approx(math.log2(math.prod(range(n, 0, -2)) / math.prod(range(n - 1, 0, -2))))


def test_what_is_lost_by_replacing_converges():
    assert 10**6 * math.log2(1 + 1 / 10**6) == pytest.approx(1 / math.log(2), abs=1e-5) and 1 / math.log(2) == pytest.approx(1.44, abs=5e-3)


WORD = 99


def shuffles(answer: list[int | None]) -> list[tuple[int, float]]:
    """Most probable token and its probability at every position, for a model that knows the law of the answers."""
    left = [i for i in range(len(answer)) if i not in answer]
    return [(left[0], 1 / len(left)) if left else (0, 1.0)] * len(answer)


def replaces(answer: list[int | None]) -> list[tuple[int, float]]:
    masks = answer.count(None)
    keep = 1.0 if WORD in answer else (masks - 1) / masks if masks else 1.0
    return [(i, keep) if keep >= 0.5 else (WORD, 1 - keep) for i in range(len(answer))]


def answer_of(law, n: int, quota: int = 1, **rule) -> list[int]:
    """What a policy makes of the proposals of such a model."""
    tokens, changed = torch.zeros(1, n, dtype=torch.int32), torch.full((1, n), MASKED, dtype=torch.int32)
    while bool((changed == MASKED).any()):
        proposals = law([int(t) if c != MASKED else None for t, c in zip(tokens[0], changed[0])])
        floats = torch.zeros(n, 16)
        floats[:, 5] = torch.tensor([p for _, p in proposals]).log()
        stats = ops.VocabStats(floats, torch.tensor([[i, i] for i, _ in proposals], dtype=torch.int32))
        as_int = lambda *values: torch.tensor(values, dtype=torch.int32)
        ops.unmask_commit(stats, as_int(0, n), torch.arange(n).int(), tokens, changed, quota=as_int(quota), step=0, **rule)
    return tokens[0].tolist()


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_policies_with_an_ideal_model(n):
    is_shuffle = lambda answer: sorted(answer) == list(range(n))
    is_replacement = lambda answer: answer.count(WORD) == 1 and all(a in (i, WORD) for i, a in enumerate(answer))
    assert is_shuffle(answer_of(shuffles, n)) and is_replacement(answer_of(replaces, n))
    for bar in (0.51, 0.7, 0.99):
        assert is_shuffle(answer_of(shuffles, n, rule="threshold", bar=bar))
    for quota in range(3, n + 1):
        assert not is_shuffle(answer_of(shuffles, n, quota)) and (n % quota == 1 or not is_replacement(answer_of(replaces, n, quota)))
    assert is_replacement(answer_of(replaces, n, rule="threshold", bar=(n - 1) / n + 1e-3))
    assert not is_replacement(answer_of(replaces, n, rule="threshold", bar=(n - 1) / n - 1e-3))
