"""The parts of a decoding policy for masked-diffusion models: what a block is, how many tokens a step commits, and which.

A part is a small frozen record with the numbers of its paper; `policy.Policy` puts them together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

# Blocks: which positions may be committed before any behind them.


@dataclass(frozen=True)
class FixedBlocks:
    """Blocks of equal length; the last one may be shorter."""

    length: int = 32


@dataclass(frozen=True)
class WholeCanvas:
    """One block."""


@dataclass(frozen=True)
class AdaptiveBlocks:
    """AdaBlock-dLLM (arXiv:2509.26432): a block ends at the most confident delimiter ahead, if it is confident enough.

    Attributes:
        length: where there is none.
        delimiters: token ids; none: those of the model's line ends.
        bar: confidence that a delimiter needs.
        window: how far to look: "canvas", a quarter of the canvas, as the published code does; "generated", a quarter of
            what is there already, as the paper says.
    """

    length: int = 32
    delimiters: tuple[int, ...] = ()
    bar: float = 0.3
    window: str = "canvas"

    def reach(self, start: int, begin: int, end: int) -> int:
        """Positions to look at from `start` on, in a canvas [begin, end)."""
        quarter = int(0.25 * (end - begin)) if self.window == "canvas" else max(1, int(0.25 * (start - begin)))
        return min(quarter, end - start)


@dataclass(frozen=True)
class AscendingBlocks:
    """Blocks of the ascending step-size schedule (arXiv:2509.23924): from the right, one step each, halving; the first takes the rest."""

    count: int = 1

    def plan(self, canvas: int) -> list[list[int]]:
        """Tokens per step of every block, from the left; a block is as long as their sum."""
        commits = ascending_commits(canvas)
        if self.count > len(commits):
            raise ValueError(f"blocks=AscendingBlocks({self.count}) needs at least as many steps; a canvas of {canvas} has {len(commits)}")
        first = len(commits) - self.count + 1
        return [commits[:first], *([n] for n in commits[first:])]


@dataclass(frozen=True)
class SubBlocks:
    """Fast-dLLM v2 (arXiv:2509.26328): the blocks of a block-causal model, filled part by part from the left.

    Where the output of position j - 1 proposes the token of j, the first token of a block is what the blocks before propose, which
    the pass that computes the last of them once more, as its tokens turned out, commits alone.

    Attributes:
        length: of a part; the model's block length is a multiple of it.
    """

    length: int = 8


Blocks = FixedBlocks | SubBlocks | WholeCanvas | AdaptiveBlocks | AscendingBlocks


# Schedules: the least number of tokens that a step commits.


@dataclass(frozen=True)
class UniformSteps:
    """`per_block` steps per block, as equal as can be; None: one token per step (LLaDA, arXiv:2502.09992)."""

    per_block: int | None = None

    def quotas(self, masked: int) -> list[int]:
        steps = min(self.per_block or masked, masked)  # a step that commits nothing needs no pass
        return [masked // steps + (i < masked % steps) for i in range(steps)]


@dataclass(frozen=True)
class AscendingSteps:
    """1, 2, 4, ... tokens, the last step the rest (arXiv:2509.23924)."""

    def quotas(self, masked: int) -> list[int]:
        return ascending_commits(masked)


@dataclass(frozen=True)
class TimeSteps:
    """Dream's schedule (arXiv:2508.15487): step i commits the share 1 - t(i + 1) / t(i) of the masks that are left."""

    count: int
    epsilon: float = 1e-3

    def quotas(self, masked: int) -> list[int]:
        time = [1 + (self.epsilon - 1) * i / self.count for i in range(self.count + 1)]
        left, result = masked, []
        for i in range(self.count):
            share = int(left * (1 - time[i + 1] / time[i])) if i < self.count - 1 else left
            result.append(share)
            left -= share
        return result


@dataclass(frozen=True)
class IndependentSteps:
    """Dream's sampler `origin`: step i commits each mask that is left with probability 1 - t(i + 1) / t(i), one independent of the other.

    A position's draw u says at once which step that is, the first one with u >= t(i + 1); u is the score of the scorer "random".
    """

    count: int
    epsilon: float = 1e-3

    def quotas(self, draws: np.ndarray) -> list[int]:
        """For masks with these draws from [0, 1); a step that commits nothing needs no pass."""
        return [n for n in self.commits(draws).tolist() if n]

    def commits(self, draws: np.ndarray) -> np.ndarray:
        """int [count], tokens per step."""
        time = 1 + (self.epsilon - 1) * np.arange(1, self.count) / self.count
        return np.bincount((draws[:, None] < time).sum(1), minlength=self.count)


Steps = UniformSteps | AscendingSteps | TimeSteps | IndependentSteps


def ascending_steps(canvas: int) -> int:
    return max(1, int(math.log2(canvas))) if canvas else 0


def ascending_commits(canvas: int) -> list[int]:
    """Tokens per step for a canvas: powers of two and the rest."""
    steps = ascending_steps(canvas)
    return [*(2**i for i in range(steps - 1)), canvas - (2 ** (steps - 1) - 1)] if canvas else []


# Unmasking: which proposals are taken beyond the quota.


@dataclass(frozen=True)
class TopK:
    """None."""

    rule = "top_k"
    bar = 0.0


@dataclass(frozen=True)
class Threshold:
    """All whose score reaches the bar (Fast-dLLM, arXiv:2505.22618); from 1 on: the best alone."""

    bar: float = 0.9

    @property
    def rule(self) -> str:
        return "top_k" if self.bar >= 1 else "threshold"


@dataclass(frozen=True)
class Factor:
    """The n best where (n + 1)(1 - n-th confidence) < factor (Fast-dLLM).

    Attributes:
        with_last: whether all are taken when only the last one fails, as the published code does.
    """

    factor: float = 1.0
    with_last: bool = True

    @property
    def rule(self) -> str:
        return "factor_with_last" if self.with_last else "factor"

    @property
    def bar(self) -> float:
        return self.factor


@dataclass(frozen=True)
class EntropyBelow:
    """All whose entropy in nats is at most the bar (dParallel, arXiv:2509.26488); scored by negative entropy."""

    entropy: float = 0.5
    rule = "threshold"

    @property
    def bar(self) -> float:
        return -self.entropy


@dataclass(frozen=True)
class LearnedFilter:
    """Learn2PD (arXiv:2509.25188): a network looks at the confidences of the whole block and says which proposals are final.

    Attributes:
        network: from confidences float32 [rows, length] to logits of the same shape (`training.unmask_filter.UnmaskFilter`).
        bar: probability that is enough.
    """

    network: torch.nn.Module
    bar: float = 0.96
    rule = "top_k"

    @property
    def length(self) -> int:
        return self.network.length

    def accept(self, confidences: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """bool [R]: which proposals are final, from the confidences float32 [R] of blocks of these lengths."""
        blocks = torch.ones(len(lengths), self.length)
        inside = torch.arange(self.length) < torch.tensor(lengths)[:, None]
        blocks[inside] = confidences
        with torch.inference_mode():
            return self.network(blocks).sigmoid()[inside] > self.bar


Unmask = TopK | Threshold | Factor | EntropyBelow | LearnedFilter


# Changes of proposals and scores.


@dataclass(frozen=True)
class Credit:
    """CreditDecoding (arXiv:2510.06133): tokens that were most probable in earlier steps of the block get a bonus.

    Attributes:
        alpha: weight of the bonus. gamma: exponent of probabilities that are added up. beta: decay per step.
    """

    alpha: float = 0.7
    gamma: float = 0.2
    beta: float = 0.8


@dataclass(frozen=True)
class AdaptiveCredit:
    """CreditDecoding without parameters: gamma is 1, alpha and beta are the share of the block that is filled."""


@dataclass(frozen=True)
class EndDamping:
    """EOSER (arXiv:2509.23924): confidence in EOS is damped at first; the factor rises over the steps.

    Attributes:
        low, high: factor of the first and the last step.
        ascending: rise with the tokens of an ascending schedule instead of with steps.
    """

    low: float = 0.4
    high: float = 1.0
    ascending: bool = False

    def factor(self, step: int, steps: int) -> float:
        if self.ascending:
            rise = (2.0 ** (step + 1) - 1) / 2.0**steps
        else:
            rise = 1.0 if steps <= 1 else step / (steps - 1)
        return self.low + (self.high - self.low) * min(rise, 1.0)


@dataclass(frozen=True)
class EarlyCommit:
    """Prophet (arXiv:2508.19982): when the answer's tokens lead by far on average, everything is committed at once.

    Attributes:
        answer: offsets in the canvas that are looked at; None: the current block.
        bars: mean gap between the two largest logits that is needed in the first, second and third part of the way.
        parts: where the second and the third part begin.
    """

    answer: tuple[int, ...] | None = None
    bars: tuple[float, float, float] = (7.5, 5.0, 2.5)
    parts: tuple[float, float] = (0.33, 0.67)

    def bar(self, progress: float) -> float:
        return self.bars[sum(progress >= part for part in self.parts)]


@dataclass(frozen=True)
class FreeDraft:
    """FreeDave (arXiv:2510.00294): the next tokens in order of confidence are drafts that the next pass verifies.

    The text is that of one token per step; with `Threshold`, that of threshold decoding started from the same states.

    Attributes:
        depth: drafts per pass.
    """

    depth: int = 4
