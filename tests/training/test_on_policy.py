"""Data that a model writes itself: prompts without repeats, answers in their place, hidden states beside them."""

import json
import random

import torch

from fastdecode.targets.native import NativeTarget
from fastdecode.training.on_policy import Conversations, Library, Source, TurnFilter, Writer, chat_frame, reading, write
from tests.models import byte_tokenizer, small_model
from tests.threads import one_thread  # noqa: F401


def writer(seed: int = 0, **changes) -> Writer:
    return Writer(NativeTarget(small_model()), byte_tokenizer(), (0, 2, 3), seed, **{"rows": 3, "question": 30, "answer": 8, **changes})


def test_turns_pass_once_and_only_if_they_make_sense():
    turns = TurnFilter(keep_out=["Tell me how many legs a healthy spider has, please, and why."])
    assert turns.accepts("What is the capital of France?")
    assert not turns.accepts("what is the CAPITAL of france")
    assert not turns.accepts("Too short") and not turns.accepts("no no no no no no no no")
    assert not turns.accepts("Well, how many legs a healthy spider has please and so on?")
    assert turns.accepts("How many legs does a healthy spider have?")
    assert not turns.accepts("word " * 10 + " ".join(map(str, range(300))))


def test_the_frame_is_what_the_template_puts_around_the_users_words():
    before, after = chat_frame(byte_tokenizer())
    assert byte_tokenizer().decode(before) == "user:" and byte_tokenizer().decode(after) == "\nassistant:"


def test_a_model_writes_both_sides_and_what_it_thought():
    asked = []
    written = writer().write(0, 5, lambda text: asked.append(text) or len(asked) % 2 == 0)
    assert len(written) == 5 and [row.number for _, row in written] == sorted(row.number for _, row in written)
    made = Conversations.of([row.conversation(1000) for _, row in written])
    model, (before, after) = small_model(), chat_frame(byte_tokenizer())
    for i, (question, row) in enumerate(written):
        tokens, hidden, turn, answer = made[i]
        assert tokens[:turn].tolist() == before and tokens[answer - len(after) : answer].tolist() == after
        assert byte_tokenizer().decode(tokens[turn : answer - len(after)], skip_special_tokens=True).strip() == question and 1 <= len(tokens) - answer <= 9
        with torch.inference_mode():
            want = model(tokens[None].long(), output_hidden_states=True).hidden_states
        for k, layer in enumerate((0, 2)):
            torch.testing.assert_close(hidden[:, k].float(), want[layer][0], rtol=0.02, atol=0.02)
        if row.number % 2 == 0:  # greedy answers
            logits = model(tokens[None].long()).logits[0]
            assert torch.equal(logits[answer - 1 : -1].argmax(-1), tokens[answer:].long())


def test_what_is_written_does_not_depend_on_who_writes_beside_it():
    alone, together = ({row.number: row for _, row in writer(rows=rows).write(0, 4, lambda text: True)} for rows in (1, 4))
    common = alone.keys() & together.keys()
    assert len(common) >= 3
    for number in common:
        assert alone[number].tokens == together[number].tokens and torch.equal(torch.cat(alone[number].hidden), torch.cat(together[number].hidden))


def test_conversations_are_kept_whole(tmp_path):
    made = Conversations.of([row.conversation(1000) for _, row in writer().write(0, 3, lambda text: True)])
    made.save(tmp_path / "data.safetensors")
    library = Library([Conversations.load(tmp_path / "data.safetensors"), made])
    assert len(library) == 6 and library.answer_tokens == 2 * made.answer_tokens
    for a, b in zip(library[4], made[1]):
        assert a is b or torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_what_is_written_already_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(TurnFilter, "accepts", lambda self, text: True)
    first = write(writer(), tmp_path, 40, [], chunk=2)
    assert first.answer_tokens >= 40
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = write(writer(), tmp_path, 40, [], chunk=2)
    assert len(again) == len(first) and {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert write(writer(), tmp_path, 41 + first.answer_tokens, [], chunk=2).answer_tokens > first.answer_tokens


def test_given_questions_are_answered_beside_those_that_are_written():
    given = ["What do these three lines say about spiders and their legs?", "Summarize: " + "spiders have eight legs. " * 5]
    alone = writer().write(0, 3, lambda text: True)
    written = writer().write(0, 3, lambda text: True, given)
    assert [question for question, _ in written[3:]] == given and len(written) == 5
    for (_, a), (_, b) in zip(alone, written):
        assert a.number != b.number or a.tokens == b.tokens  # who ends first may differ, what is written does not
    before, after = chat_frame(byte_tokenizer())
    model = small_model()
    for question, row in written[3:]:
        start = before + byte_tokenizer()(question, add_special_tokens=False)["input_ids"] + after
        assert row.tokens[: row.answer] == start and 1 <= len(row.tokens) - row.answer <= 9
        tokens, hidden, turn, answer = row.conversation(40)
        cut = len(row.tokens) - 40
        assert tokens.tolist() == row.tokens[cut:] and answer == row.answer - cut and turn == max(0, len(before) - cut)
        with torch.inference_mode():
            want = model(torch.tensor([row.tokens]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(hidden[:, 1].float(), want[2][0, cut:], rtol=0.02, atol=0.02)


def test_readings_are_about_what_was_answered_before(tmp_path, monkeypatch):
    sources = [Source(f"Which number is {i}?", f"It is the number {i}.") for i in range(9)]
    texts = [reading(sources, random.Random(seed)) for seed in range(40)]
    held = [sum(source.answer in text for source in sources) for text in texts]
    assert min(held) == 2 and max(held) == 4 and 5 < sum("Which number is" in text for text in texts) < 35
    assert all(text.split("Which number is ")[1][0] + "." in text for text in texts if "Which number is" in text)  # its answer is in the text
    monkeypatch.setattr(TurnFilter, "accepts", lambda self, text: True)
    made = write(writer(), tmp_path / "whole", 60, [], chunk=4, readings=2)
    asked = [json.loads((tmp_path / "whole" / f"questions-{n:04}.json").read_text()) for n in (0, 1)]
    assert len(made.parts[0]) == len(asked[0]) == 4 and len(made.parts[1]) == len(asked[1]) == 6
    answers = [byte_tokenizer().decode(t[a:], skip_special_tokens=True).strip() for t, _, _, a in made.parts[0]]
    assert all(any(text and text in question for text in answers) for question in asked[1][4:])
    write(writer(), tmp_path / "resumed", made.parts[0].answer_tokens, [], chunk=4, readings=2)  # interrupted behind the first file
    again = write(writer(), tmp_path / "resumed", 60, [], chunk=4, readings=2)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(made, again)) and len(again) == len(made)
