"""Tokens to text one at a time: a character may need several tokens, and a token's text depends on its neighbours."""

from __future__ import annotations

INCOMPLETE = "\ufffd"  # what decoders give for a UTF-8 sequence that is not finished


class Detokenizer:
    """Grows `text` token by token.

    Only a window of recent tokens is decoded each time: from the last border at which the text was complete, with the
    segment before it as context (so that spaces between words come out as in the whole).
    """

    def __init__(self, tokenizer, skip_special_tokens: bool = True):
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._tokens: list[int] = []
        self._context = self._border = 0
        self.text = ""

    def push(self, token: int) -> str:
        """Adds a token; returns the text that became certain."""
        self._tokens.append(token)
        known = self._decode(self._context, self._border)
        whole = self._decode(self._context, len(self._tokens))
        if len(whole) <= len(known) or whole.endswith(INCOMPLETE):
            return ""
        piece = whole[len(known) :]
        self._context, self._border = self._border, len(self._tokens)
        self.text += piece
        return piece

    def flush(self) -> str:
        """Gives out what is left at the end of the text, replacement characters included."""
        known = self._decode(self._context, self._border)
        piece = self._decode(self._context, len(self._tokens))[len(known) :]
        self._context = self._border = len(self._tokens)
        self.text += piece
        return piece

    def _decode(self, start: int, end: int) -> str:
        return self._tokenizer.decode(self._tokens[start:end], skip_special_tokens=self._skip, clean_up_tokenization_spaces=False)
