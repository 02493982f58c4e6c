"""When a request ends: checked after every single token, also inside an accepted block."""

from __future__ import annotations

from typing import Sequence

import torch
from transformers import StoppingCriteriaList

from fastdecode.speculative.detokenizer import Detokenizer


class Stopping:
    """EOS ids, stop strings and user criteria of one request.

    Args:
        eos_ids: any of them ends the text.
        stop: strings that end the text; they may end inside a token or span several.
        detokenizer: turns tokens into text; needed for stop strings.
        criteria: transformers criteria, called with input_ids [1, L] after each token.
    """

    def __init__(self, eos_ids: Sequence[int], stop: Sequence[str], detokenizer: Detokenizer | None, criteria: StoppingCriteriaList):
        self.eos_ids = frozenset(eos_ids)
        self.stop = tuple(stop)
        self.detokenizer = detokenizer
        self.criteria = criteria
        self.stop_at: int | None = None  # where the text is cut

    def after(self, token: int, prompt: list[int], tokens: list[int]) -> str | None:
        """The finish reason once `token`, the last of `tokens`, has been emitted; None to go on."""
        if token in self.eos_ids:
            return "eos"
        if self.detokenizer is not None:
            before = len(self.detokenizer.text)
            self.detokenizer.push(token)
            if self._found_stop(before):
                return "stop"
        if self.criteria and bool(self.criteria(torch.tensor([prompt + tokens]), None).all()):
            return "criteria"
        return None

    def _found_stop(self, before: int) -> bool:
        text = self.detokenizer.text
        hits = [text.find(s, max(0, before - len(s) + 1)) for s in self.stop]
        hits = [h for h in hits if h >= 0]
        self.stop_at = min(hits, default=None)
        return bool(hits)

    def safe_length(self) -> int:
        """How much of the text can be shown: not the beginning of a possible stop string."""
        text = self.detokenizer.text
        if self.stop_at is not None:
            return self.stop_at
        held = max((n for s in self.stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        return len(text) - held
