"""The usual arguments of `generate`: what they mean for a masked-diffusion model, and what to do in the place of those that mean nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from fastdecode.diffusion.arguments import seed_or_random, stop_list
from fastdecode.diffusion.sampling import Sampling

CANVAS = 128  # positions, where nobody says
SAMPLING = tuple(f.name for f in dataclasses.fields(Sampling))
OWN = ("max_new_tokens", "max_length", "seed", "stop", "stop_strings", "do_sample", "guidance_scale", "eos_token_id", "num_return_sequences", *SAMPLING)
# Settings of a configuration that change nothing here: there is no padding and no first token, and results are always objects.
PASSIVE = ("transformers_version", "_from_model_config", "pad_token_id", "bos_token_id", "return_dict_in_generate")
# What switches a setting of transformers off, where that is not 0, False or an empty list.
OFF = {"num_beams": 1, "num_beam_groups": 1, "repetition_penalty": 1, "encoder_repetition_penalty": 1, "length_penalty": 1, "typical_p": 1, "use_cache": True}
LEFT_TO_RIGHT = "it counts on tokens being chosen from left to right; leave it out"
REMEDIES = {
    "streamer": "use stream(), which yields the states of the canvas",
    "logits_processor": "it works on texts that grow from left to right; top_p, top_k, logits_eos_inf and stop are there instead",
    "stopping_criteria": "use stop=, or leave the loop over stream()",
    "max_time": "leave the loop over stream() when the time is over",
    "num_beams": "beams extend texts from left to right; use num_return_sequences with a temperature",
    "min_p": "use top_p or top_k",
    "typical_p": "use top_p or top_k",
    "min_new_tokens": "logits_eos_inf=True keeps a text from ending",
    "min_length": "logits_eos_inf=True keeps a text from ending",
    "repetition_penalty": LEFT_TO_RIGHT,
    "presence_penalty": LEFT_TO_RIGHT,
    "frequency_penalty": LEFT_TO_RIGHT,
    "no_repeat_ngram_size": LEFT_TO_RIGHT,
    "output_scores": "result.stats.commit_order has the score of every token",
    "output_logits": "logits are never stored; result.stats.commit_order has the score of every token",
    "logprobs": "result.stats.commit_order has the score of every token",
    "speculate": "drafts=FreeDraft(depth) when the generator is made",
    "assistant_model": "drafts=FreeDraft(depth) when the generator is made",
    "prompt_lookup_num_tokens": "drafts=FreeDraft(depth) when the generator is made",
    "attention_mask": "pass the tokenizer's whole output as inputs",
    "use_cache": "cache=NoCache() when the generator is made",
    "gen_length": "max_new_tokens is the size of the canvas",
    "steps": "steps=UniformSteps(per_block) or TimeSteps(count) when the generator is made",
    "eps": "steps=TimeSteps(count, epsilon) when the generator is made",
    "block_length": "blocks=FixedBlocks(length) when the generator is made",
    "threshold": "unmask=Threshold(bar) when the generator is made",
    "factor": "unmask=Factor(factor) when the generator is made",
    "remasking": "scorer='confidence' or 'random' when the generator is made",
    "alg": "scorer='confidence', 'margin' or 'neg_entropy', or for origin scorer='random' with steps=IndependentSteps(count), when the generator is made",
    "mask_id": "mask_token_id= when the generator is made",
}


@dataclass(frozen=True)
class Call:
    """What a call asks for.

    Attributes:
        sampling: how proposals are drawn.
        seed: of random numbers. stops: strings that end a text. eos: ids that do, None: as the model says.
        copies: texts per prompt.
        drawn: whether anything is random.
        given: the arguments, for messages.
    """

    sampling: Sampling
    seed: int
    stops: list[str]
    eos: tuple[int, ...] | None
    copies: int
    drawn: bool
    given: dict[str, Any]

    def canvas(self, prompt: int) -> int:
        """Positions behind a prompt of so many tokens."""
        if "max_length" not in self.given:
            return self.given.get("max_new_tokens", CANVAS)
        room = self.given["max_length"] - prompt
        if room < 1:
            raise ValueError(f"max_length={self.given['max_length']} leaves no room behind a prompt of {prompt} tokens; raise it, or set max_new_tokens, which does not count the prompt")
        return room


def resolve(defaults: Sampling, config: GenerationConfig | None, arguments: dict[str, Any], random_order: bool = False) -> Call:
    """What a configuration and the keyword arguments that override it ask for, on top of how proposals are drawn by default.

    Args:
        random_order: whether positions are drawn at random. Where nothing is, no seed is drawn either.

    Raises:
        TypeError, ValueError: an argument is unknown, has no meaning here, is out of range, or contradicts another.
    """
    given = {name: value for settings in (_settings(config), arguments) for name, value in settings.items() if value is not None and name not in PASSIVE}
    for name in [name for name in given if name not in OWN]:
        _refuse_unless_off(name, given.pop(name))
    for name in ("max_new_tokens", "max_length", "num_return_sequences"):
        value = given.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")
    if "max_new_tokens" in given and "max_length" in given:
        raise ValueError(f"max_new_tokens={given['max_new_tokens']} and max_length={given['max_length']} say how long twice; leave one out")
    sampling = _changed(defaults, {name: given[name] for name in SAMPLING if name in given})
    sampling = _changed(sampling, {"temperature": _temperature(given, sampling), "cfg_scale": _guidance(given, sampling)})
    stops = stop_list(given.get("stop")) + stop_list(given.get("stop_strings"))
    drawn = random_order or sampling.temperature > 0 or sampling.alg_temp > 0
    return Call(sampling, seed_or_random(given.get("seed", None if drawn else 0)), stops, _eos(given), given.get("num_return_sequences", 1), drawn, given)


def _changed(sampling: Sampling, values: dict[str, Any]) -> Sampling:
    """With other values, which are checked; the same one where nothing is new."""
    return sampling if all(getattr(sampling, name) is value for name, value in values.items()) else dataclasses.replace(sampling, **values)


def _settings(config: GenerationConfig | None) -> dict[str, Any]:
    """What a configuration sets; None: nothing."""
    if config is None:
        return {}
    if not isinstance(config, GenerationConfig):
        raise TypeError(f"generation_config is {type(config).__name__}, expected a transformers GenerationConfig; pass single settings as keyword arguments")
    if config.temperature is not None and config.do_sample is None:
        raise ValueError(f"generation_config has temperature={config.temperature!r} and does not say whether to sample; set its do_sample")
    return vars(config)


def _refuse_unless_off(name: str, value: Any) -> None:
    known = hasattr(GenerationConfig(), name)
    if known and (value == OFF[name] if name in OFF else not value):
        return
    if name in REMEDIES:
        raise ValueError(f"{name}={value!r} is not for masked diffusion: {REMEDIES[name]}")
    if known:
        raise ValueError(f"{name}={value!r} is not supported for masked diffusion; leave it out, or use model.generate")
    raise TypeError(f"{name} is no argument of generate; there are {', '.join(OWN)}")


def _temperature(given: dict[str, Any], sampling: Sampling) -> float:
    do_sample, temperature = given.get("do_sample"), sampling.temperature
    if do_sample not in (None, True, False):
        raise ValueError(f"do_sample={do_sample!r} must be True or False")
    if do_sample is None:
        return temperature
    if do_sample:
        if given.get("temperature") == 0:
            raise ValueError("do_sample=True with temperature=0 contradict each other; leave do_sample out, or set a temperature above 0")
        return temperature or 1.0
    changed = [name for name, off in (("temperature", (0, 1)), ("top_p", (1,)), ("top_k", (0,))) if given.get(name, off[0]) not in off]
    if changed:
        raise ValueError(f"do_sample=False with {changed[0]}={given[changed[0]]!r}: leave one of them out; top_p and top_k change scores even where nothing is drawn, if do_sample does not forbid it")
    return 0.0


def _guidance(given: dict[str, Any], sampling: Sampling) -> float:
    scale = given.get("guidance_scale")
    if scale is None:
        return sampling.cfg_scale
    if "cfg_scale" in given:
        raise ValueError(f"guidance_scale={scale!r} and cfg_scale={given['cfg_scale']!r} are the same, one more and one less; leave one out")
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 1 <= scale < float("inf"):
        raise ValueError(f"guidance_scale={scale!r} must be a number of at least 1, which is off; it is cfg_scale + 1")
    return scale - 1.0


def _eos(given: dict[str, Any]) -> tuple[int, ...] | None:
    eos = given.get("eos_token_id")
    if eos is None:
        return None
    ids = eos if isinstance(eos, (list, tuple)) else [eos]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= -1 for i in ids):
        raise ValueError(f"eos_token_id={eos!r} must be a token id or a list of them; -1 is none")
    return tuple(i for i in ids if i >= 0)
