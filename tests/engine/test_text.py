"""Text, stop strings and streams."""

import pytest
import torch

from fastdecode import SpeculativeGenerator
from fastdecode.speculative.detokenizer import Detokenizer
from fastdecode.speculative.inputs import token_ids
from fastdecode.training.piece_tokenizer import piece_tokenizer
from tests.models import EOS, OracleDrafter, plain_tokens

PROMPT = "say something"


def scripted(llama, tokenizer, text: str, length: int = 6, ending: list[int] | None = None):
    """A generator whose model writes exactly `text`: its logits are pushed towards the next byte."""
    wanted = tokenizer(text)["input_ids"] + (ending or [])
    prompt = tokenizer(PROMPT)["input_ids"]

    def push(batch, ids):
        done = len(ids) - len(prompt)
        return [wanted[done]] if done < len(wanted) else [EOS]

    return SpeculativeGenerator(llama, tokenizer, drafter=OracleDrafter([wanted], length=length)), dict(prefix_allowed_tokens_fn=push, max_new_tokens=100, speculate=16), wanted


@pytest.mark.parametrize("length", [1, 2, 5, 8])
@pytest.mark.parametrize("stop, text", [("END", "one two EN three END four END"), (["x", "four"], "one two three four five"), ("ü!", "für grün grü! ende"), ("two three", "one two three")])
def test_stop_strings_in_mid_block(llama, tokenizer, length, stop, text):
    generator, settings, wanted = scripted(llama, tokenizer, text, length)
    first = [stop] if isinstance(stop, str) else stop
    cut = min(text.find(s) for s in first if s in text)
    result = generator.generate(PROMPT, stop=stop, **settings)
    assert result.text == text[:cut] and result.finish_reason == "stop"
    assert tokenizer.decode(result.token_ids).startswith(text[:cut]) and len(result.token_ids) <= len(wanted)
    chunks = list(generator.stream(PROMPT, stop=stop, **settings))
    assert "".join(c.text for c in chunks) == text[:cut] and chunks[-1].finish_reason == "stop"
    assert [t for c in chunks for t in c.token_ids] == result.token_ids


def test_a_stop_string_that_never_completes_is_given_out(llama, tokenizer):
    generator, settings, _ = scripted(llama, tokenizer, "almost EN")
    chunks = list(generator.stream(PROMPT, stop="END", **settings))
    assert "".join(c.text for c in chunks) == "almost EN" and chunks[-1].finish_reason == "eos"


def test_stop_strings_of_the_generation_config(llama, tokenizer):
    generator, settings, _ = scripted(llama, tokenizer, "one two three")
    assert generator.generate(PROMPT, stop_strings=["two"], **settings).text == "one "


def test_characters_of_several_tokens_are_never_torn(llama, tokenizer):
    text = "naïve 漢字 🙂 end"
    generator, settings, _ = scripted(llama, tokenizer, text, length=2)
    chunks = list(generator.stream(PROMPT, **settings))
    assert "".join(c.text for c in chunks) == text and not any("\ufffd" in c.text for c in chunks)


def test_text_forms_give_the_same_tokens(llama, tokenizer):
    generator = SpeculativeGenerator(llama, tokenizer)
    ids = tokenizer(PROMPT)["input_ids"]
    want = plain_tokens(llama, ids, max_new_tokens=8)
    for form in (PROMPT, ids, torch.tensor(ids), torch.tensor([ids]), tokenizer(PROMPT), tokenizer([PROMPT], return_tensors="pt")):
        assert generator.generate(form, max_new_tokens=8).token_ids == want
    for form in ([PROMPT, PROMPT], [ids, PROMPT], torch.tensor([ids, ids])):
        assert [r.token_ids for r in generator.generate(form, max_new_tokens=8)] == [want, want]
    padded = tokenizer([PROMPT, "x"], return_tensors="pt", padding=True, padding_side="left")
    assert generator.generate(padded, max_new_tokens=8)[0].token_ids == want
    chat = [{"role": "user", "content": "hi"}]
    rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert generator.generate(chat, max_new_tokens=8).token_ids == generator.generate(rendered, max_new_tokens=8).token_ids
    assert len(generator.generate([chat, chat], max_new_tokens=4)) == 2


def test_text_that_the_tokenizer_cannot_write_is_refused():
    words = piece_tokenizer(["one", "two", " ", "\n"])
    for inputs, where in (("one three two", "inputs"), (["one", "two three"], r"inputs\[1\]"), ([{"role": "user", "content": "one three"}], "inputs")):
        with pytest.raises(ValueError, match=where + r" has text that the tokenizer cannot write, first in 'three'; remove it"):
            token_ids(inputs, words, 50)
    unknown = words.unk_token_id
    assert token_ids(f"one{words.unk_token}", words, 50)[0][0][-1] == unknown  # written on purpose
    assert token_ids([unknown, 3], words, 50) == ([[unknown, 3]], False)


def test_a_transformers_streamer_gets_the_prompt_then_the_tokens(llama, tokenizer):
    class Recorder:
        def __init__(self):
            self.calls, self.ended = [], False

        def put(self, value):
            self.calls.append(value.flatten().tolist())

        def end(self):
            self.ended = True

    recorder = Recorder()
    result = SpeculativeGenerator(llama, tokenizer).generate(PROMPT, max_new_tokens=12, streamer=recorder)
    assert recorder.calls[0] == tokenizer(PROMPT)["input_ids"] and sum(recorder.calls[1:], []) == result.token_ids and recorder.ended


def test_a_closed_stream_computes_nothing_more_and_the_generator_still_works(llama, tokenizer):
    generator = SpeculativeGenerator(llama, tokenizer)
    want = generator.generate(PROMPT, max_new_tokens=10).token_ids
    stream = generator.stream(PROMPT, max_new_tokens=50)
    next(stream)
    rounds = stream.stats.rounds
    stream.close()
    assert stream.stats.rounds == rounds and list(stream) == []
    assert generator.generate(PROMPT, max_new_tokens=10).token_ids == want


def test_two_streams_and_a_call_interleave(llama, tokenizer):
    generator = SpeculativeGenerator(llama, tokenizer)
    want = {p: generator.generate(p, max_new_tokens=15).token_ids for p in ("abc abc", "xyz", "third")}
    streams = {p: generator.stream(p, max_new_tokens=15) for p in ("abc abc", "xyz")}
    got = {p: list(next(s).token_ids) for p, s in streams.items()}
    assert generator.generate("third", max_new_tokens=15).token_ids == want["third"]
    for p, s in streams.items():
        assert got[p] + [t for c in s for t in c.token_ids] == want[p]


def test_detokenizer_equals_decoding_the_whole(tokenizer):
    for text in ("plain", "ünï", "🙂🙂", "a  b\n\nc", ""):
        ids = tokenizer(text)["input_ids"]
        detokenizer = Detokenizer(tokenizer)
        pieces = [detokenizer.push(t) for t in ids] + [detokenizer.flush()]
        assert "".join(pieces) == text == detokenizer.text
