"""A tokenizer whose tokens are whole pieces of a small, closed language."""

from __future__ import annotations

import re
from typing import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

UNKNOWN, END, MASK = "<|unknown|>", "<|endoftext|>", "<|mask|>"
CHAT_TEMPLATE = "{{ messages[-1]['content'] }}{% if not messages[-1]['content'].endswith('\n') %}{{ '\n' }}{% endif %}"


def piece_tokenizer(pieces: list[str]) -> PreTrainedTokenizerFast:
    """Cuts text into the longest pieces; what is none becomes the unknown token. Decoding joins the pieces."""
    vocabulary = {piece: i for i, piece in enumerate([UNKNOWN, END, MASK, *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(longest_of(pieces) + r"|[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, eos_token=END, pad_token=END, mask_token=MASK, chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False)


def longest_of(words: Iterable[str]) -> str:
    """A pattern that matches the longest of the words that the text goes on with, letter by letter instead of word by word."""
    words, tails = set(words), {}
    for word in sorted(words - {""}):
        tails.setdefault(word[0], []).append(word[1:])
    ways = [re.escape(letter) + longest_of(rest) for letter, rest in tails.items()]
    if not ways:
        return ""
    pattern = ways[0] if len(ways) == 1 and "" not in words else f"(?:{'|'.join(ways)})"
    return pattern + "?" * ("" in words)
