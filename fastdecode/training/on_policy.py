"""Text that a chat model writes itself, user turns included: training data for its drafts without a download."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Sequence

import torch
from safetensors.torch import load_file, save_file

from fastdecode import _C
from fastdecode.ops import VocabStats
from fastdecode.ops.vocab_stats import arguments
from fastdecode.targets.native import NativeTarget
from fastdecode.training.starters import QUESTIONS, STARTERS, SUMMARIES

SHORTEST, LONGEST = 4, 200  # words of a user turn
OVERLAP = 8  # words in a row that a user turn may not share with a text that is kept out
ANSWER_TEMPERATURE = 0.8  # of the half of the answers that are not greedy
GIVEN = 500_000  # number of the first conversation about a given question; far behind those that write theirs


# Tokens int32 [T] and hidden states [T, taps, width] of a conversation, and where the user's words and the answer begin in it.
Conversation = tuple[torch.Tensor, torch.Tensor, int, int]


@dataclass(frozen=True)
class Conversations:
    """Conversations one behind the other, with what the target computed while it wrote them.

    Attributes:
        tokens: int32 [N]. begins: int64 [C + 1], where conversations begin.
        turns: int64 [C], where the user's words begin; answers: int64 [C], where the answers begin.
        hidden: bfloat16 [N, taps, width], hidden states of the target after every token.
    """

    tokens: torch.Tensor
    begins: torch.Tensor
    turns: torch.Tensor
    answers: torch.Tensor
    hidden: torch.Tensor

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, i: int) -> Conversation:
        begin, end = int(self.begins[i]), int(self.begins[i + 1])
        return self.tokens[begin:end], self.hidden[begin:end], int(self.turns[i]) - begin, int(self.answers[i]) - begin

    @property
    def answer_tokens(self) -> int:
        return int((self.begins[1:] - self.answers).sum())

    def save(self, path: str | Path) -> None:
        save_file(vars(self), path)

    @classmethod
    def load(cls, path: str | Path) -> "Conversations":
        """Hidden states stay in the file until they are read."""
        return cls(**load_file(path))

    @classmethod
    def of(cls, conversations: Sequence[Conversation]) -> "Conversations":
        tokens, hidden, turns, answers = zip(*conversations)
        begins = torch.tensor([0, *map(len, tokens)]).cumsum(0)
        return cls(torch.cat(tokens), begins, begins[:-1] + torch.tensor(turns), begins[:-1] + torch.tensor(answers), torch.cat(hidden))


class Library(Sequence):
    """The conversations of several files as one sequence."""

    def __init__(self, parts: Sequence[Conversations]):
        self.parts = list(parts)
        self.index = [(part, i) for part in self.parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int):
        part, inner = self.index[i]
        return part[inner]

    @property
    def answer_tokens(self) -> int:
        return sum(part.answer_tokens for part in self.parts)


class TurnFilter:
    """Lets every sensible question pass once."""

    def __init__(self, keep_out: Sequence[str] = ()):
        self.seen: set[str] = set()
        self.forbidden = {gram for text in keep_out for gram in _grams(_words(text))}

    def accepts(self, text: str) -> bool:
        words = _words(text)
        key = " ".join(words)
        sensible = SHORTEST <= len(words) <= LONGEST and len(set(words)) > 0.4 * len(words) and "\ufffd" not in text
        if not sensible or key in self.seen or self.keeps_out(text):
            return False
        self.seen.add(key)
        return True

    def keeps_out(self, text: str) -> bool:
        """Whether it shares words with a text that is kept out."""
        return not self.forbidden.isdisjoint(_grams(_words(text)))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _grams(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + OVERLAP]) for i in range(len(words) - OVERLAP + 1)}


def chat_frame(tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of the chat template before the user's words, and between them and the answer."""
    mark = "\x00"
    text = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True)
    before, after = text.split(mark)
    ids = lambda part: list(tokenizer(part, add_special_tokens=False)["input_ids"])
    return ids(before), ids(after)


@dataclass
class _Row:
    """A conversation that is being written in a row of the cache."""

    number: int
    turn: int
    next: list[int]  # tokens that go into the next pass
    tokens: list[int]
    hidden: list[torch.Tensor] = field(default_factory=list)
    answer: int = 0  # where the answer begins; 0 while the question is written

    def conversation(self, longest: int) -> Conversation:
        """Its end, where it is longer than so many tokens."""
        cut = max(0, len(self.tokens) - longest)
        return torch.tensor(self.tokens[cut:], dtype=torch.int32), torch.cat(self.hidden)[cut:], max(0, self.turn - cut), self.answer - cut

    @property
    def temperature(self) -> float:
        return 1.0 if not self.answer else ANSWER_TEMPERATURE if self.number % 2 else 0.0


class Writer:
    """Lets a chat model write conversations, the user's part first (Magpie, Xu et al. 2024, arXiv:2406.08464).

    A pass advances `rows` conversations by a token each; one that ends makes room for the next at once. Every other question
    begins with a few given words (`STARTERS`), for variety. Half of the answers are greedy.

    Args:
        taps: layers before which hidden states are kept.
        question, answer: tokens of either at most; longer ones are cut.

    Attributes:
        longest: tokens of a conversation that was written from its first word on.
    """

    def __init__(self, target: NativeTarget, tokenizer, taps: Sequence[int], seed: int, rows: int = 64, question: int = 160, answer: int = 160):
        self.target, self.tokenizer, self.taps, self.seed, self.rows = target, tokenizer, list(taps), seed, rows
        self.question, self.answer = question, answer
        self.header, self.bridge = chat_frame(tokenizer)
        ends = target.model.generation_config.eos_token_id
        self.ends = {self.bridge[0], *([ends] if isinstance(ends, int) else ends or [])}
        self.longest = len(self.header) + question + len(self.bridge) + answer
        self.cache = target.new_slots(rows + 1, self.longest + 64)
        chain = _C.TokenSet()
        chain.add_chain(rows, 0, self.header)
        tapped = torch.empty(len(self.taps), len(self.header), target.width)
        target.transformer.forward(self.cache, chain, taps=self.taps, tapped=tapped.data_ptr())
        self.header_hidden = tapped.transpose(0, 1).bfloat16()

    def write(self, first: int, count: int, accepts: Callable[[str], bool], given: Sequence[str] = ()) -> list[tuple[str, _Row]]:
        """So many questions and their answers, then the given questions and theirs; `first` numbers them, and decides what is drawn."""
        numbers, asks = iter(range(first, first + 8 * count + self.rows)), iter(enumerate(given, first + GIVEN))
        active = [row for row in (self._open(slot, numbers if slot < count else iter(()), asks) for slot in range(self.rows)) if row]
        slots = list(range(len(active)))
        done: list[tuple[str, _Row]] = []
        asked = dict(enumerate(given, first + GIVEN))
        while active:
            for i, token in enumerate(self._advance(slots, active)):
                row = active[i]
                ended = self._continue(row, token)
                if ended and not row.answer:
                    text = self.tokenizer.decode(row.tokens[row.turn :], skip_special_tokens=True).strip()
                    if len(asked) < count + len(given) and accepts(text):
                        asked[row.number] = text
                        row.next, row.answer = list(self.bridge), len(row.tokens) + len(self.bridge)
                        continue
                elif ended:
                    done.append((asked[row.number], row))
                if ended:
                    active[i] = self._open(slots[i], numbers if len(asked) < count + len(given) else iter(()), asks)
            slots, active = [s for s, row in zip(slots, active) if row], [row for row in active if row]
        return sorted(done, key=lambda pair: pair[1].number)

    def _open(self, slot: int, numbers: Iterator[int], asks: Iterator[tuple[int, str]]) -> _Row | None:
        """The next conversation: every third is about a given question, while there are some."""
        tokens = lambda text: list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        given = next(asks, None) if slot % 3 == 2 else None
        number = next(numbers, None) if given is None else None
        given = given or (next(asks, None) if number is None else None)
        if number is None and given is None:
            return None
        self.cache.copy_row(self.rows, slot, len(self.header) - 1)
        if given:
            question = self.header[-1:] + tokens(given[1]) + self.bridge
            return _Row(given[0], len(self.header), question, self.header[:-1], [self.header_hidden[:-1]], len(self.header) - 1 + len(question))
        draw = random.Random(self.seed * 1_000_003 + number)
        starter = draw.choice(STARTERS) if draw.random() < 0.5 else ""
        return _Row(number, len(self.header), self.header[-1:] + tokens(starter), self.header[:-1], [self.header_hidden[:-1]])

    def _advance(self, slots: Sequence[int], active: Sequence[_Row]) -> list[int]:
        """One pass; returns the token that each row would go on with."""
        tokens, wanted = _C.TokenSet(), []
        for slot, row in zip(slots, active):
            tokens.add_chain(slot, len(row.tokens), row.next)
            wanted.append(len(tokens) - 1)
        tokens.want(torch.tensor(wanted, dtype=torch.int32).numpy())
        tapped = torch.empty(len(self.taps), len(tokens), self.target.width)
        stats = VocabStats.empty(len(active))
        temperature = torch.tensor([row.temperature for row in active])
        key = torch.tensor([[self.seed, row.number, len(row.tokens), 0] for row in active])
        self.target.transformer.forward_stats(self.cache, tokens, *arguments(None, None, temperature, key, stats), taps=self.taps, tapped=tapped.data_ptr())
        hidden = tapped.transpose(0, 1).bfloat16()  # [M, taps, width]
        for row, part in zip(active, hidden.split([len(row.next) for row in active])):
            row.hidden.append(part)
            row.tokens += row.next
        return stats.sample.tolist()

    def _continue(self, row: _Row, token: int) -> bool:
        """Whether the question or the answer ends before this token, or by its length."""
        written = len(row.tokens) - (row.answer or row.turn)
        row.next = [token]
        return token in self.ends or written >= (self.answer if row.answer else self.question)


class Source(NamedTuple):
    """What one of the conversations before says."""

    question: str
    answer: str


def reading(sources: Sequence[Source], draw: random.Random) -> str:
    """A question about a longer text, which is made of some answers: what it says, or what one of them was the answer to."""
    chosen = draw.sample(sources, min(len(sources), draw.randint(2, 4)))
    template = draw.choice(SUMMARIES if draw.random() < 0.5 else QUESTIONS)
    return template.format(text=draw.choice(("\n", "\n\n", " ")).join(source.answer for source in chosen), question=draw.choice(chosen).question)


def write(
    writer: Writer, directory: Path, answer_tokens: int, keep_out: Sequence[str], chunk: int = 512, readings: int = 0, progress: Callable[[int], None] = lambda n: None
) -> Library:  # fmt: skip
    """Conversations with so many tokens of answers, in files of `chunk` questions each; what is there already is not made again.

    Args:
        readings: conversations of every file but the first besides, about texts made of the answers in the file before it (`reading`).
            Of those, and of any other long conversation, the end is kept, as long as the longest that starts with a written question.
    """
    directory.mkdir(parents=True, exist_ok=True)
    turns, parts, sources = TurnFilter(keep_out), [], []
    while sum(part.answer_tokens for part in parts) < answer_tokens:
        number = len(parts)
        questions, data = directory / f"questions-{number:04}.json", directory / f"conversations-{number:04}.safetensors"
        if data.exists():
            for question in json.loads(questions.read_text()):
                turns.accepts(question)
        else:
            draw = random.Random(writer.seed * 1_000_003 - 1 - number)
            given = [reading(sources, draw) for _ in range(readings)] if sources else []
            written = writer.write(number * 1_000_000, chunk, turns.accepts, [text for text in given if not turns.keeps_out(text)])
            questions.write_text(json.dumps([question for question, _ in written]))
            Conversations.of([row.conversation(writer.longest) for _, row in written]).save(data.with_suffix(".new"))
            data.with_suffix(".new").replace(data)
        parts.append(Conversations.load(data))
        asked = json.loads(questions.read_text())[:chunk]
        sources = [Source(question, writer.tokenizer.decode(tokens[answer:], skip_special_tokens=True).strip()) for question, (tokens, _, _, answer) in zip(asked, parts[-1])]
        progress(sum(part.answer_tokens for part in parts))
    return Library(parts)
