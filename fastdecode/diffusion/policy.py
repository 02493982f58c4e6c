"""A whole decoding policy: parts that go together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from fastdecode.diffusion.caches import BlockCausal, CachePolicy, DelayedGreedy, DelayedPrefillDecode, Dual, NoCache, Prefix
from fastdecode.diffusion.policies import (
    AdaptiveBlocks,
    AdaptiveCredit,
    AscendingBlocks,
    AscendingSteps,
    Blocks,
    Credit,
    EarlyCommit,
    EndDamping,
    EntropyBelow,
    Factor,
    FixedBlocks,
    FreeDraft,
    IndependentSteps,
    LearnedFilter,
    Steps,
    SubBlocks,
    Threshold,
    TimeSteps,
    TopK,
    UniformSteps,
    Unmask,
    WholeCanvas,
)
from fastdecode.diffusion.sampling import Sampling

SCORERS = ("confidence", "margin", "neg_entropy", "left_to_right", "random")


@dataclass(frozen=True)
class Policy:
    """How a canvas is decoded.

    Attributes:
        cache: which positions a step computes again.
        sampling: how proposals are drawn.
        end_at_eos: whether a row is finished once an EOS stands behind committed tokens alone.
        cut_at_eos: whether an EOS that is committed cuts the canvas behind it even while masks stand before it (EoTP of Learn2PD).
        cut_confidence: that an EOS needs to cut.

    Raises:
        ValueError: parts do not go together; says why.
    """

    blocks: Blocks = field(default_factory=FixedBlocks)
    steps: Steps = field(default_factory=UniformSteps)
    scorer: str = "confidence"
    unmask: Unmask = field(default_factory=TopK)
    cache: CachePolicy = field(default_factory=NoCache)
    sampling: Sampling = field(default_factory=Sampling)
    credit: Credit | AdaptiveCredit | None = None
    end_damping: EndDamping | None = None
    early_commit: EarlyCommit | None = None
    drafts: FreeDraft | None = None
    end_at_eos: bool = True
    cut_at_eos: bool = False
    cut_confidence: float = 0.0

    def __post_init__(self):
        _check_parts(self)
        for refused, reason in _conflicts(self):
            if refused:
                raise ValueError(reason)

    @property
    def lossless(self) -> bool:
        """Whether the text is that of the same policy without cache and drafts."""
        keeps_prompt = isinstance(self.cache, DelayedPrefillDecode)  # whatever its interval
        exact_cache = isinstance(self.cache, NoCache) or self.cache == BlockCausal() or (self.cache.interval == 1 and not keeps_prompt)
        exact_drafts = self.drafts is None or self.unmask.rule == "top_k"  # beside thresholds, drafts may stop short of a step
        return exact_cache and exact_drafts and self.early_commit is None


def _check_parts(policy: Policy) -> None:
    kinds = {"blocks": Blocks, "steps": Steps, "unmask": Unmask, "cache": CachePolicy, "sampling": Sampling, "credit": Credit | AdaptiveCredit | None, "end_damping": EndDamping | None, "early_commit": EarlyCommit | None, "drafts": FreeDraft | None}
    for name, kind in kinds.items():
        value = getattr(policy, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name}={value!r} is not a part of this kind; use one of fastdecode.diffusion.policies, caches and sampling")
    if policy.scorer not in SCORERS:
        raise ValueError(f"scorer={policy.scorer!r} is unknown: use {', '.join(SCORERS)}")
    for part in (policy.blocks, policy.steps, policy.cache, policy.drafts):
        for f in fields(part) if part is not None else ():
            value = getattr(part, f.name)
            if f.type in ("int", "int | None") and value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < (0 if f.name in ("before", "behind", "around", "warmup") else 1)):
                raise ValueError(f"{type(part).__name__}({f.name}={value!r}) must be a positive integer")
    if isinstance(policy.blocks, AdaptiveBlocks) and policy.blocks.window not in ("canvas", "generated"):
        raise ValueError(f"AdaptiveBlocks(window={policy.blocks.window!r}) is unknown: use canvas or generated")
    bar = policy.unmask.bar if not isinstance(policy.unmask, EntropyBelow) else policy.unmask.entropy
    if not isinstance(bar, (int, float)) or math.isnan(bar):
        raise ValueError(f"{type(policy.unmask).__name__} has a bar that is not a number")


def _conflicts(p: Policy):
    """(whether it is the case, why it is refused)."""
    yield from _sampling_conflicts(p)
    ascending = isinstance(p.steps, AscendingSteps)
    timed = isinstance(p.steps, (TimeSteps, IndependentSteps))
    scheduled = timed or (isinstance(p.steps, UniformSteps) and p.steps.per_block is not None)
    yield isinstance(p.blocks, AdaptiveBlocks) and (ascending or scheduled), f"blocks=AdaptiveBlocks with steps={p.steps}: a number of steps cannot be planned for blocks of unknown length; leave steps out"
    yield isinstance(p.blocks, AscendingBlocks) and not ascending, "blocks=AscendingBlocks needs steps=AscendingSteps(), whose commits they are cut by"
    yield timed and not isinstance(p.blocks, WholeCanvas), f"steps={type(p.steps).__name__} is a schedule of the whole canvas; use blocks=WholeCanvas()"
    yield isinstance(p.steps, IndependentSteps) and p.scorer != "random", f"steps=IndependentSteps draws positions, scorer={p.scorer!r} chooses them; use scorer='random'"
    yield isinstance(p.unmask, EntropyBelow) and p.scorer != "neg_entropy", f"unmask=EntropyBelow compares entropies, scorer={p.scorer!r} does not give them; use scorer='neg_entropy'"
    yield isinstance(p.unmask, (Threshold, Factor)) and p.scorer not in ("confidence", "margin"), f"unmask={type(p.unmask).__name__} compares probabilities, scorer={p.scorer!r} gives none; use confidence or margin"
    yield isinstance(p.unmask, LearnedFilter) and not (isinstance(p.blocks, FixedBlocks) and p.blocks.length <= p.unmask.length), "unmask=LearnedFilter needs FixedBlocks no longer than the filter's input"
    yield isinstance(p.unmask, LearnedFilter) and p.scorer != "confidence", "unmask=LearnedFilter reads confidences; use scorer='confidence'"
    yield p.end_damping is not None and p.scorer not in ("confidence", "margin"), f"end_damping multiplies scores, which would promote EOS where they are negative or damp nothing (scorer={p.scorer!r}); use confidence or margin"
    yield p.end_damping is not None and isinstance(p.unmask, LearnedFilter), "end_damping does not reach what unmask=LearnedFilter accepts; drop one of the two"
    yield p.drafts is not None and (ascending or scheduled), f"drafts=FreeDraft verifies one token per step, steps={p.steps} asks for more; leave steps out"
    yield p.drafts is not None and not isinstance(p.unmask, (TopK, Threshold)), f"drafts=FreeDraft knows the next state of TopK and Threshold, not of {type(p.unmask).__name__}"
    yield p.drafts is not None and p.scorer == "random", "drafts=FreeDraft follows the order of confidence; scorer='random' has no order to follow"
    yield p.drafts is not None and (p.credit is not None or p.end_damping is not None), "drafts=FreeDraft verifies states, credit and end_damping depend on the way to them; drop one of the two"
    yield p.drafts is not None and p.early_commit is not None, "early_commit ends the losslessness of drafts=FreeDraft; drop one of the two"
    yield p.drafts is not None and p.cut_at_eos, "cut_at_eos fills masks that drafts=FreeDraft has drafted already; end_at_eos alone ends rows as soon"
    yield p.cut_at_eos and not p.end_at_eos, "cut_at_eos cuts what end_at_eos=False wants to see filled; leave one of them out"
    yield p.drafts is not None and not (isinstance(p.cache, NoCache) or (isinstance(p.cache, (Prefix, Dual)) and p.cache.interval is None)), f"drafts=FreeDraft works with NoCache, Prefix() and Dual(), whose frozen keys do not change inside a block; not with {p.cache}"
    yield isinstance(p.cache, DelayedGreedy) and p.scorer != "random", "cache=DelayedGreedy must know the next positions before the pass: only scorer='random' tells them"
    yield isinstance(p.cache, DelayedGreedy) and not isinstance(p.unmask, TopK), "cache=DelayedGreedy must know how many positions come next; use unmask=TopK()"
    yield p.early_commit is not None and isinstance(p.cache, (Prefix, Dual, DelayedGreedy, BlockCausal)) and p.early_commit.answer is not None, f"early_commit looks at answer={p.early_commit.answer if p.early_commit else None} in every step, which cache={type(p.cache).__name__} does not compute; use answer=None"
    yield isinstance(p.cache, BlockCausal) and not isinstance(p.blocks, (FixedBlocks, SubBlocks)), "cache=BlockCausal needs FixedBlocks of the model's length, or SubBlocks"
    yield isinstance(p.blocks, SubBlocks) and not isinstance(p.cache, BlockCausal), f"blocks=SubBlocks are parts of blocks that see no later ones; use cache=BlockCausal(), not {p.cache}"
    yield isinstance(p.blocks, SubBlocks) and (ascending or scheduled), f"blocks=SubBlocks commits the first token of a block alone, which steps={p.steps} does not plan for; leave steps out"
    yield isinstance(p.blocks, SubBlocks) and (p.early_commit is not None or p.scorer == "random" or isinstance(p.unmask, LearnedFilter)), "blocks=SubBlocks asks for the first token of a block alone; early_commit, scorer='random' and LearnedFilter need all positions of a block"
    yield isinstance(p.cache, BlockCausal) and p.cache.parts and not isinstance(p.blocks, SubBlocks), "cache=BlockCausal(parts=True) computes the parts of SubBlocks alone; use blocks=SubBlocks()"
    yield p.credit is not None and p.scorer == "random", "credit changes confidences, scorer='random' ignores them; drop one of the two"
    yield p.credit is not None and p.scorer == "margin", "credit is worked out for the best token alone, scorer='margin' compares it with the second; use confidence or neg_entropy"
    yield p.early_commit is not None and list(p.early_commit.parts) != sorted(p.early_commit.parts), "EarlyCommit(parts=...) must ascend"


def _sampling_conflicts(p: Policy):
    s = p.sampling
    for name, part in (("drafts", p.drafts), ("credit", p.credit)):
        yield s.temperature > 0 and part is not None, f"temperature={s.temperature!r} with {name}={part}: it is defined for the most probable tokens; use temperature=0"
    law = f"top_p={s.top_p!r}, top_k={s.top_k!r}, law_scores={s.law_scores!r}"
    yield s.processed and p.credit is not None, f"credit corrects the model's own probabilities, not those of another law ({law}); drop one of the two"
    yield s.processed and isinstance(p.unmask, LearnedFilter), f"unmask=LearnedFilter has learned the model's own probabilities, not those of another law ({law}); drop one of the two"
    yield s.alg_temp > 0 and (not isinstance(p.unmask, TopK) or p.scorer in ("random", "left_to_right")), f"alg_temp={s.alg_temp!r} draws positions by their scores; it needs unmask=TopK() and a score of tokens, not {p.unmask} and scorer={p.scorer!r}"
    yield s.alg_temp > 0 and p.drafts is not None, f"alg_temp={s.alg_temp!r} draws positions, drafts=FreeDraft follows the best ones; drop one of the two"
    last = s.confidence_eos_eot_inf
    yield last and p.scorer not in ("confidence", "margin"), f"confidence_eos_eot_inf={last!r} makes confidences 0, scorer={p.scorer!r} has none; use confidence or margin"
    yield last and isinstance(p.unmask, LearnedFilter), f"confidence_eos_eot_inf={last!r} does not reach what unmask=LearnedFilter accepts; drop one of the two"
    yield last == "reference" and (s.processed or p.credit is not None), f"confidence_eos_eot_inf='reference' corrects the model's own probabilities; with {law} and credit={p.credit} use True"
