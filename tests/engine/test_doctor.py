"""The doctor names what is wrong."""

import pytest
from typer.testing import CliRunner

from fastdecode import doctor
from fastdecode.cli import app
from tests.engine.test_eagle import eagle3
from tests.engine.test_eagle import write as write_head
from tests.models import byte_tokenizer, small_model
from tests.threads import one_thread  # noqa: F401


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = small_model(num_hidden_layers=8)
    model.generation_config.eos_token_id = 258
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def verdicts(report) -> dict:
    return {f.what: f.ok for f in report.findings}


def test_a_sound_model(checkpoint):
    report = doctor.examine(str(checkpoint))
    assert report.healthy and verdicts(report) | {"drafts": None} == {name: True for name in ("target", "vocabulary", "round trip", "generation prompt", "first token", "end of text", "same text")} | {"drafts": None}
    assert len(report.drafted_at) == len(report.accepted_at) and all(a <= d for a, d in zip(report.accepted_at, report.drafted_at))
    assert report.acceptance_length >= 1


def test_what_is_missing_is_named(checkpoint, tmp_path):
    model = small_model()
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    model.save_pretrained(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.add_tokens([f"<{i}>" for i in range(9)])
    tokenizer.save_pretrained(tmp_path)
    report = doctor.examine(str(tmp_path))
    found = verdicts(report)
    assert not report.healthy and found["vocabulary"] is False and found["generation prompt"] is False and found["end of text"] is False
    assert "belongs to another model" in next(f.detail for f in report.findings if f.what == "vocabulary")


def test_a_head_of_another_model_is_found_out(checkpoint, tmp_path):
    from fastdecode.speculative.drafters import EagleDrafter

    fits = doctor.examine(str(checkpoint), EagleDrafter(write_head(tmp_path / "fits", eagle3())))
    assert fits.healthy and verdicts(fits)["drafts"] is None and len(fits.drafted_at) > 1  # random: never right
    wrong = doctor.examine(str(checkpoint), EagleDrafter(write_head(tmp_path / "wide", eagle3(), hidden_size=128)))
    assert not wrong.healthy and "head belongs to another model" in wrong.findings[0].detail


def test_the_command_says_it_and_fails_where_something_is_wrong(checkpoint, tmp_path):
    result = CliRunner().invoke(app, ["doctor", str(checkpoint), "--drafter", "suffix"])
    assert result.exit_code == 0 and "chat" not in result.output.split()[0] and "tokens per pass" in result.output
    head = write_head(tmp_path / "wide", eagle3(), hidden_size=128)
    result = CliRunner().invoke(app, ["doctor", str(checkpoint), "--drafter", str(head)])
    assert result.exit_code == 1 and "another model" in " ".join(result.output.split())
