from __future__ import annotations

from typing import Iterable, Sequence

import numpy as np

from fastdecode import _C
from fastdecode.speculative.drafters.base import Budget
from fastdecode.speculative.tree import Draft


class SuffixDrafter:
    """Predicts from everything the text (and an optional corpus) has said after the longest context that occurred before.

    A suffix automaton per request finds that context in constant time per token; occurrence counts and a running estimate of
    how often such predictions were right give every node its chance of acceptance (SAM decoding, arXiv:2411.10666;
    SuffixDecoding, arXiv:2411.04975).

    Args:
        corpus: documents as token ids, shared by all requests: earlier answers, source files, manuals.
        remember: add finished texts to the corpus, so that later requests profit from earlier ones.
    """

    name = "suffix"

    def __init__(self, corpus: Iterable[Sequence[int]] | None = None, remember: bool = False):
        self.remember = remember
        self.corpus = _C.SuffixAutomaton() if corpus is not None or remember else None
        for document in corpus or ():
            self.corpus.add_document(np.asarray(document, np.int32))

    def begin(self, requests: Sequence) -> list:
        state = [(_C.SuffixPredictor(self.corpus), request) for request in requests]
        for predictor, request in state:
            predictor.extend(np.asarray(request.prompt, np.int32))
        return state

    def propose(self, state, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        return [Draft(*state[r][0].propose(b.nodes, b.depth, b.min_score)) for r, b in zip(rows, budgets)]

    def observe(self, state, row: int, tokens: Sequence[int]) -> None:
        state[row][0].extend(np.asarray(tokens, np.int32))

    def end(self, state, row: int) -> None:
        request = state[row][1]
        state[row] = None
        if self.remember:
            self.corpus.add_document(np.asarray(request.prompt + request.tokens, np.int32))
