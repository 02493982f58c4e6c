"""Exceptions of the engine. Wrong arguments raise the usual TypeError and ValueError."""


class UnsupportedModelError(ValueError):
    """The model cannot be decoded with draft trees; the message says which part and what to use instead."""


class InvalidLogitsError(RuntimeError):
    """The model returned logits that no token can be chosen from (NaN, or no finite value)."""
