"""What a generation returns, and the metrics that explain its speed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import torch


@dataclass
class DecodeStats:
    """Counts and times of one request.

    Attributes:
        rounds: target passes that emitted tokens.
        emitted: tokens produced.
        drafted, accepted: draft tokens proposed, kept.
        drafted_at, accepted_at: per depth (index 0 = first drafted position): rounds in which a draft reached that depth,
            rounds in which it was accepted there.
        skipped_rounds: rounds in which the drafter was not asked, because plain decoding was faster.
        trimmed: proposed tokens that were not verified, because they promised less than they would have cost.
        draft_sizes: number of rounds that verified 0, 1, 2 ... draft tokens.
        prompt_tokens: tokens of the prompt; reused_tokens: how many of them were still in the cache.
        lossless: whether every verifier that was used keeps the target's law exactly.
        drafter, verifier: names.
        recomputed: positions that passes computed, prompt included, with guidance twice; refreshes: passes that computed everything again (masked
            diffusion; a draft-and-verify pass counts once however many drafts it holds).
        commit_order: (position in the canvas, pass, score) of every token in the order of commits (masked diffusion).
        seconds: wall time by part: "prefill", "draft", "target", "verify", "commit". In a batch the times are those of the
            whole batch while the request was running.
    """

    rounds: int = 0
    emitted: int = 0
    drafted: int = 0
    accepted: int = 0
    drafted_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)
    skipped_rounds: int = 0
    trimmed: int = 0
    draft_sizes: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    reused_tokens: int = 0
    lossless: bool = True
    drafter: str = "none"
    verifier: str = "greedy"
    recomputed: int = 0
    refreshes: int = 0
    commit_order: list[tuple[int, int, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def record_round(self, drafted: int, depth: int, accepted: int, emitted: int) -> None:
        """Counts one target pass: `drafted` tokens up to `depth`, `accepted` of them kept, `emitted` tokens out."""
        self.rounds += 1
        self.drafted += drafted
        self.accepted += accepted
        self.emitted += emitted
        self.draft_sizes += [0] * (drafted + 1 - len(self.draft_sizes))
        self.draft_sizes[drafted] += 1
        missing = depth - len(self.drafted_at)
        self.drafted_at += [0] * missing
        self.accepted_at += [0] * missing
        for i in range(depth):
            self.drafted_at[i] += 1
            self.accepted_at[i] += i < accepted

    def record_pass(self, positions: int, refresh: bool) -> None:
        """Counts one pass of masked diffusion over so many positions."""
        self.rounds += 1
        self.recomputed += positions
        self.refreshes += refresh

    def record_drafts(self, drafted: int, accepted: int) -> None:
        """Counts drafts that were verified beside each other, and those that turned out right."""
        self.drafted += drafted
        self.accepted += accepted

    @property
    def forwards(self) -> int:
        """Number of function evaluations: another name for rounds."""
        return self.rounds

    @property
    def tokens_per_forward(self) -> float:
        """Another name for the mean acceptance length."""
        return self.mean_acceptance_length

    def record_decision(self, skipped: bool, trimmed: int) -> None:
        """What the controller made of a round: whether the drafter was left alone, and how many of its tokens were dropped."""
        self.skipped_rounds += skipped
        self.trimmed += trimmed

    def add_seconds(self, **parts: float) -> None:
        """Wall time by part, see `seconds`."""
        for part, seconds in parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    @property
    def acceptance_rate(self) -> float:
        """accepted / drafted; 0 without drafts."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """emitted tokens / rounds: 1.0 is plain decoding."""
        return self.emitted / self.rounds if self.rounds else 0.0

    @property
    def per_position_rate(self) -> list[float]:
        """Chance that the drafted token at each depth was kept, over the rounds in which a draft reached that depth."""
        return [a / d for a, d in zip(self.accepted_at, self.drafted_at)]

    @property
    def decode_seconds(self) -> float:
        """Wall time without the prompt."""
        return sum(s for part, s in self.seconds.items() if part != "prefill")

    @property
    def tokens_per_second(self) -> float:
        """emitted / decode_seconds: the prompt's time is not part of it."""
        return self.emitted / self.decode_seconds if self.decode_seconds else 0.0

    def to_dict(self) -> dict:
        """Plain data with the derived metrics."""
        derived = ("acceptance_rate", "mean_acceptance_length", "per_position_rate", "decode_seconds", "tokens_per_second")
        return {**vars(self), **{name: getattr(self, name) for name in derived}}

    def to_json(self, **kwargs) -> str:
        return json.dumps(self.to_dict(), **kwargs)

    def __str__(self) -> str:
        rows = [
            ("rounds (target passes)", f"{self.rounds}"),
            ("emitted tokens", f"{self.emitted}"),
            ("drafted / accepted", f"{self.drafted} / {self.accepted}  ({self.acceptance_rate:.1%})"),
            ("controller", f"{self.skipped_rounds} rounds without a draft, {self.trimmed} drafted tokens not worth a pass"),
            ("mean acceptance length", f"{self.mean_acceptance_length:.2f} tokens per round"),
            ("rate per position", " ".join(f"{r:.2f}" for r in self.per_position_rate[:8]) or "-"),
            ("tokens per second", f"{self.tokens_per_second:.1f}  (prompt apart)"),
            ("seconds", "  ".join(f"{part} {s:.3f}" for part, s in self.seconds.items()) or "-"),
            ("drafter, verifier", f"{self.drafter}, {self.verifier}{'' if self.lossless else '  (not lossless)'}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


@dataclass
class TokenLogprobs:
    """Natural-log probabilities at one emitted token, under the law it was taken from before sampling filters.

    Attributes:
        logprob: of the emitted token.
        top: the k most probable (token id, logprob) pairs, best first.
    """

    logprob: float
    top: list[tuple[int, float]]


@dataclass
class GenerationResult:
    """The continuation of one prompt.

    Attributes:
        text: decoded continuation without special tokens, cut before a stop string; None without a tokenizer.
        token_ids: new tokens only, EOS included.
        finish_reason: "eos", "stop" (a stop string), "criteria" (a StoppingCriteria) or "length".
        stats: counts and times.
        logprobs: one entry per token when `logprobs=k` was asked for.
        scores: float32 [tokens, V] with `output_scores=True`: logits after all processors, -inf where a token was ruled out.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: str
    stats: DecodeStats
    logprobs: list[TokenLogprobs] | None = None
    scores: torch.Tensor | None = None


@dataclass
class TextChunk:
    """A piece of a stream.

    Attributes:
        text: new text; may be empty while a character or a possible stop string is incomplete.
        token_ids: the tokens of this round.
        finish_reason: set on the last chunk of a prompt.
        index: which prompt of the call it belongs to.
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    index: int = 0
