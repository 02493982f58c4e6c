"""DiffusionGemma of transformers behind the interface of the other generators.

It denoises canvases of random tokens instead of filling in masks, keeps nothing of a canvas until the end and has its own loop in
transformers (`model.generate`); the policies and caches of this package do not apply to it.
"""

from __future__ import annotations

from typing import Any, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from fastdecode.diffusion.arguments import cut_at_stop, seed_or_random, stop_list
from fastdecode.results import DecodeStats, GenerationResult
from fastdecode.speculative.inputs import token_ids
from fastdecode.targets.base import check_model

MODEL_TYPE = "diffusion_gemma"


class DiffusionGemmaGenerator:
    """Generates with a `DiffusionGemmaForBlockDiffusion` model.

    Args:
        model: in eval mode.
        tokenizer: needed for text and stop strings.

    Raises:
        TypeError, ValueError: it is another model.
    """

    def __init__(self, model: PreTrainedModel, tokenizer=None):
        check_model(model)
        if model.config.model_type != MODEL_TYPE:
            raise ValueError(f"model is a {type(model).__name__}; DiffusionGemmaGenerator runs DiffusionGemma, DiffusionGenerator runs LLaDA and Dream, SpeculativeGenerator causal models")
        self.model, self.tokenizer = model, tokenizer
        self.vocab_size = model.get_output_embeddings().weight.shape[0]

    @classmethod
    def from_pretrained(cls, name_or_path: str, dtype: str | torch.dtype = "auto", device: str | None = None, **kwargs: Any) -> "DiffusionGemmaGenerator":
        """Loads model and tokenizer with transformers; `kwargs` go to `from_pretrained` of the model."""
        from transformers import AutoTokenizer, DiffusionGemmaForBlockDiffusion

        model = DiffusionGemmaForBlockDiffusion.from_pretrained(name_or_path, dtype=dtype, **kwargs).eval().to(device or "cpu")
        return cls(model, AutoTokenizer.from_pretrained(name_or_path))

    def generate(self, inputs: Any, generation_config: GenerationConfig | None = None, *, max_new_tokens: int | None = None, seed: int | None = None, stop: Sequence[str] | str = (), **settings: Any) -> GenerationResult | list[GenerationResult]:
        """Continues one prompt or each of a batch by whole canvases.

        Args:
            inputs: as for `SpeculativeGenerator.generate`.
            generation_config: as for `model.generate`; arguments override it.
            max_new_tokens: upper bound of new tokens (256); what a last canvas has beyond it is cut off.
            seed: of torch's random numbers in this call; they depend on the batch.
            stop: strings that end the text.
            settings: of its generation configuration (max_denoising_steps, t_min, t_max, sampler_config, ...).
        """
        prompts, batched = token_ids(inputs, self.tokenizer, self.vocab_size)
        if max_new_tokens is None:
            max_new_tokens = getattr(generation_config, "max_new_tokens", None) or 256
        if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens!r} must be an integer of at least 1")
        stops = stop_list(stop)
        longest, pad = max(map(len, prompts)), self.model.config.get_text_config().pad_token_id or 0
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.model.device)
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []), torch.inference_mode():
            torch.manual_seed(seed_or_random(seed))
            output = self.model.generate(ids, generation_config=generation_config, attention_mask=mask, max_new_tokens=max_new_tokens, return_dict_in_generate=True, **settings)
        rates = output.tokens_per_forward.tolist()
        results = [self._result(row[longest:].tolist()[:max_new_tokens], len(p), rate, stops) for row, p, rate in zip(output.sequences, prompts, rates)]
        return results if batched else results[0]

    def _result(self, tokens: list[int], prompt: int, rate: float, stops: list[str]) -> GenerationResult:
        ends = self.model.generation_config.eos_token_id or self.model.config.get_text_config().eos_token_id
        ends = set(ends if isinstance(ends, (list, tuple)) else [ends])
        end = next((i for i, t in enumerate(tokens) if t in ends), None)
        kept = tokens if end is None else tokens[: end + 1]
        stats = DecodeStats(rounds=round(len(tokens) / rate) if rate else 0, emitted=len(kept), prompt_tokens=prompt, drafter=MODEL_TYPE, lossless=True)
        if self.tokenizer is None:
            return GenerationResult(None, kept, "length" if end is None else "eos", stats)
        text, stopped = cut_at_stop(self.tokenizer.decode(kept, skip_special_tokens=True), stops)
        return GenerationResult(text, kept, "stop" if stopped else "length" if end is None else "eos", stats)
