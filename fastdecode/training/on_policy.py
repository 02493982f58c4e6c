"""Text that a chat model writes itself, user turns included: training data for its drafts without a download."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Sequence

import torch
from safetensors.torch import load_file, save_file

from fastdecode.speculative.generator import SpeculativeGenerator

SHORTEST, LONGEST = 4, 200  # words of a user turn
OVERLAP = 8  # words in a row that a user turn may not share with a text that is kept out


@dataclass(frozen=True)
class Conversations:
    """Prompts and answers as token ids, one behind the other.

    Attributes:
        tokens: int32 [N]. begins: int64 [C + 1], where conversations begin. answers: int64 [C], where their answers begin.
    """

    tokens: torch.Tensor
    begins: torch.Tensor
    answers: torch.Tensor

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        """Token ids of a conversation, and where the answer begins in them."""
        begin, end = int(self.begins[i]), int(self.begins[i + 1])
        return self.tokens[begin:end], int(self.answers[i]) - begin

    @property
    def answer_tokens(self) -> int:
        return int((self.begins[1:] - self.answers).sum())

    def save(self, path: str | Path) -> None:
        save_file({"tokens": self.tokens, "begins": self.begins, "answers": self.answers}, path)

    @classmethod
    def load(cls, path: str | Path) -> "Conversations":
        return cls(**load_file(path))

    @classmethod
    def joined(cls, parts: Sequence["Conversations"]) -> "Conversations":
        """One behind the other."""
        return cls.of((tokens[:begin].tolist(), tokens[begin:].tolist()) for part in parts for tokens, begin in (part[i] for i in range(len(part))))

    @classmethod
    def of(cls, pairs: Iterable[tuple[list[int], list[int]]]) -> "Conversations":
        """From prompts and answers."""
        tokens, begins, answers = [], [0], []
        for prompt, answer in pairs:
            answers.append(begins[-1] + len(prompt))
            tokens += prompt + answer
            begins.append(len(tokens))
        return cls(torch.tensor(tokens, dtype=torch.int32), torch.tensor(begins), torch.tensor(answers))


def user_header(tokenizer) -> list[int]:
    """Token ids of the chat template up to where the user's words begin."""
    mark = "\x00"
    text = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False)
    return list(tokenizer(text.split(mark)[0], add_special_tokens=False)["input_ids"])


def user_turns(generator: SpeculativeGenerator, count: int, seed: int, accepts: Callable[[str], bool], batch: int = 16, temperature: float = 1.0) -> list[str]:
    """Up to `count` different questions, as the model imagines that users ask them (Magpie, Xu et al. 2024, arXiv:2406.08464).

    Args:
        accepts: which of them are wanted, e.g. `TurnFilter.accepts`.
    """
    header = user_header(generator.tokenizer)
    turns: list[str] = []
    for attempt in range(8 * (count // batch + 1)):
        results = generator.generate([header] * batch, max_new_tokens=128, do_sample=True, temperature=temperature, seed=seed * 1_000_003 + attempt)
        turns += [r.text.strip() for r in results if r.finish_reason == "eos" and accepts(r.text)]
        if len(turns) >= count:
            break
    return turns[:count]


class TurnFilter:
    """Lets every sensible question pass once."""

    def __init__(self, keep_out: Sequence[str] = ()):
        self.seen: set[str] = set()
        self.forbidden = {gram for text in keep_out for gram in _grams(_words(text))}

    def accepts(self, text: str) -> bool:
        words = _words(text)
        key = " ".join(words)
        sensible = SHORTEST <= len(words) <= LONGEST and len(set(words)) > 0.4 * len(words) and "\ufffd" not in text
        if not sensible or key in self.seen or not self.forbidden.isdisjoint(_grams(words)):
            return False
        self.seen.add(key)
        return True


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _grams(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + OVERLAP]) for i in range(len(words) - OVERLAP + 1)}


def answer(generator: SpeculativeGenerator, turns: Sequence[str], max_new_tokens: int, seed: int, batch: int = 16, greedy_share: float = 0.5) -> Conversations:
    """The model's own answers: a share of the batches greedy, the others sampled at temperature 0.8."""
    pairs: list[tuple[list[int], list[int]]] = []
    draw = random.Random(seed)
    for first in range(0, len(turns), batch):
        prompts = [list(generator.tokenizer.apply_chat_template([{"role": "user", "content": t}], add_generation_prompt=True, return_dict=True)["input_ids"]) for t in turns[first : first + batch]]
        sampling = {"do_sample": False} if draw.random() < greedy_share else {"do_sample": True, "temperature": 0.8}
        results = generator.generate(prompts, max_new_tokens=max_new_tokens, seed=seed + first, **sampling)
        pairs += [(prompt, r.token_ids) for prompt, r in zip(prompts, results) if len(r.token_ids) > 1]
    return Conversations.of(pairs)


def write(generator: SpeculativeGenerator, directory: Path, answer_tokens: int, seed: int, keep_out: Sequence[str], chunk: int = 128, max_new_tokens: int = 192, progress: Callable[[int], None] = lambda n: None) -> Conversations:  # fmt: skip
    """Conversations with so many tokens of answers, in files of `chunk` questions each; what is there already is not made again."""
    directory.mkdir(parents=True, exist_ok=True)
    filter_, parts, number = TurnFilter(keep_out), [], 0
    while sum(part.answer_tokens for part in parts) < answer_tokens:
        questions, data = directory / f"questions-{number:04}.json", directory / f"conversations-{number:04}.safetensors"
        if data.exists():
            for question in json.loads(questions.read_text()):
                filter_.accepts(question)
        else:
            turns = user_turns(generator, chunk, seed + number, filter_.accepts)
            questions.write_text(json.dumps(turns))
            answer(generator, turns, max_new_tokens, seed + number).save(data)
        parts.append(Conversations.load(data))
        number += 1
        progress(sum(part.answer_tokens for part in parts))
    return Conversations.joined(parts)
