"""Data that a model writes itself: prompts without repeats, answers in their place."""

import torch

from fastdecode import SpeculativeGenerator
from fastdecode.training.on_policy import Conversations, TurnFilter, answer, user_header, user_turns, write
from tests.models import byte_tokenizer, small_model
from tests.threads import one_thread  # noqa: F401


def test_turns_pass_once_and_only_if_they_make_sense():
    turns = TurnFilter(keep_out=["Tell me how many legs a healthy spider has, please, and why."])
    assert turns.accepts("What is the capital of France?")
    assert not turns.accepts("what is the CAPITAL of france")
    assert not turns.accepts("Too short") and not turns.accepts("no no no no no no no no")
    assert not turns.accepts("Well, how many legs a healthy spider has please and so on?")
    assert turns.accepts("How many legs does a healthy spider have?")
    assert not turns.accepts("word " * 10 + " ".join(map(str, range(300))))


def test_conversations_are_kept_whole(tmp_path):
    made = Conversations.of([([1, 2, 3], [4, 5]), ([6], [7, 8, 9])])
    made.save(tmp_path / "data.safetensors")
    loaded = Conversations.load(tmp_path / "data.safetensors")
    assert len(loaded) == 2 and loaded.answer_tokens == 5
    tokens, begin = loaded[1]
    assert tokens.tolist() == [6, 7, 8, 9] and begin == 1
    assert loaded[0][0].dtype == torch.int32 and loaded[0][1] == 3


def test_a_model_writes_both_sides():
    generator = SpeculativeGenerator(small_model(), byte_tokenizer(), drafter="none")
    assert byte_tokenizer().decode(user_header(byte_tokenizer())) == "user:"
    turns = user_turns(generator, 3, 1, TurnFilter().accepts, batch=4)
    assert len(turns) <= 3 and len(set(turns)) == len(turns)
    made = answer(generator, ["first question", "second one", "third"], 6, seed=0, batch=2)
    again = answer(generator, ["first question", "second one", "third"], 6, seed=0, batch=2)
    assert torch.equal(made.tokens, again.tokens) and 1 <= len(made) <= 3
    tokens, begin = made[0]
    assert byte_tokenizer().decode(tokens[:begin].tolist()).startswith("user:") and 1 < len(tokens) - begin <= 6


def test_what_is_written_already_is_not_made_again(tmp_path, monkeypatch):
    generator = SpeculativeGenerator(small_model(), byte_tokenizer(), drafter="none")
    asked = []
    monkeypatch.setattr("fastdecode.training.on_policy.user_turns", lambda generator, count, seed, accepts: asked.append(seed) or [f"question number {seed} of many {i}" for i in range(count)])
    first = write(generator, tmp_path, 20, 5, [], chunk=2, max_new_tokens=6)
    assert first.answer_tokens >= 20 and asked == list(range(5, 5 + len(asked)))
    again = write(generator, tmp_path, 20, 5, [], chunk=2, max_new_tokens=6)
    assert torch.equal(first.tokens, again.tokens) and len(asked) == len(list(tmp_path.glob("*.safetensors")))
