"""The usual arguments of `generate`, and what is refused with the remedy."""

import pytest
import torch
from transformers import GenerationConfig, TextStreamer

from fastdecode import Gap
from fastdecode.diffusion.options import REMEDIES, resolve
from fastdecode.diffusion.policies import Credit, EntropyBelow, FixedBlocks, FreeDraft, LearnedFilter, Threshold
from fastdecode.diffusion.presets import make_policy
from fastdecode.diffusion.sampling import Sampling
from fastdecode.training.unmask_filter import UnmaskFilter
from tests.diffusion.models import EOS, generator
from tests.models import byte_tokenizer, random_prompt
from tests.threads import one_thread  # noqa: F401

PROMPT = random_prompt(9, seed=1)

SAME = {
    "length": (GenerationConfig(max_new_tokens=10), {}, {"max_new_tokens": 10}),
    "whole length": (GenerationConfig(max_length=19), {}, {"max_new_tokens": 10}),
    "an argument wins": (GenerationConfig(max_new_tokens=99), {"max_new_tokens": 10}, {"max_new_tokens": 10}),
    "greedy": (GenerationConfig(do_sample=False, temperature=1.0, max_new_tokens=10), {}, {"max_new_tokens": 10}),
    "sampling": (GenerationConfig(do_sample=True, max_new_tokens=10), {}, {"max_new_tokens": 10, "temperature": 1.0}),
    "a temperature": (GenerationConfig(do_sample=True, temperature=0.7, top_p=0.9, top_k=20, max_new_tokens=10), {}, {"max_new_tokens": 10, "temperature": 0.7, "top_p": 0.9, "top_k": 20}),
    "guidance": (GenerationConfig(guidance_scale=2.5, max_new_tokens=10), {}, {"max_new_tokens": 10, "cfg_scale": 1.5}),
    "an end": (GenerationConfig(eos_token_id=[3, 77], max_new_tokens=10), {}, {"max_new_tokens": 10, "eos_token_id": [3, 77]}),
    "what is off": (GenerationConfig(num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0, use_cache=True, pad_token_id=0, bos_token_id=1, return_dict_in_generate=True, max_new_tokens=10), {}, {"max_new_tokens": 10}),
}


@pytest.mark.parametrize("name", SAME)
def test_a_configuration_is_the_same_as_arguments(name):
    config, arguments, same = SAME[name]
    made = generator("native", blocks=FixedBlocks(6), eos=EOS)
    got, want = made.generate(PROMPT, generation_config=config, seed=3, **arguments), made.generate(PROMPT, seed=3, **same)
    assert got.token_ids == want.token_ids and got.finish_reason == want.finish_reason and got.stats.commit_order == want.stats.commit_order
    assert [s.token_ids for s in made.stream(PROMPT, generation_config=config, seed=3, **arguments)][-1][: len(want.token_ids)] == want.token_ids


def test_stops_sequences_and_lengths():
    made = generator("native", blocks=FixedBlocks(6))
    whole = made.generate(PROMPT, max_new_tokens=16)
    assert len(made.generate(PROMPT).token_ids) == 128
    for stop in ({"stop": whole.text[5:7]}, {"stop_strings": [whole.text[5:7]]}, {"generation_config": GenerationConfig(stop_strings=whole.text[5:7])}):
        cut = made.generate(PROMPT, max_new_tokens=16, **stop)
        assert cut.finish_reason == "stop" and cut.text == whole.text[: whole.text.find(whole.text[5:7])]
    several = made.generate([PROMPT, PROMPT[:4]], max_new_tokens=12, temperature=1.0, seed=2, num_return_sequences=3)
    assert len(several) == 6 and len({tuple(r.token_ids) for r in several}) == 6
    assert [r.token_ids for r in made.generate([PROMPT] * 3, max_new_tokens=12, temperature=1.0, seed=2)] == [r.token_ids for r in several[:3]]
    assert len(made.generate(PROMPT, max_new_tokens=4, num_return_sequences=2)) == 2
    ragged = made.generate([PROMPT, PROMPT[:4]], max_length=12)
    assert [len(r.token_ids) for r in ragged] == [3, 8]


def test_values_of_the_policy_are_the_default():
    made = generator("native", blocks=FixedBlocks(6), sampling=Sampling(temperature=0.8, top_p=0.9))
    base = generator("native", blocks=FixedBlocks(6))
    assert made.generate(PROMPT, max_new_tokens=12, seed=1).token_ids == base.generate(PROMPT, max_new_tokens=12, seed=1, temperature=0.8, top_p=0.9).token_ids
    assert made.generate(PROMPT, max_new_tokens=12, temperature=0, top_p=1.0).token_ids == made.generate(PROMPT, max_new_tokens=12, do_sample=False).token_ids == base.generate(PROMPT, max_new_tokens=12).token_ids
    assert made.generate(PROMPT, max_new_tokens=12, seed=1, do_sample=True).token_ids == made.generate(PROMPT, max_new_tokens=12, seed=1).token_ids


def test_every_remedy_is_given():
    for name, remedy in REMEDIES.items():
        with pytest.raises(ValueError, match=rf"{name}=2 is not for masked diffusion: "):
            resolve(Sampling(), None, {name: 2})
        assert remedy


REFUSED = {
    "beams": (dict(num_beams=4), ValueError, "num_beams=4.*beams extend texts"),
    "a streamer": (dict(streamer=TextStreamer(byte_tokenizer())), ValueError, "streamer=.*use stream"),
    "processors": (dict(logits_processor=[lambda ids, scores: scores]), ValueError, "logits_processor=.*left to right"),
    "criteria": (dict(stopping_criteria=[lambda ids, scores: True]), ValueError, "use stop="),
    "a repetition penalty": (dict(repetition_penalty=1.2), ValueError, "repetition_penalty=1.2.*leave it out"),
    "min_p": (dict(min_p=0.1), ValueError, "use top_p or top_k"),
    "a setting without a remedy": (dict(diversity_penalty=0.5), ValueError, "diversity_penalty=0.5 is not supported"),
    "scores": (dict(output_scores=True), ValueError, "commit_order"),
    "no cache": (dict(use_cache=False), ValueError, r"use_cache=False.*cache=NoCache\(\)"),
    "an unknown word": (dict(temprature=0.5), TypeError, "temprature is no argument of generate; there are max_new_tokens"),
    "LLaDA's steps": (dict(steps=64), ValueError, "steps=64.*UniformSteps"),
    "LLaDA's length": (dict(gen_length=64), ValueError, "max_new_tokens is the size"),
    "LLaDA's blocks": (dict(block_length=32), ValueError, r"blocks=FixedBlocks\(length\)"),
    "LLaDA's order": (dict(remasking="random"), ValueError, "scorer='confidence' or 'random'"),
    "Dream's order": (dict(alg="entropy"), ValueError, "scorer='confidence', 'margin'"),
    "lengths twice": (dict(max_new_tokens=4, max_length=20), ValueError, "say how long twice"),
    "no room": (dict(max_length=9), ValueError, "max_length=9 leaves no room behind a prompt of 9"),
    "half a length": (dict(max_length=9.5), ValueError, "max_length=9.5 must be an integer"),
    "no sequences": (dict(num_return_sequences=0), ValueError, "num_return_sequences=0"),
    "a configuration of another kind": (dict(generation_config={"temperature": 1.0}), TypeError, "generation_config is dict"),
    "a configuration that does not say": (dict(generation_config=GenerationConfig(temperature=0.7)), ValueError, "set its do_sample"),
    "a configuration with beams": (dict(generation_config=GenerationConfig(num_beams=2)), ValueError, "num_beams=2"),
    "sampling without": (dict(do_sample=True, temperature=0.0), ValueError, "contradict each other"),
    "no sampling with": (dict(do_sample=False, temperature=0.5), ValueError, "do_sample=False with temperature=0.5"),
    "no sampling with a filter": (dict(do_sample=False, top_p=0.5), ValueError, "do_sample=False with top_p=0.5"),
    "do_sample": (dict(do_sample="yes"), ValueError, "do_sample='yes'"),
    "guidance twice": (dict(cfg_scale=1.0, guidance_scale=2.0), ValueError, "leave one out"),
    "guidance below 1": (dict(guidance_scale=0.5), ValueError, "guidance_scale=0.5 must be a number of at least 1"),
    "negative guidance": (dict(cfg_scale=-1.0), ValueError, "cfg_scale=-1.0 must be a number of at least 0"),
    "infinite temperature": (dict(temperature=float("inf")), ValueError, "temperature=inf"),
    "a temperature that is none": (dict(temperature=True), ValueError, "temperature=True"),
    "top_p 0": (dict(top_p=0.0), ValueError, "top_p=0.0 must lie above 0"),
    "top_p above 1": (dict(top_p=1.5), ValueError, "top_p=1.5 must lie above 0"),
    "top_k": (dict(top_k=-1), ValueError, "top_k=-1 must be an integer"),
    "half a top_k": (dict(top_k=2.5), ValueError, "top_k=2.5 must be an integer"),
    "alg_temp": (dict(alg_temp=-0.1), ValueError, "alg_temp=-0.1"),
    "ties": (dict(ties="first"), ValueError, "ties='first' is unknown"),
    "logits_eos_inf": (dict(logits_eos_inf="yes"), ValueError, "logits_eos_inf='yes' must be True or False"),
    "confidence_eos_eot_inf": (dict(confidence_eos_eot_inf="strict"), ValueError, "confidence_eos_eot_inf='strict' must be True, False or 'reference'"),
    "no end to hold back": (dict(logits_eos_inf=True), ValueError, "logits_eos_inf=True needs the id that ends a text"),
    "no end to put last": (dict(confidence_eos_eot_inf=True), ValueError, "confidence_eos_eot_inf=True needs the id"),
    "many ends": (dict(logits_eos_inf=True, eos_token_id=list(range(9))), ValueError, "at most 7 ids"),
    "an end of another kind": (dict(eos_token_id="</s>"), ValueError, "eos_token_id='</s>' must be a token id"),
    "an end outside": (dict(eos_token_id=5000), ValueError, "eos_token_id=5000 is not in the model's vocabulary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_arguments(name):
    arguments, error, message = REFUSED[name]
    made = generator("native")
    for call in (made.generate, made.stream):
        with pytest.raises(error, match=message):
            call(PROMPT, **arguments)


@pytest.mark.parametrize("arguments, message", [(dict(max_new_tokens=4), "max_new_tokens=4 has no meaning"), (dict(stop="x"), "stop='x' has no meaning"), (dict(num_return_sequences=2), "no meaning"), (dict(steps=3), "steps=3")])
def test_refused_arguments_of_infill(arguments, message):
    with pytest.raises(ValueError, match=message):
        generator("native", allow_infill=True).infill(["ab", Gap(2)], **arguments)
    assert len(generator("native", allow_infill=True).infill(["ab", Gap(2)], temperature=0.5, top_p=0.9, cfg_scale=1.0, seed=1).token_ids) == 2


CONFLICTS = {
    "drafts that are drawn": (dict(drafts=FreeDraft()), Sampling(0.5), "use temperature=0"),
    "drafts in a drawn order": (dict(drafts=FreeDraft()), Sampling(alg_temp=0.5), "follows the best ones"),
    "credit and a filter": (dict(credit=Credit()), Sampling(top_p=0.9), "top_p=0.9.*drop one of the two"),
    "a learned filter and another law": (dict(unmask=LearnedFilter(UnmaskFilter())), Sampling(law_scores=True), "law_scores=True.*drop one of the two"),
    "a threshold and drawn positions": (dict(unmask=Threshold()), Sampling(alg_temp=0.1), r"needs unmask=TopK\(\)"),
    "random positions twice": (dict(scorer="random"), Sampling(alg_temp=0.1), "needs unmask=TopK.*scorer='random'"),
    "entropies that end last": (dict(scorer="neg_entropy", unmask=EntropyBelow()), Sampling(confidence_eos_eot_inf=True), "use confidence or margin"),
    "a learned filter that ends last": (dict(unmask=LearnedFilter(UnmaskFilter())), Sampling(confidence_eos_eot_inf=True), "does not reach"),
    "the published sums of another law": ({}, Sampling(top_k=3, confidence_eos_eot_inf="reference"), "use True"),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_sampling_that_does_not_fit_the_policy(name):
    parts, sampling, message = CONFLICTS[name]
    with pytest.raises(ValueError, match=message):
        make_policy("llada", sampling=sampling, **parts)
    changed = {f: getattr(sampling, f) for f in ("temperature", "top_p", "top_k", "alg_temp", "law_scores", "confidence_eos_eot_inf") if getattr(sampling, f) != getattr(Sampling(), f)}
    with pytest.raises(ValueError, match=message):
        generator("native", eos=EOS, **parts).generate(PROMPT, max_new_tokens=4, **changed)


def test_stop_strings_need_a_tokenizer():
    made = generator("native")
    made.tokenizer = None
    with pytest.raises(ValueError, match=r"stop=\['x'\] needs a tokenizer"):
        made.generate(torch.tensor(PROMPT), max_new_tokens=4, stop="x")
