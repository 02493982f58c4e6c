"""The metrics, against an example worked by hand."""

import json

import pytest

from fastdecode import SpeculativeGenerator
from fastdecode.results import DecodeStats
from tests.models import random_prompt


@pytest.fixture
def stats():
    """Four passes: a tree of 5 nodes and depth 3 with 2 kept, a chain of 2 kept whole, no draft, a chain of 1 refused."""
    stats = DecodeStats(prompt_tokens=7, drafter="suffix", verifier="point")
    stats.record_round(drafted=5, depth=3, accepted=2, emitted=3)
    stats.record_round(drafted=2, depth=2, accepted=2, emitted=3)
    stats.record_round(drafted=0, depth=0, accepted=0, emitted=1)
    stats.record_round(drafted=1, depth=1, accepted=0, emitted=1)
    stats.record_decision(skipped=True, trimmed=0)
    stats.record_decision(skipped=True, trimmed=5)
    for part, seconds in (("prefill", 5.0), ("draft", 0.25), ("target", 1.0), ("target", 0.5), ("verify", 0.2), ("commit", 0.05)):
        stats.add_seconds(**{part: seconds})
    return stats


def test_definitions(stats):
    assert (stats.rounds, stats.emitted, stats.drafted, stats.accepted) == (4, 8, 8, 4)
    assert stats.acceptance_rate == 4 / 8
    assert stats.mean_acceptance_length == 8 / 4
    assert stats.drafted_at == [3, 2, 1] and stats.accepted_at == [2, 2, 0]
    assert stats.per_position_rate == pytest.approx([2 / 3, 1.0, 0.0])
    assert stats.draft_sizes == [1, 1, 1, 0, 0, 1] and (stats.skipped_rounds, stats.trimmed) == (2, 5)
    assert stats.seconds["target"] == 1.5
    assert stats.decode_seconds == pytest.approx(2.0) and stats.tokens_per_second == pytest.approx(4.0)


def test_nothing_decoded_yet():
    stats = DecodeStats()
    assert (stats.acceptance_rate, stats.mean_acceptance_length, stats.tokens_per_second, stats.per_position_rate) == (0.0, 0.0, 0.0, [])
    assert "0 / 0" in str(stats)


def test_json_round_trip(stats):
    data = json.loads(stats.to_json(indent=1))
    assert data == stats.to_dict()
    assert data["acceptance_rate"] == 0.5 and data["per_position_rate"][1] == 1.0
    derived = set(data) - set(vars(stats))
    assert DecodeStats(**{k: v for k, v in data.items() if k not in derived}) == stats


def test_text(stats):
    lines = str(stats).splitlines()
    assert len({line.index("  ") > 0 for line in lines}) == 1
    for piece in ("8 / 4  (50.0%)", "2.00 tokens per round", "0.67 1.00 0.00", "4.0  (prompt apart)", "target 1.500", "suffix, point", "2 rounds without a draft, 5 drafted"):
        assert piece in str(stats)
    assert "not lossless" not in str(stats)
    stats.lossless = False
    assert "not lossless" in str(stats)


def test_counts_of_a_real_call_add_up(llama):
    prompts = [random_prompt(n, seed=n) for n in (12, 5, 31)]
    for result in SpeculativeGenerator(llama, min_score=0.0).generate(prompts, max_new_tokens=30, eos_token_id=-1):
        stats = result.stats
        assert stats.emitted == len(result.token_ids) == 30
        assert stats.accepted == sum(stats.accepted_at) and stats.accepted <= stats.drafted
        assert 0 <= stats.rounds + stats.accepted - stats.emitted <= 1  # every pass adds its own token; the last may be cut off
        assert all(a <= d for a, d in zip(stats.accepted_at, stats.drafted_at)) and stats.drafted_at == sorted(stats.drafted_at, reverse=True)
        assert {"prefill", "draft", "target", "verify", "commit"} == set(stats.seconds)
