"""`DiffusionGenerator`: text from masked-diffusion models."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import torch
from transformers import PreTrainedModel

from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.arguments import cut_at_stop, seed_or_random, stop_list, with_masks
from fastdecode.diffusion.caches import BlockCausal
from fastdecode.diffusion.decoding import Decoding
from fastdecode.diffusion.drafting import DraftingDecoding
from fastdecode.diffusion.facts import Facts
from fastdecode.diffusion.fitting import check_blocks, config_of, own_filter, target_of
from fastdecode.diffusion.policies import FixedBlocks
from fastdecode.diffusion.presets import make_policy
from fastdecode.errors import UnsupportedModelError
from fastdecode.ops.unmask_commit import MASKED
from fastdecode.results import DecodeStats, GenerationResult
from fastdecode.speculative.inputs import known, token_ids
from fastdecode.speculative.request import request_word
from fastdecode.targets import log_fallback
from fastdecode.targets.active import DiffusionTarget
from fastdecode.targets.layouts import layout_of
from fastdecode.targets.native import NativeTarget
from fastdecode.targets.weights import load_layout

MAX_GAPS = 256


@dataclass(frozen=True)
class Gap:
    """A place in a template with this many tokens to be filled in."""

    tokens: int

    def __post_init__(self):
        if not isinstance(self.tokens, int) or isinstance(self.tokens, bool) or self.tokens < 1:
            raise ValueError(f"Gap({self.tokens!r}): a gap has a positive number of tokens")


@dataclass(frozen=True)
class CanvasState:
    """A canvas between two passes.

    Attributes:
        text: decoded, with `mask` where there is no token yet. token_ids: of the canvas, None where there is no token.
        forwards: passes so far. finish_reason: set on the last state of a prompt. index: which prompt it belongs to.
    """

    text: str | None
    token_ids: list[int | None]
    forwards: int
    finish_reason: str | None
    index: int


class DiffusionGenerator:
    """Decodes masked-diffusion models: every step computes some positions and commits some tokens.

    Args:
        model: LLaDA's or Dream's transformer as a model of transformers (`from_pretrained` makes one of a checkpoint), or
            a `DiffusionTarget`.
        tokenizer: needed for text and stop strings.
        preset: "auto" (threshold 0.9, no cache) or another name of `PRESETS`; `parts` (blocks, steps, scorer, unmask, cache,
            credit, end_damping, early_commit, drafts, ...) replace some of its parts.
        target: "native" (compiled runtime), "hf" (transformers modules), or "auto".
        weights: of the compiled runtime, as for `SpeculativeGenerator`.
        mask_token_id, eos_token_id, shift, block_length: where the model and tokenizer do not say, see `Facts`.
        allow_infill: whether `infill` may be called.
        mask_in_text: what the mask is in given text: an "error", or "text", a token like any other. It is never an open position.
        facts: all of it at once.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value, or parts do not go together.
        UnsupportedModelError: the model cannot be run in both directions.
    """

    def __init__(self, model: PreTrainedModel | DiffusionTarget, tokenizer=None, preset: str = "auto", *, target: str = "auto", weights: str = "auto", allow_infill: bool = False, mask_in_text: str = "error", facts: Facts | None = None, mask_token_id: int | None = None, eos_token_id: int | None = None, shift: int = 0, block_length: int | None = None, **parts: Any):  # fmt: skip
        make_policy(preset, **parts)  # what does not go together is refused before a model is packed
        given = {"mask_token_id": mask_token_id, "eos_token_id": eos_token_id, "shift": shift, "block_length": block_length}
        self.target = target_of(target, model, weights)
        self.facts = facts or Facts.of_model(config_of(model), self.target.vocab_size, tokenizer, given)
        own = {"cache": BlockCausal(), "blocks": FixedBlocks(self.facts.block_length)} if self.facts.block_length else {}
        self.policy = make_policy(preset, **{**own, **parts})
        check_blocks(self.policy, self.facts)
        if mask_in_text not in ("error", "text"):
            raise ValueError(f"mask_in_text={mask_in_text!r} must be error or text")
        self.tokenizer, self.preset, self.allow_infill, self.mask_in_text = tokenizer, preset, allow_infill, mask_in_text
        self._lock = threading.RLock()  # one pass at a time: calls from several threads take turns

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, preset: str = "auto", *, dtype: str | torch.dtype = "auto", target: str = "auto", weights: str = "auto", device: str | None = None, **kwargs: Any) -> "DiffusionGenerator":  # fmt: skip
        """Loads a checkpoint of LLaDA or Dream by its names and configuration; no code of the checkpoint is run."""
        name_or_path = str(name_or_path)
        facts = Facts.of_checkpoint(name_or_path)
        if preset == "learn2pd" and "unmask" not in kwargs:
            kwargs["unmask"] = own_filter(name_or_path)
        tokenizer = layout_of(name_or_path)[0].tokenizer.from_pretrained(name_or_path)
        if target != "hf" and device in (None, "cpu"):
            try:
                return cls(NativeTarget.from_pretrained(name_or_path, weights, dtype), tokenizer, preset, facts=facts, **kwargs)
            except UnsupportedModelError as reason:
                if target == "native":
                    raise
                log_fallback(name_or_path, reason)
        return cls(load_layout(name_or_path, dtype).to(device or "cpu"), tokenizer, preset, facts=facts, target="hf", **kwargs)

    def generate(self, inputs: Any, max_new_tokens: int = 128, *, temperature: float = 0.0, seed: int | None = None, stop: Sequence[str] | str = ()) -> GenerationResult | list[GenerationResult]:
        """Fills a canvas of `max_new_tokens` positions behind one prompt or each of a batch.

        Args:
            inputs: as for `SpeculativeGenerator.generate`. The id of the mask is refused in a prompt: only `infill` opens positions.
            temperature: of the proposals; confidences are those at temperature 1.
            seed: of random numbers; what a prompt yields does not depend on the rest of the batch.
            stop: strings that end the text.

        Returns:
            A `GenerationResult`, or a list of them for a list. Token ids end with the first EOS.
        """
        prompts, batched = token_ids(inputs, self.tokenizer, self.target.vocab_size)
        decoding = self._start(self._canvases(prompts, max_new_tokens, seed), temperature, stop)
        while decoding.active:
            self._step(decoding)
        results = [self._result(c, stop) for c in decoding.canvases]
        return results if batched else results[0]

    def stream(self, inputs: Any, max_new_tokens: int = 128, *, temperature: float = 0.0, seed: int | None = None, stop: Sequence[str] | str = (), mask: str = "·") -> Iterator[CanvasState]:
        """The states of the canvases of `generate`, after every pass; arguments are checked at the call."""
        prompts, _ = token_ids(inputs, self.tokenizer, self.target.vocab_size)
        decoding = self._start(self._canvases(prompts, max_new_tokens, seed), temperature, stop)
        return self._states(decoding, mask)

    def infill(self, template: Sequence[str | Gap], *, temperature: float = 0.0, seed: int | None = None, moderate: Callable[[str], bool] | None = None) -> GenerationResult:
        """Fills the gaps of a template; the result's text is the whole of it.

        Args:
            template: strings and `Gap`s in order.
            moderate: gets the merged text; where it returns False the result is withheld and the finish reason is "moderated".

        Raises:
            PermissionError: the generator was not constructed with allow_infill=True.
        """
        if not self.allow_infill:
            raise PermissionError("infill() opens positions inside given text; construct the generator with allow_infill=True to permit it")
        tokens, changed = self._template(template)
        request = (seed_or_random(seed), request_word(tokens, 0))
        batch = self._batch([(tokens, changed, changed.index(MASKED), request)])
        decoding = self._start(batch, temperature, (), end_at_eos=False, cut_at_eos=False)
        while decoding.active:
            self._step(decoding)
        (canvas,) = decoding.canvases
        self._count(canvas, len(tokens))
        text = self.tokenizer.decode(canvas.tokens.tolist(), skip_special_tokens=True)
        if moderate is not None and not moderate(text):
            return GenerationResult(None, [], "moderated", canvas.stats)
        filled = [int(t) for t, c in zip(canvas.tokens, changed) if c == MASKED]
        return GenerationResult(text, filled, "length", canvas.stats)

    # From arguments to canvases.

    def _canvases(self, prompts: list[list[int]], max_new_tokens: int, seed: int | None):
        if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens!r} must be an integer of at least 1: the size of the canvas")
        self._check_room(max(map(len, prompts)), max_new_tokens)
        seed, copies, rows = seed_or_random(seed), {}, []
        for i, prompt in enumerate(prompts):
            if self.mask_in_text == "error" and self.facts.mask in prompt:
                raise ValueError(f"inputs[{i}] holds the mask, token {self.facts.mask}: given text has no open positions; remove it, or open positions with infill()")
            if self.facts.shift and not prompt:
                raise ValueError(f"inputs[{i}] is empty: this model proposes a token from the position before it")
            copies[tuple(prompt)] = copies.get(tuple(prompt), -1) + 1
            key = (seed, request_word(prompt, copies[tuple(prompt)]))
            rows.append((prompt + [self.facts.mask] * max_new_tokens, [-1] * len(prompt) + [MASKED] * max_new_tokens, len(prompt), key))
        return self._batch(rows)

    def _check_room(self, given: int, open_positions: int) -> None:
        """Before anything of that size is made."""
        limit = self.target.max_positions
        if limit is not None and given + open_positions > limit:
            raise ValueError(f"a prompt with its canvas has {given + open_positions} positions, the model has {limit}; shorten the prompt or set max_new_tokens to at most {max(0, limit - given)}")

    def _batch(self, rows: list[tuple[list[int], list[int], int, tuple[int, int]]]) -> tuple[list[Canvas], torch.Tensor, torch.Tensor]:
        longest = max(len(tokens) for tokens, *_ in rows)
        tokens = torch.full((len(rows), longest), self.facts.mask, dtype=torch.int32)
        changed = torch.full((len(rows), longest), -1, dtype=torch.int32)
        canvases = []
        for row, (ids, at, prompt, key) in enumerate(rows):
            tokens[row, : len(ids)], changed[row, : len(ids)] = torch.tensor(ids), torch.tensor(at)
            canvas = Canvas(row, tokens[row, : len(ids)].numpy(), changed[row, : len(ids)].numpy(), prompt, len(ids), self.facts.shift, key, self.facts.block_length)
            canvas.stats.prompt_tokens = prompt
            canvases.append(canvas)
        return canvases, tokens, changed

    def _template(self, template: Sequence[str | Gap]) -> tuple[list[int], list[int]]:
        if self.tokenizer is None:
            raise ValueError("infill() takes text and the generator has no tokenizer; construct it with tokenizer=...")
        if not isinstance(template, (list, tuple)) or not all(isinstance(part, (str, Gap)) for part in template):
            raise TypeError(f"template={template!r} must be a list of strings and Gap(n)")
        gaps = sum(isinstance(part, Gap) for part in template)
        if not 1 <= gaps <= MAX_GAPS:
            raise ValueError(f"template has {gaps} gaps, expected 1 to {MAX_GAPS}; put Gap(n) where text is missing")
        self._check_room(0, sum(part.tokens for part in template if isinstance(part, Gap)))
        tokens, changed = [], []
        for part in template:
            ids = [self.facts.mask] * part.tokens if isinstance(part, Gap) else known(list(self.tokenizer(part, add_special_tokens=not tokens)["input_ids"]), self.tokenizer, "template", part)
            if isinstance(part, str) and self.mask_in_text == "error" and self.facts.mask in ids:
                raise ValueError(f"template holds the mask inside text {part!r}; only Gap(n) opens positions")
            tokens += ids
            changed += [MASKED if isinstance(part, Gap) else -1] * len(ids)
        self._check_room(len(tokens), 0)
        if self.facts.shift and changed[0] == MASKED:
            raise ValueError("template begins with a gap: this model proposes a token from the position before it; begin with text")
        return tokens, changed

    def _start(self, batch, temperature: float, stop, **changes: Any) -> Decoding:
        if not isinstance(temperature, (int, float)) or isinstance(temperature, bool) or not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature={temperature!r} must be a number of at least 0")
        stops = stop_list(stop)
        if stops and self.tokenizer is None:
            raise ValueError(f"stop={stop!r} needs a tokenizer; construct the generator with tokenizer=...")
        policy = dataclasses.replace(self.policy, **changes) if changes else self.policy
        for name, part in (("drafts", policy.drafts), ("credit", policy.credit)):
            if temperature and part is not None:
                raise ValueError(f"temperature={temperature!r} with {name}={part}: it is defined for the most probable tokens; use temperature=0")
        kind = DraftingDecoding if policy.drafts else Decoding
        canvases, tokens, changed = batch
        with self._lock:
            return kind(self.target, policy, canvases, tokens, changed, banned=[self.facts.mask], temperature=float(temperature), eos=self.facts.eos)

    def _step(self, decoding: Decoding) -> None:
        with self._lock:
            decoding.step()

    # From canvases to results.

    def _states(self, decoding: Decoding, mask: str) -> Iterator[CanvasState]:
        while decoding.active:
            running = decoding.active
            self._step(decoding)
            for canvas in running:
                ids = [int(t) if c != MASKED else None for t, c in zip(canvas.tokens[canvas.prompt :], canvas.changed[canvas.prompt :])]
                text = None if self.tokenizer is None else with_masks(self.tokenizer, ids, mask)
                yield CanvasState(text, ids, canvas.stats.forwards, canvas.finish_reason, canvas.row)

    def _result(self, canvas: Canvas, stop) -> GenerationResult:
        ids = canvas.tokens[canvas.prompt : canvas.length].tolist()
        end = next((i for i, t in enumerate(ids) if t in self.facts.eos), None)
        ids = ids if end is None else ids[: end + 1]
        self._count(canvas, len(ids))
        reason = "length" if end is None else "eos"
        if self.tokenizer is None:
            return GenerationResult(None, ids, reason, canvas.stats)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        text, stopped = cut_at_stop(text, stop_list(stop))
        return GenerationResult(text, ids, "stop" if stopped else reason, canvas.stats)

    def _count(self, canvas: Canvas, emitted: int) -> None:
        stats: DecodeStats = canvas.stats
        stats.emitted, stats.drafter, stats.verifier, stats.lossless = emitted, self.preset, type(self.policy.unmask).__name__, self.policy.lossless
        stats.commit_order = [(p - canvas.prompt, clock, score) for p, clock, score in canvas.commits]
