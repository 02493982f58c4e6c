"""`SpeculativeGenerator`: the same text as `model.generate`, faster."""

from __future__ import annotations

import threading
from typing import Any, Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from fastdecode.results import GenerationResult
from fastdecode.speculative.controller import Controller
from fastdecode.speculative.decoding import Decoding, KeptCache, Options
from fastdecode.speculative.drafters import Drafter, EagleDrafter, make_drafter
from fastdecode.speculative.drafters.pairing import pair_with_target
from fastdecode.speculative.eagle_head import is_head
from fastdecode.speculative.inputs import token_ids
from fastdecode.speculative.prepare import make_requests
from fastdecode.speculative.request import Request
from fastdecode.speculative.step_cost import StepCost
from fastdecode.speculative.streaming import TextStream
from fastdecode.speculative.verifiers import Verifier, make_verifier
from fastdecode.errors import UnsupportedModelError
from fastdecode.targets import make_target
from fastdecode.targets.base import TargetModel
from fastdecode.targets.native import NativeTarget

DEFAULT_DRAFT, LARGEST_DRAFT = 16, 4096


class SpeculativeGenerator:
    """Generates with drafts that the model itself verifies, several tokens per forward pass.

    Greedy text equals plain greedy decoding, sampled text has exactly the law of plain sampling; with deterministic
    drafters (all but draft models) a seed even gives the same tokens with and without speculation.

    Args:
        model: a causal LM of transformers, in eval mode.
        tokenizer: needed for text, chat and stop strings.
        drafter: "auto", "suffix", "prompt_lookup", "adaptive_trigram", "early_exit", "eagle" (the trained head of this model), "none", a smaller model with the same
            tokenizer, any object with the methods of `Drafter`, or a list of these (merged into one tree). "auto" is "suffix" with the
            head where one is installed, else, in the compiled runtime, "suffix" or the model's first layers, whichever pays more.
        verifier: "auto" picks the rule that fits how drafts were made; or one of `VERIFIERS`.
        max_draft: draft tokens per round and request.
        min_score: drafts whose estimated chance of acceptance is lower are never made. Those that are made are cut to the
            size that is worth it at the measured cost of a pass.
        target: "native" runs the model in the compiled CPU runtime, "hf" through its transformers modules, "auto" in the
            runtime where it can; or a target object.
        weights: of the compiled runtime: "auto" keeps the model's dtype; "bfloat16" and "int8" are smaller and faster, and
            their text is that of the rounded model.
        draft_tokenizer: of a draft model, to check that it matches.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.
        UnsupportedModelError: the model cannot be verified as a tree.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer=None,
        drafter: str | Drafter | PreTrainedModel | Sequence | None = "auto",
        verifier: str | Verifier = "auto",
        max_draft: int = DEFAULT_DRAFT,
        min_score: float = 0.02,
        target: str | TargetModel = "auto",
        weights: str = "auto",
        draft_tokenizer=None,
    ):
        if not _is_count(max_draft) or max_draft > LARGEST_DRAFT:
            raise ValueError(f"max_draft={max_draft!r} must be an integer from 0 to {LARGEST_DRAFT}")
        if not isinstance(min_score, (int, float)) or isinstance(min_score, bool) or not 0 <= min_score <= 1:
            raise ValueError(f"min_score={min_score!r} must lie between 0 and 1")
        self.verifier = make_verifier(verifier)
        self.target = make_target(target, model, weights)
        self.drafter = make_drafter(drafter, self.target)
        if getattr(self.target, "bidirectional", False):
            raise UnsupportedModelError("this is a masked-diffusion model: its tokens see later ones, so it cannot decode one after the other")
        self.model, self.tokenizer, self.max_draft, self.min_score = model, tokenizer, max_draft, float(min_score)
        pair_with_target(self.drafter, self.target.vocab_size, tokenizer, draft_tokenizer)
        if hasattr(self.drafter, "pair"):
            self.drafter.pair(self.target)
        self._lock = threading.RLock()  # one forward pass at a time: calls from several threads take turns
        self._kept = KeptCache()
        self._controller = Controller(StepCost.measure(self.target) if self.drafter is not None else StepCost(), self.drafter)

    @classmethod
    def from_pretrained(cls, name_or_path: str, drafter: Any = "auto", dtype: str | torch.dtype = "auto", device: str | None = None, **kwargs) -> "SpeculativeGenerator":
        """Loads model and tokenizer with transformers; a `drafter` that is a path (of a model or of an EAGLE head) or a hub name
        with a slash (of a model) is loaded too.

        Args:
            kwargs: `verifier`, `max_draft`, ... go to the constructor, the rest to `AutoModelForCausalLM.from_pretrained`.
        """
        own = {name: kwargs.pop(name) for name in ("verifier", "max_draft", "min_score", "target", "weights") if name in kwargs}
        load = lambda name: AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **kwargs).eval().to(device or "cpu")
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        if isinstance(drafter, str) and is_head(drafter):
            drafter = EagleDrafter(drafter)
        if isinstance(drafter, str) and "/" in drafter:
            own["draft_tokenizer"] = AutoTokenizer.from_pretrained(drafter)
            drafter = load(drafter)
        if own.get("target", "auto") != "hf" and device in (None, "cpu") and not kwargs:
            try:  # straight from the files, without a second copy of the weights
                own["target"] = NativeTarget.from_pretrained(name_or_path, own.get("weights", "auto"), dtype)
                return cls(own["target"].model, tokenizer, drafter, **own)
            except UnsupportedModelError:
                if getattr(own.get("target"), "bidirectional", False):
                    raise
                pass  # the constructor says why, or packs the model that transformers loads
        return cls(load(name_or_path), tokenizer, drafter, **own)

    def generate(self, inputs: Any, generation_config: GenerationConfig | None = None, *, streamer=None, **kwargs) -> GenerationResult | list[GenerationResult]:
        """Continues one prompt or a batch.

        Args:
            inputs: text, chat messages, token ids, a list of these, or a tokenizer's output.
            generation_config: as for `model.generate`; the usual keyword arguments override it.
            streamer: a transformers streamer, for one prompt.
            stop: strings that end the text. seed: of random numbers. speculate: "auto", True, False or the number of draft
                tokens per round. logprobs: how many top log-probabilities to return per token (0: only the token's own).
            output_scores: return the processed logits of every token.
            logits_processor, stopping_criteria, max_new_tokens, do_sample, temperature, ...: as in transformers, besides
                presence_penalty and frequency_penalty.

        Returns:
            A `GenerationResult`; for a list (or num_return_sequences > 1) a list of them.
        """
        prompts, batched = token_ids(inputs, self.tokenizer, self.target.vocab_size)
        if streamer is not None and not all(callable(getattr(streamer, method, None)) for method in ("put", "end")):
            raise TypeError(f"streamer is {type(streamer).__name__}, expected an object with put(ids) and end(), e.g. transformers.TextStreamer")
        if streamer is not None and len(prompts) > 1:
            raise ValueError(f"streamer works for one prompt, got {len(prompts)}; use stream() for a batch")
        decoding = self._start(prompts, generation_config, **kwargs)
        if streamer is not None and len(decoding.requests) > 1:
            raise ValueError(f"streamer works for one text, num_return_sequences asks for {len(decoding.requests)}; use stream()")
        if streamer is not None:
            streamer.put(torch.tensor([prompts[0]]))
        while decoding.active:
            for _, tokens in self._step(decoding):
                if streamer is not None:
                    streamer.put(torch.tensor(tokens))
        if streamer is not None:
            streamer.end()
        results = [self._result(request, decoding.logprobs[i], decoding.scores[i]) for i, request in enumerate(decoding.requests)]
        return results if batched or len(results) > 1 else results[0]

    def stream(self, inputs: Any, generation_config: GenerationConfig | None = None, **kwargs) -> TextStream:
        """The same as `generate`, but yields text as it becomes certain; closing the iterator cancels the rest.

        Arguments are checked at the call, before the first chunk is asked for.
        """
        prompts, _ = token_ids(inputs, self.tokenizer, self.target.vocab_size)
        if self.tokenizer is None:
            raise ValueError("stream() yields text and the generator has no tokenizer; construct it with tokenizer=...")
        return TextStream(self, self._start(prompts, generation_config, detokenize=True, **kwargs))

    def custom_generate(self, model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs) -> torch.Tensor:
        """For `model.generate(..., custom_generate=generator.custom_generate)`: LongTensor [B, L] with the prompts."""
        from fastdecode.speculative.hf_generate import generate_from_prepared

        return generate_from_prepared(self, input_ids, model_kwargs.get("attention_mask"), logits_processor, stopping_criteria, generation_config)

    def _start(self, prompts, generation_config, *, stop=(), seed=None, speculate="auto", logprobs=None, output_scores=False, detokenize=False, **kwargs) -> Decoding:
        fixed = _is_count(speculate)
        options = Options(self._draft_length(speculate), 0.0 if fixed else self.min_score, not fixed, logprobs, output_scores)
        if logprobs is not None and (not _is_count(logprobs) or logprobs > self.target.vocab_size):
            raise ValueError(f"logprobs={logprobs!r} must be an integer from 0 to {self.target.vocab_size}")
        if not isinstance(output_scores, bool):
            raise TypeError(f"output_scores={output_scores!r} must be True or False")
        own = [name for name in ("presence_penalty", "frequency_penalty") if output_scores and kwargs.get(name)]
        if own:
            raise ValueError(f"output_scores=True with {own[0]}={kwargs[own[0]]!r}: scores are those of transformers, which has no such penalty; drop one of the two, or ask for logprobs")
        if seed is not None and not (_is_count(seed) and seed < 2**63):
            raise ValueError(f"seed={seed!r} must be an integer from 0 to 2**63 - 1")
        requests = make_requests(
            self.model, prompts, self.tokenizer, self.target.max_positions, generation_config, _stop_list(stop), seed, detokenize, **kwargs
        )
        return self.decode(requests, options)

    def decode(self, requests: list[Request], options: Options) -> Decoding:
        """Starts decoding prepared requests (prefill included)."""
        with self._lock:
            return Decoding(self.target, self.drafter, self.verifier, requests, options, self._kept, self._controller)

    def _step(self, decoding: Decoding) -> list[tuple[int, list[int]]]:
        with self._lock:
            return decoding.step()

    def _draft_length(self, speculate) -> int:
        if speculate is True or speculate == "auto":
            return self.max_draft
        if speculate is False:
            return 0
        if not _is_count(speculate) or speculate > LARGEST_DRAFT:
            raise ValueError(f"speculate={speculate!r} must be 'auto', True, False or the number of draft tokens per round, at most {LARGEST_DRAFT}")
        return speculate

    def _result(self, request: Request, logprobs, scores) -> GenerationResult:
        text = None
        if self.tokenizer is not None:
            cut = request.stopping.stop_at
            text = request.stopping.detokenizer.text[:cut] if cut is not None else self.tokenizer.decode(request.tokens, skip_special_tokens=True)
        return GenerationResult(text, request.tokens, request.finish_reason, request.stats, logprobs or None, torch.stack(scores) if scores else None)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _stop_list(stop) -> list[str]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, (list, tuple, set, frozenset)) or not all(isinstance(s, str) and s for s in stops):
        raise ValueError(f"stop={stop!r} must be a non-empty string or a list of them")
    return list(stops)
