"""`DiffusionGenerator`: text from masked-diffusion models."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from fastdecode.diffusion.arguments import cut_at_stop, with_masks
from fastdecode.diffusion.batch import Batch, BatchMaker, Gap
from fastdecode.diffusion.canvas import Canvas
from fastdecode.diffusion.decoding import Decoding
from fastdecode.diffusion.drafting import DraftingDecoding
from fastdecode.diffusion.facts import Facts
from fastdecode.diffusion.fitting import check_fit, config_of, own_filter, own_parts, target_of
from fastdecode.diffusion.options import Call, resolve
from fastdecode.diffusion.presets import make_policy
from fastdecode.errors import UnsupportedModelError
from fastdecode.ops.unmask_commit import MASKED
from fastdecode.results import DecodeStats, GenerationResult
from fastdecode.speculative.inputs import token_ids
from fastdecode.targets import log_fallback
from fastdecode.targets.active import DiffusionTarget
from fastdecode.targets.layouts import layout_of
from fastdecode.targets.native import NativeTarget
from fastdecode.targets.weights import load_layout


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
            sampling, credit, end_damping, early_commit, drafts, ...) replace some of its parts.
        target: "native" (compiled runtime), "hf" (transformers modules), or "auto".
        weights: of the compiled runtime, as for `SpeculativeGenerator`.
        mask_token_id, eos_token_id, eot_token_id (ends a turn of a chat), shift, block_length: where the model and tokenizer do not say, see `Facts`.
        allow_infill: whether `infill` may be called.
        mask_in_text: what the mask is in given text: an "error", or "text", a token like any other. It is never an open position.
        facts: all of it at once.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value, or parts do not go together.
        UnsupportedModelError: the model cannot be run in both directions.
    """

    def __init__(self, model: PreTrainedModel | DiffusionTarget, tokenizer=None, preset: str = "auto", *, target: str = "auto", weights: str = "auto", allow_infill: bool = False, mask_in_text: str = "error", facts: Facts | None = None, mask_token_id: int | None = None, eos_token_id: int | None = None, eot_token_id: int | None = None, shift: int = 0, block_length: int | None = None, **parts: Any):  # fmt: skip
        policy = make_policy(preset, **parts)  # what does not go together is refused before a model is packed
        given = {"mask_token_id": mask_token_id, "eos_token_id": eos_token_id, "eot_token_id": eot_token_id, "shift": shift, "block_length": block_length}
        self.target = target_of(target, model, weights)
        self.facts = facts or Facts.of_model(config_of(model), self.target.vocab_size, tokenizer, given)
        self.policy = make_policy(preset, **{**own_parts(policy, self.facts), **parts})
        check_fit(self.policy, self.facts)
        if mask_in_text not in ("error", "text"):
            raise ValueError(f"mask_in_text={mask_in_text!r} must be error or text")
        self.tokenizer, self.preset, self.allow_infill = tokenizer, preset, allow_infill
        self._batches = BatchMaker(self.facts, self.target.max_positions, tokenizer, mask_in_text)
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

    def generate(self, inputs: Any, generation_config: GenerationConfig | None = None, **arguments: Any) -> GenerationResult | list[GenerationResult]:
        """Fills a canvas behind one prompt or each of a batch.

        Args:
            inputs: as for `SpeculativeGenerator.generate`. The id of the mask is refused in a prompt: only `infill` opens positions.
            generation_config: as for `model.generate`; arguments override it.
            max_new_tokens: positions of the canvas, 128 by default. max_length: those of prompt and canvas.
            do_sample, temperature, top_p, top_k, alg_temp, cfg_scale, logits_eos_inf, confidence_eos_eot_inf: see `Sampling`, the
                part `sampling` of the policy, whose values they replace for this call. guidance_scale: cfg_scale + 1.
            seed: of random numbers; what a prompt yields does not depend on the rest of the batch.
            stop, stop_strings: strings that end the text. eos_token_id: ids that do, in the place of the model's.
            num_return_sequences: texts per prompt.

        Returns:
            A `GenerationResult`; for a list (or num_return_sequences > 1) a list of them. Token ids end with the first EOS.

        Raises:
            TypeError, ValueError: an argument that is unknown, has no meaning for masked diffusion or does not fit the policy.
        """
        prompts, batched = token_ids(inputs, self.tokenizer, self.target.vocab_size)
        call = self._resolve(arguments, generation_config)
        decoding = self._start(self._batches.of_prompts(prompts, call), call)
        while decoding.active:
            self._step(decoding)
        results = [self._result(c, decoding.facts, call.stops) for c in decoding.canvases]
        return results if batched or call.copies > 1 else results[0]

    def stream(self, inputs: Any, generation_config: GenerationConfig | None = None, *, mask: str = "·", **arguments: Any) -> Iterator[CanvasState]:
        """The states of the canvases of `generate`, after every pass; arguments are checked at the call."""
        prompts, _ = token_ids(inputs, self.tokenizer, self.target.vocab_size)
        call = self._resolve(arguments, generation_config)
        return self._states(self._start(self._batches.of_prompts(prompts, call), call), mask)

    def infill(self, template: Sequence[str | Gap], *, moderate: Callable[[str], bool] | None = None, **arguments: Any) -> GenerationResult:
        """Fills the gaps of a template; the result's text is the whole of it.

        Args:
            template: strings and `Gap`s in order.
            moderate: gets the merged text; where it returns False the result is withheld and the finish reason is "moderated".
            seed, do_sample, temperature, top_p, ...: as for `generate`, but for what ends a text.

        Raises:
            PermissionError: the generator was not constructed with allow_infill=True.
        """
        if not self.allow_infill:
            raise PermissionError("infill() opens positions inside given text; construct the generator with allow_infill=True to permit it")
        ending = [name for name in ("max_new_tokens", "max_length", "stop", "stop_strings", "eos_token_id", "num_return_sequences") if arguments.get(name) is not None]
        if ending:
            raise ValueError(f"{ending[0]}={arguments[ending[0]]!r} has no meaning for infill(): Gap(n) says how much is filled; leave it out")
        call = self._resolve(arguments)
        decoding = self._start(self._batches.of_template(template, call), call, end_at_eos=False, cut_at_eos=False)
        (canvas,) = decoding.canvases
        gaps = canvas.changed == MASKED
        while decoding.active:
            self._step(decoding)
        self._count(canvas, canvas.length)
        text = self.tokenizer.decode(canvas.tokens.tolist(), skip_special_tokens=True)
        if moderate is not None and not moderate(text):
            return GenerationResult(None, [], "moderated", canvas.stats)
        return GenerationResult(text, canvas.tokens[gaps].tolist(), "length", canvas.stats)

    def _resolve(self, arguments: dict[str, Any], generation_config: GenerationConfig | None = None) -> Call:
        call = resolve(self.policy.sampling, generation_config, arguments, self.policy.scorer == "random")
        if call.stops and self.tokenizer is None:
            raise ValueError(f"stop={call.stops!r} needs a tokenizer; construct the generator with tokenizer=...")
        outside = [i for i in call.eos or () if i >= self.target.vocab_size]
        if outside:
            raise ValueError(f"eos_token_id={outside[0]} is not in the model's vocabulary 0 .. {self.target.vocab_size - 1}; check that tokenizer and model belong together")
        return call

    def _start(self, batch: Batch, call: Call, **changes: Any) -> Decoding:
        facts = self.facts if call.eos is None else dataclasses.replace(self.facts, eos=call.eos)
        policy = self.policy
        if changes or call.sampling != policy.sampling:
            policy = dataclasses.replace(policy, sampling=call.sampling, **changes)
        if policy is not self.policy or facts is not self.facts:
            check_fit(policy, facts)
        with self._lock:
            return (DraftingDecoding if policy.drafts else Decoding)(self.target, policy, facts, *batch)

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

    def _result(self, canvas: Canvas, facts: Facts, stops: list[str]) -> GenerationResult:
        ids = canvas.tokens[canvas.prompt : canvas.length].tolist()
        end = next((i for i, t in enumerate(ids) if t in facts.eos), None)
        ids = ids if end is None else ids[: end + 1]
        self._count(canvas, len(ids))
        reason = "length" if end is None else "eos"
        if self.tokenizer is None:
            return GenerationResult(None, ids, reason, canvas.stats)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        text, stopped = cut_at_stop(text, stops)
        return GenerationResult(text, ids, "stop" if stopped else reason, canvas.stats)

    def _count(self, canvas: Canvas, emitted: int) -> None:
        stats: DecodeStats = canvas.stats
        stats.emitted, stats.drafter, stats.verifier, stats.lossless = emitted, self.preset, type(self.policy.unmask).__name__, self.policy.lossless
        stats.commit_order = [(p - canvas.prompt, clock, score) for p, clock, score in canvas.commits]
