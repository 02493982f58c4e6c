"""Why drafts are not accepted: what is wrong with a model, its tokenizer or its drafter, before anybody blames a method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterator, NamedTuple

from fastdecode.errors import UnsupportedModelError
from fastdecode.speculative.generator import SpeculativeGenerator
from fastdecode.targets.native import NativeTarget

QUESTIONS = (
    "Name three rivers in Europe and say where they flow into the sea.",
    "A farmer has 17 sheep and buys 25 more. How many sheep does he have now? Explain.",
    "Write a Python function that returns the largest of three numbers.",
    "Summarise in two sentences: Bees collect nectar from flowers and carry it to the hive, where other bees turn it into honey. Honey feeds the hive in winter.",
)
SAMPLES = ("Plain words, a number 1234 and a sign: $5.", "Zwölf Boxkämpfer jagen Viktor.\n\n\tdef f(x):\n\t\treturn x", "数学 🙂 e\u0301")
NEW_TOKENS = 64


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        ok: True, False, or None for what only deserves attention.
    """

    what: str
    ok: bool | None
    detail: str


@dataclass
class Report:
    """What an examination found.

    Attributes:
        drafted_at, accepted_at: by position in a draft (0: right behind the pending token), rounds in which something was
            drafted there, and in which it was kept.
        acceptance_length: tokens per pass of the target.
    """

    findings: list[Finding] = field(default_factory=list)
    drafted_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)
    acceptance_length: float = 1.0

    @property
    def healthy(self) -> bool:
        return all(f.ok is not False for f in self.findings)


def examine(name_or_path: str, drafter: Any = "auto", dtype: str = "auto") -> Report:
    """Loads a model as `SpeculativeGenerator.from_pretrained` does and looks at everything that speculation hangs on."""
    report = Report()
    try:
        generator = SpeculativeGenerator.from_pretrained(name_or_path, drafter=drafter, dtype=dtype)
    except (ValueError, OSError, UnsupportedModelError) as problem:
        report.findings.append(Finding("loading", False, str(problem)))
        return report
    report.findings += [*_runtime(generator), *_tokenizer(generator), *_chat(generator)]
    _agreement(generator, report)
    return report


def _runtime(generator: SpeculativeGenerator) -> Iterator[Finding]:
    target, dtype = generator.target, str(generator.model.dtype).removeprefix("torch.")
    if isinstance(target, NativeTarget):
        yield Finding("target", True, f"compiled runtime, weights {target.element}")
        return
    try:
        NativeTarget(generator.model)
        reason = "it was asked for"
    except UnsupportedModelError as problem:
        reason = str(problem)
    yield Finding("target", None, f"runs through transformers: {reason}")
    yield Finding("dtype", None if dtype == "float16" and generator.model.device.type == "cpu" else True, f"{dtype} on {generator.model.device}" + ("; float16 is slow on processors, load it with dtype='bfloat16'" if dtype == "float16" else ""))


def _tokenizer(generator: SpeculativeGenerator) -> Iterator[Finding]:
    tokenizer, vocab = generator.tokenizer, generator.target.vocab_size
    yield Finding("vocabulary", len(tokenizer) <= vocab, f"{len(tokenizer)} tokens in the tokenizer, {vocab} in the model" + ("" if len(tokenizer) <= vocab else ": the tokenizer belongs to another model"))
    lost = [text for text in SAMPLES if tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) != text]
    yield Finding("round trip", None if lost else True, f"{lost[0]!r} does not survive encoding and decoding: stop strings may not match" if lost else "texts survive encoding and decoding")


def _chat(generator: SpeculativeGenerator) -> Iterator[Finding]:
    tokenizer = generator.tokenizer
    if not tokenizer.chat_template:
        yield Finding("chat template", None, "none: prompts are continued as they are; a chat model then answers badly, and drafts fit badly")
        return
    message = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    ids = list(tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"])
    yield Finding("generation prompt", text != tokenizer.apply_chat_template(message, tokenize=False), f"the template ends with {text[-24:]!r} when an answer is asked for" if text != tokenizer.apply_chat_template(message, tokenize=False) else "the template ignores add_generation_prompt: the model goes on with the user's words")
    bos = tokenizer.bos_token_id
    doubled = bos is not None and list(tokenizer(text)["input_ids"])[:2] == [bos, bos]
    yield Finding("first token", None if doubled else True, f"{tokenizer.bos_token!r} comes twice when the formatted text is encoded; pass messages, or add_special_tokens=False" if doubled else f"a chat begins with {tokenizer.decode(ids[:1])!r}")
    ends = generator.model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends])
    yield Finding("end of text", bool(ends), f"answers end at {sorted(tokenizer.decode([e]) for e in ends)}" if ends else "generation_config has no eos_token_id: answers only end by their length")


def _agreement(generator: SpeculativeGenerator, report: Report) -> None:
    """Greedy answers with and without drafts, and how deep drafts were right."""
    ask = (lambda text: [{"role": "user", "content": text}]) if generator.tokenizer.chat_template else (lambda text: text)
    plain = [generator.generate(ask(q), max_new_tokens=NEW_TOKENS, do_sample=False, speculate=False) for q in QUESTIONS]
    drafted = [generator.generate(ask(q), max_new_tokens=NEW_TOKENS, do_sample=False, speculate=generator.max_draft) for q in QUESTIONS]
    same = sum(a.token_ids == b.token_ids for a, b in zip(plain, drafted))
    exact = isinstance(generator.target, NativeTarget) or str(generator.model.dtype) == "torch.float32"
    report.findings.append(Finding("same text", same == len(plain) or (None if not exact else False), f"{same} of {len(plain)} greedy answers are the same with and without drafts" + ("" if same == len(plain) or exact else "; in this dtype passes of other widths round differently")))
    stats = [r.stats for r in drafted]
    depth = max((len(s.drafted_at) for s in stats), default=0)
    total = lambda lists: [sum(counts[i] for counts in lists if i < len(counts)) for i in range(depth)]
    report.drafted_at, report.accepted_at = total([s.drafted_at for s in stats]), total([s.accepted_at for s in stats])
    report.acceptance_length = sum(s.emitted for s in stats) / max(1, sum(s.rounds for s in stats))
    name = stats[0].drafter
    first = report.accepted_at[0] / report.drafted_at[0] if depth and report.drafted_at[0] else 0.0
    if name != "none":
        judged = True if first >= 0.3 else None
        report.findings.append(Finding("drafts", judged, f"{name}: {report.acceptance_length:.2f} tokens per pass, {first:.0%} of first tokens right" + ("" if judged else "; a trained draft reaches 50 % and more on text of its kind: check that it was made for this model")))
