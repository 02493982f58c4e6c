"""Text as it becomes certain."""

from __future__ import annotations

from typing import Iterator

from fastdecode.results import DecodeStats, TextChunk
from fastdecode.speculative.request import Request


class TextStream:
    """Iterator of `TextChunk`; one round of the engine per `next` on an exhausted round. `close()` cancels the rest.

    Attributes:
        stats: of the first prompt, live.
    """

    def __init__(self, generator, decoding):
        self._chunks = self._run(generator, decoding)
        self._decoding = decoding

    def __iter__(self) -> "TextStream":
        return self

    def __next__(self) -> TextChunk:
        return next(self._chunks)

    def close(self) -> None:
        """Ends the stream; nothing more is computed."""
        self._chunks.close()

    @property
    def stats(self) -> DecodeStats:
        return self._decoding.requests[0].stats

    @staticmethod
    def _run(generator, decoding) -> Iterator[TextChunk]:
        shown = [0] * len(decoding.requests)
        while decoding.active:
            for i, tokens in generator._step(decoding):
                request = decoding.requests[i]
                text = certain_text(request)
                yield TextChunk(text[shown[i] :], tokens, request.finish_reason, i)
                shown[i] = max(shown[i], len(text))


def certain_text(request: Request) -> str:
    """The text that no later token can change: all of it at the end, else without the beginning of a possible stop string."""
    stopping = request.stopping
    if request.finish_reason and stopping.stop_at is None:
        stopping.detokenizer.flush()
        return stopping.detokenizer.text
    return stopping.detokenizer.text[: stopping.safe_length()]
