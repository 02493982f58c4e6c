"""Wrong calls: each one names the argument, the value and the remedy, and leaves the generator as it was."""

import re

import numpy as np
import pytest
import torch
import transformers

from fastdecode import InvalidLogitsError, SpeculativeGenerator, UnsupportedModelError
from fastdecode.speculative.drafters import ModelDrafter, PromptLookupDrafter
from fastdecode.speculative.tree import Draft
from fastdecode.targets.native import NativeTarget
from tests.models import VOCAB, byte_tokenizer, plain_tokens, small_model

PROMPT = [5, 6, 7, 5, 6, 8, 5, 6]
GOOD = dict(max_new_tokens=8, eos_token_id=-1)


class FixedDrafter:
    """Always proposes the same arrays, however wrong."""

    name = "fixed"

    def __init__(self, tokens, parents):
        self.draft = Draft(np.array(tokens, np.int32), np.array(parents, np.int32), np.ones(len(tokens), np.float32))

    def begin(self, requests):
        return None

    def propose(self, state, rows, budgets):
        return [self.draft] * len(rows)

    def observe(self, state, row, tokens):
        pass

    def end(self, state, row):
        pass


class Forbid(transformers.LogitsProcessor):
    def __call__(self, input_ids, scores):
        return torch.full_like(scores, -torch.inf)


class Silent:
    """Has nothing that a drafter, verifier or streamer needs."""


def other_tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    return tokenizer


def mamba():
    return transformers.MambaForCausalLM(transformers.MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=1, vocab_size=64)).eval()


def t5():
    return transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=64, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)).eval()


def build(*args, **kwargs):
    return lambda model: SpeculativeGenerator(*(args or (model,)), **kwargs)


CONSTRUCTION = {
    "model is a path": (build("gpt2"), TypeError, r"model is str.*from_pretrained"),
    "model is a module": (build(torch.nn.Linear(2, 2)), TypeError, r"model is Linear.*from_pretrained"),
    "encoder-decoder": (lambda m: SpeculativeGenerator(t5()), UnsupportedModelError, r"T5ForConditionalGeneration is not a decoder-only"),
    "recurrent": (lambda m: SpeculativeGenerator(mamba()), UnsupportedModelError, r"MambaForCausalLM.*rolled back.*model\.generate"),
    "training mode": (lambda m: SpeculativeGenerator(small_model().train()), ValueError, r"training mode.*model\.eval\(\)"),
    "unknown drafter": (build(drafter="sufix"), ValueError, r"drafter='sufix' is unknown: use auto.*suffix"),
    "drafter without methods": (build(drafter=Silent()), TypeError, r"drafter is Silent.*begin/propose/observe/end"),
    "drafter class, not object": (build(drafter=PromptLookupDrafter), TypeError, r"drafter is the class PromptLookupDrafter.*PromptLookupDrafter\(\)"),
    "drafter is a number": (build(drafter=3), TypeError, r"drafter is int"),
    "no drafters": (build(drafter=[]), ValueError, r"drafter.*empty; pass at least one"),
    "no drafter in a list": (build(drafter=["suffix", None]), ValueError, r"drafter.*\[1\].*none"),
    "drafter options": (lambda m: PromptLookupDrafter(max_ngram=0), ValueError, r"max_ngram=0 must be a positive integer"),
    "bool as a drafter option": (lambda m: PromptLookupDrafter(branches=True), ValueError, r"branches=True must be a positive integer"),
    "draft model fixed": (lambda m: ModelDrafter(m, fixed=-1), ValueError, r"fixed=-1 must be an integer of at least 0"),
    "draft model fixed chain": (lambda m: ModelDrafter(m, fixed=1, branches=False), ValueError, r"fixed=1 tokens beside drawn ones need a tree; pass branches=True"),
    "draft model options": (lambda m: ModelDrafter(m, num_tokens=0), ValueError, r"num_tokens=0 must be a positive integer"),
    "draft model in training mode": (lambda m: SpeculativeGenerator(m, drafter=small_model().train()), ValueError, r"training mode.*eval"),
    "other tokenizer": (lambda m: SpeculativeGenerator(m, byte_tokenizer(), drafter=m, draft_tokenizer=other_tokenizer()), ValueError, r"tokenizer differs: '<extra>' is id \d+ there and None here"),
    "unknown verifier": (build(verifier="tree"), ValueError, r"verifier='tree' is unknown: use auto.*point"),
    "verifier without methods": (build(verifier=Silent()), TypeError, r"verifier is Silent.*verify"),
    "native runtime without code for the model": (lambda m: SpeculativeGenerator(small_model("gpt2"), target="native"), UnsupportedModelError, r"GPT2LMHeadModel: model type 'gpt2' is not one of llama.*target='hf'"),
    "native runtime and float64": (lambda m: SpeculativeGenerator(small_model(dtype=torch.float64), target="native"), UnsupportedModelError, r"its dtype is torch\.float64.*target='hf'"),
    "no target": (build(target=None), TypeError, r"target is None, expected auto, native, hf or an object with new_state"),
    "target class, not object": (build(target=NativeTarget), TypeError, r"target is <class.*NativeTarget.*from_pretrained"),
    "unknown weights": (build(weights="int3"), ValueError, r"weights='int3' is unknown: use auto, float32, bfloat16, int8"),
    "weights without the runtime": (build(target="hf", weights="int8"), ValueError, r"weights='int8' needs the compiled runtime"),
    "unknown target": (build(target="vllm"), ValueError, r"target='vllm' is unknown: use auto, native or hf"),
    "max_draft negative": (build(max_draft=-1), ValueError, r"max_draft=-1 must be"),
    "max_draft bool": (build(max_draft=True), ValueError, r"max_draft=True must be"),
    "max_draft text": (build(max_draft="3"), ValueError, r"max_draft='3' must be"),
    "min_score too big": (build(min_score=2), ValueError, r"min_score=2 must lie between 0 and 1"),
    "min_score bool": (build(min_score=True), ValueError, r"min_score=True must"),
    "min_score NaN": (build(min_score=float("nan")), ValueError, r"min_score=nan must"),
}

INPUTS = {
    "None": (None, TypeError, r"inputs is NoneType; a prompt is text"),
    "a number": (3.5, TypeError, r"inputs is float; a prompt is text"),
    "an empty string": ("", ValueError, r"inputs is an empty string; pass"),
    "an empty list": ([], ValueError, r"inputs is empty; pass at least one prompt"),
    "an empty prompt": ([[]], ValueError, r"inputs\[0\] has no tokens; pass"),
    "an empty string in a list": ([""], ValueError, r"inputs\[0\] is an empty string; pass"),
    "an empty tensor": (torch.zeros(1, 0, dtype=torch.long), ValueError, r"inputs.*no tokens; pass"),
    "a batch of no rows": (torch.zeros(0, 4, dtype=torch.long), ValueError, r"inputs is empty; pass"),
    "a scalar tensor": (torch.tensor(5), ValueError, r"inputs has shape \[\], expected"),
    "a bool tensor": (torch.ones(1, 3, dtype=torch.bool), TypeError, r"inputs has dtype torch\.bool, expected integer"),
    "a float tensor": (torch.ones(1, 3), TypeError, r"inputs has dtype torch\.float32, expected integer"),
    "a 3-D tensor": (torch.ones(1, 1, 3, dtype=torch.long), ValueError, r"inputs has shape \[1, 1, 3\], expected"),
    "a batch inside a list": ([torch.ones(2, 3, dtype=torch.long)], ValueError, r"inputs\[0\].*shape \[2, 3\]"),
    "an id beyond the vocabulary": ([1, VOCAB], ValueError, rf"inputs holds token id {VOCAB}.*0 \.\. {VOCAB - 1}.*tokenizer"),
    "a negative id": ([[1], [2, -1]], ValueError, r"inputs\[1\] holds token id -1"),
    "text among ids": ([5, "a"], TypeError, r"inputs mixes in str 'a'; a prompt is"),
    "ids among texts": (["a", 5], TypeError, r"inputs\[1\] is int; a prompt is"),
    "a float among ids": ([5, 6.0], TypeError, r"inputs mixes in float 6\.0"),
    "a bool among ids": ([5, True], TypeError, r"inputs mixes in bool True"),
    "a mapping without ids": ({"text": "a"}, TypeError, r"keys \['text'\], expected.*input_ids"),
    "a mask of another length": ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, ValueError, r"attention_mask and input_ids have different shapes"),
    "a mask of other rows": ({"input_ids": [[1, 2]], "attention_mask": [[1, 1], [1, 1]]}, ValueError, r"attention_mask and input_ids have different shapes"),
    "a mask that hides everything": ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, ValueError, r"inputs\[0\] has no tokens"),
    "a chat message without role": ([{"content": "hi"}], TypeError, r"inputs\[0\].*'role'"),
    "longer than the context": ([1] * 513, ValueError, r"513 tokens.*context.*512; shorten"),
    "no room in the context": ([1] * 510, ValueError, r"max_new_tokens=8 .*510.*context of 512; set max_new_tokens to at most 2"),
}

ARGUMENTS = {
    "no new tokens": (dict(max_new_tokens=0), ValueError, r"max_new_tokens=0 must be"),
    "negative new tokens": (dict(max_new_tokens=-1), ValueError, r"max_new_tokens=-1 must be"),
    "fractional new tokens": (dict(max_new_tokens=2.5), ValueError, r"max_new_tokens=2\.5 must be an integer"),
    "max_length below the prompt": (dict(max_new_tokens=None, max_length=4), ValueError, r"8.*`max_length` is set to 4.*`max_new_tokens`"),
    "beams": (dict(num_beams=2), ValueError, r"num_beams=2.*model\.generate"),
    "guidance": (dict(guidance_scale=2.0), ValueError, r"guidance_scale=2\.0.*model\.generate"),
    "equal sequences": (dict(num_return_sequences=2), ValueError, r"do_sample.*num_return_sequences.*2"),
    "no sequences": (dict(num_return_sequences=0), ValueError, r"num_return_sequences=0"),
    "temperature 0": (dict(do_sample=True, temperature=0.0), ValueError, r"temperature.*0.*do_sample=False"),
    "temperature negative": (dict(do_sample=True, temperature=-1.0), ValueError, r"temperature.*-1"),
    "top_p": (dict(do_sample=True, top_p=1.5), ValueError, r"top_p.*1\.5"),
    "top_k": (dict(do_sample=True, top_k=-1), ValueError, r"top_k.*-1"),
    "min_p": (dict(do_sample=True, min_p=2.0), ValueError, r"min_p.*2\.0"),
    "repetition_penalty": (dict(repetition_penalty=-1.0), ValueError, r"penalty.*-1\.0"),
    "presence_penalty text": (dict(presence_penalty="1"), ValueError, r"presence_penalty='1' must be"),
    "frequency_penalty NaN": (dict(frequency_penalty=float("nan")), ValueError, r"frequency_penalty=nan"),
    "speculate text": (dict(speculate="yes"), ValueError, r"speculate='yes' must be 'auto'"),
    "speculate negative": (dict(speculate=-2), ValueError, r"speculate=-2 must be"),
    "seed negative": (dict(seed=-1), ValueError, r"seed=-1 must be"),
    "seed fractional": (dict(seed=1.5), ValueError, r"seed=1\.5 must be"),
    "empty stop string": (dict(stop=[""]), ValueError, r"stop=\[''\] must be"),
    "stop is a number": (dict(stop=[3]), ValueError, r"stop=\[3\] must be"),
    "stop is not a list": (dict(stop=3), ValueError, r"stop=3 must be"),
    "logprobs negative": (dict(logprobs=-1), ValueError, r"logprobs=-1 must be"),
    "logprobs beyond the vocabulary": (dict(logprobs=VOCAB + 1), ValueError, rf"logprobs={VOCAB + 1} must be.*{VOCAB}"),
    "output_scores number": (dict(output_scores=1), TypeError, r"output_scores=1 must be True or False"),
    "output_scores with a penalty of ours": (dict(output_scores=True, presence_penalty=0.5), ValueError, r"output_scores=True with presence_penalty=0\.5.*drop one"),
    "logprobs bool": (dict(logprobs=True), ValueError, r"logprobs=True must be"),
    "unknown keyword": (dict(max_tokens=3), (TypeError, ValueError), r"max_tokens"),
    "configuration of another type": (dict(generation_config={"max_new_tokens": 3}), TypeError, r"generation_config is dict.*GenerationConfig"),
    "processor list of another type": (dict(logits_processor=Forbid()), TypeError, r"logits_processor is Forbid.*list"),
    "criteria of another type": (dict(stopping_criteria=[3]), TypeError, r"stopping_criteria.*int"),
    "streamer without methods": (dict(streamer=Silent()), TypeError, r"streamer is Silent.*put.*end"),
    "processors that leave nothing": (dict(logits_processor=transformers.LogitsProcessorList([Forbid()])), InvalidLogitsError, r"output position 0.*processors"),
    "nothing left to sample": (dict(do_sample=True, logits_processor=transformers.LogitsProcessorList([Forbid()])), InvalidLogitsError, r"output position 0.*processors"),
}


@pytest.fixture(scope="module")
def expected(llama):
    return plain_tokens(llama, PROMPT, **GOOD)


@pytest.fixture(scope="module")
def generator(llama, tokenizer):
    return SpeculativeGenerator(llama, tokenizer)


def assert_refused(call, error, message, generator, expected):
    with pytest.raises(error) as caught:
        call()
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)
    assert generator.generate(PROMPT, **GOOD).token_ids == expected


@pytest.mark.parametrize("call, error, message", CONSTRUCTION.values(), ids=CONSTRUCTION)
def test_construction(llama, generator, expected, call, error, message):
    assert_refused(lambda: call(llama), error, message, generator, expected)


@pytest.mark.parametrize("inputs, error, message", INPUTS.values(), ids=INPUTS)
def test_inputs(generator, expected, inputs, error, message):
    assert_refused(lambda: generator.generate(inputs, **GOOD), error, message, generator, expected)
    assert_refused(lambda: generator.stream(inputs, **GOOD), error, message, generator, expected)


@pytest.mark.parametrize("arguments, error, message", ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(generator, expected, arguments, error, message):
    assert_refused(lambda: generator.generate(PROMPT, **{**GOOD, **arguments}), error, message, generator, expected)


@pytest.mark.parametrize("inputs", ["text", ["text"], [{"role": "user", "content": "hi"}]])
def test_text_without_a_tokenizer(llama, expected, inputs):
    generator = SpeculativeGenerator(llama)
    assert_refused(lambda: generator.generate(inputs, **GOOD), ValueError, "no tokenizer; construct it with tokenizer=", generator, expected)
    assert_refused(lambda: generator.generate(PROMPT, stop="x", **GOOD), ValueError, r"stop=\['x'\] needs a tokenizer", generator, expected)
    assert_refused(lambda: generator.stream(PROMPT, **GOOD), ValueError, "no tokenizer; construct it with tokenizer=", generator, expected)


def test_a_streamer_with_a_batch(generator, expected):
    streamer = transformers.TextStreamer(generator.tokenizer)
    assert_refused(lambda: generator.generate([PROMPT, PROMPT], streamer=streamer, **GOOD), ValueError, "streamer works for one prompt, got 2", generator, expected)
    several = dict(do_sample=True, num_return_sequences=2, streamer=streamer)
    assert_refused(lambda: generator.generate(PROMPT, **several, **GOOD), ValueError, "streamer.*one", generator, expected)


@pytest.mark.parametrize("verifier, message", [("greedy", "do_sample=True.*use verifier='auto'"), ("chain", "drawn from a law.*'point'"), ("block", "drawn from a law"), ("recursive", "drawn from a law")])
def test_verifiers_that_do_not_fit_the_drafts(llama, expected, verifier, message):
    generator = SpeculativeGenerator(llama, verifier=verifier, min_score=0.0)
    assert_refused(lambda: generator.generate(PROMPT, do_sample=True, seed=0, speculate=8, **GOOD), ValueError, message, generator, expected)


@pytest.mark.parametrize(
    "tokens, parents, message",
    [([1, 2], [1, -1], "topological"), ([1, 2], [-1, 5], "topological|parent"), ([1, 1], [-1, -1], "sibling"), ([VOCAB], [-1], "vocabulary"), ([-3], [-1], "vocabulary"), ([1, 2], [-1], "parents|length|size")],
)
def test_drafts_that_are_no_tree(llama, generator, expected, tokens, parents, message):
    broken = SpeculativeGenerator(llama, drafter=FixedDrafter(tokens, parents))
    with pytest.raises(ValueError, match=message):
        broken.generate(PROMPT, **GOOD)
    assert broken.generate(PROMPT, speculate=False, **GOOD).token_ids == expected


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_model_that_returns_nan(do_sample):
    model = small_model()
    generator = SpeculativeGenerator(model, target="hf")  # the other target has its own copy of the weights
    weight = model.get_output_embeddings().weight
    good = generator.generate(PROMPT, **GOOD).token_ids
    before = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
    with pytest.raises(InvalidLogitsError, match="output position 0: the model returned NaN.*check the weights"):
        generator.generate(PROMPT, do_sample=do_sample, **GOOD)
    with pytest.raises(InvalidLogitsError, match="NaN"):
        SpeculativeGenerator(model, target="hf")
    with pytest.raises(InvalidLogitsError, match="output position 0: the model returned NaN.*check the weights"):
        SpeculativeGenerator(model, target="native").generate(PROMPT, do_sample=do_sample, **GOOD)
    with torch.no_grad():
        weight.copy_(before)
    assert generator.generate(PROMPT, **GOOD).token_ids == good


def test_an_error_in_a_user_processor_passes_through(generator, expected):
    class Broken(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            raise RuntimeError("mine")

    assert_refused(lambda: generator.generate(PROMPT, logits_processor=transformers.LogitsProcessorList([Broken()]), **GOOD), RuntimeError, "mine", generator, expected)


@pytest.mark.parametrize("read", [0, 1, 3])
def test_a_cancelled_stream(generator, expected, read):
    stream = generator.stream(PROMPT, max_new_tokens=50, eos_token_id=-1)
    for _ in range(read):
        next(stream)
    stream.close()
    assert list(stream) == [] and generator.generate(PROMPT, **GOOD).token_ids == expected


def test_a_drafter_that_ignores_its_budget(llama):
    class Deep:
        name = "deep"
        begin = observe = end = lambda *arguments: None

        def propose(self, state, rows, budgets):
            return [Draft.chain([1] * 9, [1.0] * 9) for _ in rows]

    with pytest.raises(ValueError, match="drafter 'deep' proposed a path of 9 tokens"):
        SpeculativeGenerator(llama, drafter=Deep()).generate([1, 2, 3], max_new_tokens=4, speculate=9)


def test_custom_generate_past_the_context(llama):
    generator = SpeculativeGenerator(llama)
    with pytest.raises(ValueError, match="exceeds the model's context of 512"):
        llama.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=600, custom_generate=generator.custom_generate)


@pytest.mark.parametrize("make, message", [
    (lambda g: g.generate([1, 2], speculate=10**9), "speculate=1000000000 must be .* at most 4096"),
    (lambda g: SpeculativeGenerator(g.model, max_draft=10**9), "max_draft=1000000000 must be an integer from 0 to 4096"),
])  # fmt: skip
def test_drafts_that_no_cache_could_hold(make, message, llama):
    with pytest.raises(ValueError, match=message):
        make(SpeculativeGenerator(llama))
