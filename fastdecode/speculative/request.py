"""One prompt on its way to a result."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from fastdecode.results import DecodeStats
from fastdecode.speculative.processors import Processors
from fastdecode.speculative.stopping import Stopping


@dataclass
class Request:
    """A prompt, how its tokens are chosen and when it ends, and what it has produced so far.

    Attributes:
        prompt: token ids.
        processors: how logits become the law that tokens are taken from.
        stopping: decides after every token whether the request is finished.
        max_new_tokens: upper bound of emitted tokens.
        key: (seed, request) words of every random number of this request.
        tokens: emitted ids, EOS included.
        finish_reason: None while running.
    """

    prompt: list[int]
    processors: Processors
    stopping: Stopping
    max_new_tokens: int
    key: tuple[int, int]
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stats: DecodeStats = field(default_factory=DecodeStats)

    @property
    def pending(self) -> int:
        """The last token of the text: emitted (or given), its K/V not computed yet."""
        return self.tokens[-1] if self.tokens else self.prompt[-1]

    @property
    def remaining(self) -> int:
        return self.max_new_tokens - len(self.tokens)

    def emit(self, token: int) -> None:
        """Appends one token and lets the stopping rules look at it."""
        self.tokens.append(token)
        self.finish_reason = self.stopping.after(token, self.prompt, self.tokens)
        if self.finish_reason is None and self.remaining == 0:
            self.finish_reason = "length"


def request_word(prompt: list[int], copy: int) -> int:
    """Word of the random key that tells requests apart: depends on the prompt and on how many equal ones came before it in
    the call, never on the rest of the batch."""
    digest = hashlib.blake2b(np.asarray(prompt, np.int64).tobytes() + copy.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
