"""Tasks score what is right, and an ideal model loses by parallel commits exactly what the closed forms say."""

import itertools
import json
import math

import numpy as np
import pytest

from fastdecode.diffusion.parallel_bench import PUZZLES, TASKS, examples, list_text, parse_list, pieces
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
