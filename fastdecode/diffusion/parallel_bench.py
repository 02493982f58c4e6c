"""Synthetic tasks of ParallelBench (Kang et al. 2025, arXiv:2510.04767): what is lost when tokens are committed in parallel.

Where an answer is unique (copy, sort, ...), tokens can be chosen side by side; where many answers are right (shuffle, insert
anywhere, ...), tokens chosen side by side contradict each other. Prompts are worded anew, so results compare in shape with
published ones, not cell by cell. Sums, differences and JSON records are added in the same manner; puzzles stand apart, because the small
model that comes with fastdecode has not learned them.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable

FIRST_NAMES = (
    "Ada Amir Anna Bela Boris Carla Chen Clara Dana David Dora Elif Emil Erik Farid Fiona Frida Georg Gina Hana Hugo Ines Ivan Jana Jonas Julia Kamal Karl Katja Lara Leon Lina "
    "Marco Marta Milan Mina Nadia Nils Nora Olga Omar Otto Paula Pavel Petra Quinn Rafael Rosa Ruben Sara Simon Sofia Tariq Theo Tina Ugo Vera Viktor Wanda Yara Zoe"
).split()  # fmt: skip
LAST_NAMES = (
    "Adler Bach Baker Berg Blum Brandt Castro Cohen Costa Dahl Diaz Dubois Eder Falk Fischer Fuchs Garcia Graf Haas Hall Hansen Hoffman Ito Jensen Kaiser Keller Klein Koch Kovac Lang "
    "Lehmann Lopez Maier Marino Meyer Moreau Moser Nagy Novak Olsen Pavlov Peters Pohl Ramos Reyes Rossi Sato Schmidt Silva Stein Sulu Tanaka Torres Unger Vogel Wagner Weber Winter Wolf Young Ziegler"
).split()  # fmt: skip
CITIES = "Athens Berlin Bern Cairo Dublin Geneva Kyoto Lima Lisbon London Madrid Milano Oslo Paris Prague Rome Seoul Tunis Vienna Zagreb".split()
OPENING, CLOSING = "A help desk keeps people in a queue.", "Reply with the resulting list only."


@dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
        task: its name.
        prompt: the whole text of the question.
        facts: what a scorer needs: items, word, index, or the answer itself.
        answer: a right answer; of several right ones it is drawn.
    """

    task: str
    prompt: str
    facts: dict[str, Any]
    answer: str

    def score(self, text: str) -> bool:
        """Whether a reply is right."""
        return {**TASKS, **PUZZLES}[self.task].right(self.facts, text)


@dataclass(frozen=True)
class Task:
    """A family of questions.

    Attributes:
        make: from random numbers and a number of items to facts.
        question: the task line from facts.
        answer: a right answer from facts and random numbers.
        right: whether a reply fits the facts.
        unique: whether there is one right answer.
    """

    make: Callable[[random.Random, int], dict[str, Any]]
    question: Callable[[dict[str, Any]], str]
    answer: Callable[[dict[str, Any], random.Random], str]
    right: Callable[[dict[str, Any], str], bool]
    unique: bool = True

    def example(self, name: str, generator: random.Random, length: int) -> Example:
        facts = self.make(generator, length)
        return Example(name, self.question(facts), facts, self.answer(facts, generator))


def list_text(items: list[str]) -> str:
    return json.dumps(items)


def parse_list(text: str) -> list[str] | None:
    """Items between the last "[" and the next "]", quotes and spaces taken off; None where there is no such bracket."""
    _, bracket, rest = text.rpartition("[")
    return [item for part in rest.partition("]")[0].split(",") if (item := part.strip().strip('"').strip())] if bracket else None


def _queue(generator: random.Random, length: int, pick: bool = True) -> dict[str, Any]:
    """Distinct people, one who is not among them, and a place; drawn in this order."""
    names = [f"{a} {b}" for a in FIRST_NAMES for b in LAST_NAMES]
    *items, word = generator.sample(names, length + 1)
    return {"items": items, "word": word, "index": generator.randrange(length + (not pick))}


def _asked(line: str) -> Callable[[dict[str, Any]], str]:
    return lambda facts: f"{OPENING}\n{line.format(w=facts['word'], i=facts['index'])}\n{list_text(facts['items'])}\n{CLOSING}\n"


def _list_task(line: str, result: Callable[[dict[str, Any]], list[str]], insert: bool = False) -> Task:
    """A task with one right list."""
    return Task(
        lambda generator, length: _queue(generator, length, not insert),
        _asked(line),
        lambda facts, _: list_text(result(facts)),
        lambda facts, text: parse_list(text) == result(facts),
    )


def _free_task(line: str, draw: Callable[[dict[str, Any], random.Random], list[str]], right: Callable[[dict[str, Any], list[str]], bool]) -> Task:
    """A task with many right lists."""
    return Task(_queue, _asked(line), lambda facts, generator: list_text(draw(facts, generator)), lambda facts, text: right(facts, parse_list(text) or []), unique=False)


def _without(items: list[str], index: int) -> list[str]:
    return items[:index] + items[index + 1 :]


def _with(items: list[str], index: int, word: str) -> list[str]:
    return items[:index] + [word] + items[index:]


def _shuffled(facts: dict[str, Any], generator: random.Random) -> list[str]:
    items = list(facts["items"])
    while items == facts["items"]:
        generator.shuffle(items)
    return items


def _is_insertion(facts: dict[str, Any], reply: list[str]) -> bool:
    return facts["word"] in reply and _without(reply, reply.index(facts["word"])) == facts["items"]


def _is_removal(facts: dict[str, Any], reply: list[str]) -> bool:
    return any(_without(facts["items"], i) == reply for i in range(len(facts["items"])))


def _is_replacement(facts: dict[str, Any], reply: list[str]) -> bool:
    if facts["word"] not in reply or len(reply) != len(facts["items"]):
        return False
    index = reply.index(facts["word"])
    return _with(_without(facts["items"], index), index, facts["word"]) == reply


def _sum(sign: int) -> Task:
    def make(generator: random.Random, length: int) -> dict[str, Any]:
        a, b = generator.randrange(100), generator.randrange(100)
        return {"a": a, "b": b} if sign > 0 or a >= b else {"a": b, "b": a}

    value = lambda facts: str(facts["a"] + sign * facts["b"])
    mark = "+" if sign > 0 else "-"
    return Task(make, lambda f: f"Compute {f['a']}{mark}{f['b']}:\n", lambda f, _: value(f), lambda f, text: text.strip() == value(f))


def _record(generator: random.Random, length: int) -> dict[str, Any]:
    fields = {"name": generator.choice(FIRST_NAMES), "family": generator.choice(LAST_NAMES), "city": generator.choice(CITIES), "age": generator.randrange(10, 100)}
    return {"record": {key: fields[key] for key in generator.sample(sorted(fields), min(length, len(fields)))}}


def _is_record(facts: dict[str, Any], text: str) -> bool:
    try:
        return json.loads(text) == facts["record"]
    except ValueError:
        return False


def _record_question(facts: dict[str, Any]) -> str:
    return "Write as JSON:" + "".join(f" {key}={value}" for key, value in facts["record"].items()) + "\n"


TASKS: dict[str, Task] = {
    "copy": _list_task("Keep the queue unchanged:", lambda f: f["items"]),
    "reverse": _list_task("Turn the queue around:", lambda f: f["items"][::-1]),
    "sort": _list_task("Put the queue in alphabetical order:", lambda f: sorted(f["items"])),
    "insert_index": _list_task('Add "{w}" at index {i} (counting from 0):', lambda f: _with(f["items"], f["index"], f["word"]), insert=True),
    "remove_index": _list_task("Remove the entry at index {i} (counting from 0):", lambda f: _without(f["items"], f["index"])),
    "replace_index": _list_task('Replace the entry at index {i} (counting from 0) by "{w}":', lambda f: _with(_without(f["items"], f["index"]), f["index"], f["word"])),
    "shuffle": _free_task("Put the queue in a random order different from this one:", _shuffled, lambda f, reply: Counter(reply) == Counter(f["items"]) and reply != f["items"]),
    "insert_random": _free_task('Add "{w}" at any place:', lambda f, g: _with(f["items"], g.randrange(len(f["items"]) + 1), f["word"]), _is_insertion),
    "remove_random": _free_task("Remove any one entry:", lambda f, g: _without(f["items"], g.randrange(len(f["items"]))), _is_removal),
    "replace_random": _free_task('Replace any one entry by "{w}":', lambda f, g: (lambda i: _with(_without(f["items"], i), i, f["word"]))(g.randrange(len(f["items"]))), _is_replacement),
    "json": Task(_record, _record_question, lambda f, _: json.dumps(f["record"]), _is_record),
    "add": _sum(+1),
    "subtract": _sum(-1),
}


def _latin(generator: random.Random, length: int) -> dict[str, Any]:
    return {"symbols": generator.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ", length)}


def _latin_answer(facts: dict[str, Any], generator: random.Random) -> str:
    symbols = generator.sample(facts["symbols"], len(facts["symbols"]))
    rows = generator.sample([symbols[i:] + symbols[:i] for i in range(len(symbols))], len(symbols))
    return "\n".join(",".join(row) for row in rows)


def _is_latin(facts: dict[str, Any], text: str) -> bool:
    """Whether the first lines that are permutations of the symbols have columns that are permutations too."""
    want = sorted(facts["symbols"])
    rows = [row for line in text.splitlines() if sorted(row := [cell.strip() for cell in line.split(",")]) == want][: len(want)]
    return len(rows) == len(want) and all(sorted(column) == want for column in zip(*rows))


def _sudoku(generator: random.Random, length: int) -> dict[str, Any]:
    """A 4 x 4 grid whose 12 given digits leave one solution."""
    while True:
        digits = generator.sample("1234", 4)
        grid = [digits[k:] + digits[:k] for k in (0, 2, 1, 3)]
        hidden = generator.sample(range(16), 4)
        given = [["0" if 4 * r + c in hidden else grid[r][c] for c in range(4)] for r in range(4)]
        if _solutions(given) == 1:
            return {"given": given, "solution": grid}


def _solutions(grid: list[list[str]]) -> int:
    empty = next(((r, c) for r in range(4) for c in range(4) if grid[r][c] == "0"), None)
    if empty is None:
        return 1
    r, c = empty
    box = {grid[2 * (r // 2) + i][2 * (c // 2) + j] for i in range(2) for j in range(2)}
    used = {*grid[r], *(row[c] for row in grid), *box}
    return sum(_solutions([[d if (i, j) == (r, c) else grid[i][j] for j in range(4)] for i in range(4)]) for d in "1234" if d not in used)


def _grid_text(grid: list[list[str]]) -> str:
    return "\n".join("".join(row) for row in grid)


PUZZLES: dict[str, Task] = {
    "latin_square": Task(
        lambda generator, length: _latin(generator, 4),
        lambda f: f"Write a {len(f['symbols'])}x{len(f['symbols'])} Latin square using the symbols [{', '.join(f['symbols'])}] as CSV rows, nothing else.\n",
        _latin_answer, _is_latin, unique=False,
    ),
    "sudoku": Task(
        _sudoku,
        lambda f: "Fill in the zeros of this 4x4 Sudoku; reply with the four rows only.\n" + _grid_text(f["given"]) + "\n",
        lambda f, _: _grid_text(f["solution"]),
        lambda f, text: [line.strip() for line in text.strip().splitlines()][:4] == ["".join(row) for row in f["solution"]],
    ),
}  # fmt: skip


def examples(task: str, count: int, lengths: range = range(3, 7), seed: int = 42) -> list[Example]:
    """Questions of one task, the same for the same arguments, lengths evenly spread.

    Raises:
        ValueError: the task is unknown.
    """
    known = {**TASKS, **PUZZLES}
    if task not in known:
        raise ValueError(f"task={task!r} is unknown: use {', '.join(known)}")
    digest = int.from_bytes(hashlib.sha256(task.encode()).digest(), "big")
    generator = random.Random((digest + seed) % 65535)
    return [known[task].example(task, generator, lengths[i * len(lengths) // count]) for i in range(count)]


def pieces() -> list[str]:
    """Every string that prompts and answers are made of, each a token of the trained model's tokenizer."""
    lines = re.split(r"\{w\}|\{i\}", "\n".join(t.question({"items": [], "word": "{w}", "index": "{i}"}) for n, t in TASKS.items() if n not in ("json", "add", "subtract")))
    words = {part for line in lines for part in re.split(r"(\n|\[\])", line) if part and part != "[]"}
    marks = {'["', '", "', '"]', "[]", '"', "+", "-", ":\n", "Compute ", "Write as JSON:", "=", " ", '{"', '": "', '": ', ', "', '"}', "}", "name", "family", "city", "age"}
    names = {*FIRST_NAMES, *(f" {name}" for name in LAST_NAMES), *LAST_NAMES, *CITIES}
    return sorted(words | marks | names | set("0123456789"))
