"""From a prompt and the usual `generate` arguments to a `Request`: transformers itself resolves the configuration."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple, Sequence

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StopStringCriteria

from fastdecode.speculative.detokenizer import Detokenizer
from fastdecode.speculative.processors import Processors
from fastdecode.speculative.request import Request, request_word
from fastdecode.speculative.stopping import Stopping

OWN_CRITERIA = (EosTokenCriteria, MaxLengthCriteria, StopStringCriteria)  # `Stopping` and `Request` do their work


class Resolved(NamedTuple):
    """What `generate` would decode with."""

    input_ids: torch.Tensor
    config: GenerationConfig
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList


def resolve(model: PreTrainedModel, prompt: Sequence[int], generation_config: GenerationConfig | None, kwargs: dict[str, Any]) -> Resolved:
    """Lets `generate` merge and validate its arguments and build processors and criteria, and stops it before it decodes."""

    def capture(model, input_ids, logits_processor, stopping_criteria, generation_config, **_) -> Resolved:
        return Resolved(input_ids, generation_config, logits_processor, stopping_criteria)

    ids = torch.tensor([list(prompt)], device=model.device)
    return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=generation_config, custom_generate=capture, **kwargs)


def make_requests(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    tokenizer,
    max_positions: int | None,
    generation_config: GenerationConfig | None = None,
    stop: Sequence[str] = (),
    seed: int | None = None,
    detokenize: bool = False,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    **kwargs: Any,
) -> list[Request]:
    """One request per prompt and returned sequence.

    Args:
        prompts: token ids.
        stop: strings that end the text, besides `stop_strings` of the configuration.
        seed: of the random numbers; None draws one from torch's global generator.
        detokenize: follow the text even without stop strings (for streaming).
        kwargs: anything else that `generate` takes.
    """
    _check_types(generation_config, kwargs)
    _check_penalties(presence_penalty=presence_penalty, frequency_penalty=frequency_penalty)
    stop = [*stop, *_stop_strings(model, generation_config, kwargs)]
    if stop and tokenizer is None:
        raise ValueError(f"stop={stop!r} needs a tokenizer; construct the generator with tokenizer=...")
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    requests: list[Request] = []
    copies: dict[tuple[int, ...], int] = {}
    for prompt in prompts:
        resolved = resolve(model, prompt, generation_config, {**kwargs, "stop_strings": None})
        limit = _new_token_limit(resolved.config, len(prompt), max_positions)
        for _ in range(resolved.config.num_return_sequences or 1):
            copy_number = copies[tuple(prompt)] = copies.get(tuple(prompt), -1) + 1
            request = request_from(resolved, prompt, tokenizer, stop, seed, copy_number, limit, detokenize, presence_penalty, frequency_penalty)
            requests.append(request)
    return requests


def request_from(
    resolved: Resolved, prompt: Sequence[int], tokenizer, stop: Sequence[str], seed: int, copy_number: int, limit: int,
    detokenize: bool = False, presence_penalty: float = 0.0, frequency_penalty: float = 0.0,
) -> Request:  # fmt: skip
    """A request that decodes what `resolved` says. `copy_number` tells equal prompts of one call apart."""
    config = resolved.config
    _refuse_modes(config)
    detokenizer = Detokenizer(tokenizer) if tokenizer is not None and (stop or detokenize) else None
    criteria = StoppingCriteriaList(copy.copy(c) for c in resolved.criteria if type(c) not in OWN_CRITERIA)
    processors = Processors.from_list(resolved.processors, bool(config.do_sample), presence_penalty=presence_penalty, frequency_penalty=frequency_penalty)
    request = Request(list(prompt), processors, Stopping(_eos_ids(config), stop, detokenizer, criteria), limit, (seed, request_word(list(prompt), copy_number)))
    request.stats.prompt_tokens = len(prompt)
    return request


def _check_types(generation_config: Any, kwargs: dict[str, Any]) -> None:
    """What transformers would notice late, or only by an error from somewhere inside."""
    if generation_config is not None and not isinstance(generation_config, GenerationConfig):
        raise TypeError(f"generation_config is {type(generation_config).__name__}, expected a transformers GenerationConfig; pass single settings as keyword arguments")
    for name in ("logits_processor", "stopping_criteria"):
        functions = kwargs.get(name)
        if functions is not None and not (isinstance(functions, list) and all(callable(f) for f in functions)):
            held = [type(f).__name__ for f in functions] if isinstance(functions, list) else type(functions).__name__
            raise TypeError(f"{name} is {held}, expected a list of callables")
    for name in ("max_new_tokens", "num_return_sequences"):
        value = kwargs.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")


def _check_penalties(**penalties: Any) -> None:
    for name, value in penalties.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name}={value!r} must be a finite number; 0 switches it off")


def _stop_strings(model: PreTrainedModel, generation_config: GenerationConfig | None, kwargs: dict) -> list[str]:
    given = kwargs.pop("stop_strings", None) or (generation_config or model.generation_config).stop_strings or []
    return [given] if isinstance(given, str) else list(given)


def _eos_ids(config: GenerationConfig) -> list[int]:
    eos = config.eos_token_id
    return [] if eos is None else list(eos) if isinstance(eos, (list, tuple)) else [eos]


def _refuse_modes(config: GenerationConfig) -> None:
    if (config.num_beams or 1) > 1:
        raise ValueError(f"num_beams={config.num_beams}: beam search is not a decoding of one law and cannot be drafted; use num_beams=1 or model.generate")
    if config.guidance_scale not in (None, 1, 1.0):
        raise ValueError(f"guidance_scale={config.guidance_scale} needs a second forward pass per token, which is not supported; use model.generate")
    if config.do_sample and config.top_p is not None and not 0 <= config.top_p <= 1:
        raise ValueError(f"top_p={config.top_p} must lie between 0 and 1; 1 switches it off")


def _new_token_limit(config: GenerationConfig, prompt_length: int, max_positions: int | None) -> int:
    limit = config.max_length - prompt_length
    check_context(prompt_length, limit, max_positions)
    return limit


def check_context(prompt_length: int, limit: int, max_positions: int | None) -> None:
    """Refuses what would run past the model's positions, before anything is computed."""
    if max_positions is not None and prompt_length + limit > max_positions:
        room = max_positions - prompt_length
        if room < 1:
            raise ValueError(f"the prompt has {prompt_length} tokens, the model's context holds {max_positions}; shorten the prompt")
        raise ValueError(f"max_new_tokens={limit} after a prompt of {prompt_length} tokens exceeds the model's context of {max_positions}; set max_new_tokens to at most {room}")
