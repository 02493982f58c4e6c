"""The text is the same, whatever drafts it, however many rows run and wherever it ends."""

import pytest
import torch
import transformers

from fastdecode import SpeculativeGenerator
from fastdecode.speculative.drafters import ModelDrafter, PromptLookupDrafter, SuffixDrafter
from tests.models import EOS, FAMILIES, PAD, OracleDrafter, plain_tokens, random_prompt, small_model

pytestmark = pytest.mark.usefixtures("both_targets")
PROMPTS = [random_prompt(n, seed=n) for n in (12, 5, 31, 1, 18, 2, 9, 24)]
DRAFTERS = {
    "none": lambda draft: "none",
    "suffix": lambda draft: "suffix",
    "prompt_lookup": lambda draft: "prompt_lookup",
    "adaptive_trigram": lambda draft: "adaptive_trigram",
    "chain": lambda draft: PromptLookupDrafter(branches=1),
    "remembering": lambda draft: SuffixDrafter(corpus=[PROMPTS[2]], remember=True),
    "model": lambda draft: ModelDrafter(draft),
    "composite": lambda draft: ["suffix", "adaptive_trigram", ModelDrafter(draft, num_tokens=3)],
}


@pytest.fixture(scope="module")
def answers(llama):
    return [plain_tokens(llama, p, max_new_tokens=40, eos_token_id=-1) for p in PROMPTS]


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("batch", [1, 8])
def test_greedy_equals_transformers(llama, draft_llama, answers, name, batch):
    generator = SpeculativeGenerator(llama, drafter=DRAFTERS[name](draft_llama))
    for start in range(0, 8, batch):
        results = generator.generate(PROMPTS[start : start + batch], max_new_tokens=40, eos_token_id=-1, speculate=12)
        assert [r.token_ids for r in results] == answers[start : start + batch]
        assert all(r.finish_reason == "length" and r.stats.lossless for r in results)
    assert name in ("none",) or any(r.stats.accepted for r in results)


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family):
    model = small_model(family)
    results = SpeculativeGenerator(model).generate(PROMPTS[:3], max_new_tokens=24, eos_token_id=-1, speculate=12)
    assert [r.token_ids for r in results] == [plain_tokens(model, p, max_new_tokens=24, eos_token_id=-1) for p in PROMPTS[:3]]


def test_bfloat16_runs_and_agrees_with_its_own_plain_decoding_where_logits_are_apart():
    model = small_model(dtype=torch.bfloat16, scale=30.0)
    generator = SpeculativeGenerator(model)
    plain = generator.generate(PROMPTS[0], max_new_tokens=16, speculate=False, logprobs=2)
    fast = generator.generate(PROMPTS[0], max_new_tokens=16)
    clear = next((i for i, t in enumerate(plain.logprobs) if t.top[0][1] - t.top[1][1] < 0.5), 16)
    assert fast.token_ids[:clear] == plain.token_ids[:clear]


@pytest.mark.parametrize("wrong_from", [None, 0, 3, 5])
def test_accepted_blocks_with_wrong_siblings(llama, answers, wrong_from):
    generator = SpeculativeGenerator(llama, drafter=OracleDrafter(answers, wrong_from=wrong_from))
    results = generator.generate(PROMPTS, max_new_tokens=40, eos_token_id=-1, speculate=12)
    assert [r.token_ids for r in results] == answers
    stats = results[0].stats
    assert stats.accepted == {None: 34, 0: 0, 3: 3, 5: 5}[wrong_from] and stats.emitted == 40
    if wrong_from is None:
        assert stats.rounds == 6 and stats.mean_acceptance_length == pytest.approx(40 / 6)


def test_max_new_tokens_reached_in_mid_block(llama, answers):
    generator = SpeculativeGenerator(llama, drafter=OracleDrafter(answers))
    for limit in range(1, 10):
        result = generator.generate(PROMPTS[0], max_new_tokens=limit, eos_token_id=-1, speculate=12)
        assert result.token_ids == answers[0][:limit] and result.finish_reason == "length"


@pytest.mark.parametrize("position", [0, 1, 3, 6, 7])
def test_eos_accepted_in_mid_block(llama, answers, position):
    eos = answers[0][position]
    first = answers[0].index(eos)
    generator = SpeculativeGenerator(llama, drafter=OracleDrafter(answers))
    result = generator.generate(PROMPTS[0], max_new_tokens=40, eos_token_id=[EOS, eos], speculate=12)
    assert result.token_ids == answers[0][: first + 1] and result.finish_reason == "eos"
    assert result.token_ids == plain_tokens(llama, PROMPTS[0], max_new_tokens=40, eos_token_id=[EOS, eos])


def test_rows_finish_at_different_times(llama, answers):
    eos = answers[1][4]
    generator = SpeculativeGenerator(llama, drafter=OracleDrafter(answers))
    results = generator.generate(PROMPTS, max_new_tokens=40, eos_token_id=eos, speculate=12)
    assert [r.token_ids for r in results] == [plain_tokens(llama, p, max_new_tokens=40, eos_token_id=eos) for p in PROMPTS]
    assert len({len(r.token_ids) for r in results}) > 1


def test_penalties_and_other_processors_use_each_nodes_own_prefix(llama):
    for settings in (
        dict(repetition_penalty=1.7),
        dict(no_repeat_ngram_size=2),
        dict(repetition_penalty=1.3, no_repeat_ngram_size=3, min_new_tokens=12, eos_token_id=[EOS, 11]),
        dict(bad_words_ids=[[7], [12, 3]], suppress_tokens=[5, 6]),
        dict(sequence_bias={(9,): 5.0}),
    ):
        settings = {"max_new_tokens": 30, "eos_token_id": -1, **settings}
        want = [plain_tokens(llama, p, **settings) for p in PROMPTS[:4]]
        for drafter in (OracleDrafter(want), "suffix"):
            results = SpeculativeGenerator(llama, drafter=drafter).generate(PROMPTS[:4], speculate=12, **settings)
            assert [r.token_ids for r in results] == want, settings


def test_presence_and_frequency_penalties_count_generated_tokens_only(llama):
    generator = SpeculativeGenerator(llama)
    settings = dict(max_new_tokens=24, eos_token_id=-1, presence_penalty=3.0, frequency_penalty=1.5)
    plain = generator.generate(PROMPTS[0], speculate=False, **settings)
    assert plain.token_ids == SpeculativeGenerator(llama, drafter=OracleDrafter([plain.token_ids])).generate(PROMPTS[0], **settings).token_ids
    logits = lambda tokens: llama(torch.tensor([PROMPTS[0] + tokens])).logits[0, -1].detach()
    emitted: list[int] = []
    for token in plain.token_ids[:10]:
        row = logits(emitted)
        for t in set(emitted):
            row[t] -= 3.0 + 1.5 * emitted.count(t)
        assert int(row.argmax()) == token
        emitted.append(token)


def test_user_processors_and_criteria(llama, answers):
    class ForbidEven(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, ::2] = -float("inf")
            return scores

    class Length(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= len(PROMPTS[0]) + 9)

    generator = SpeculativeGenerator(llama)
    processors = transformers.LogitsProcessorList([ForbidEven()])
    want = plain_tokens(llama, PROMPTS[0], max_new_tokens=20, eos_token_id=-1, logits_processor=processors)
    got = generator.generate(PROMPTS[0], max_new_tokens=20, eos_token_id=-1, logits_processor=processors)
    assert got.token_ids == want and all(t % 2 for t in want)
    criteria = transformers.StoppingCriteriaList([Length()])
    got = SpeculativeGenerator(llama, drafter=OracleDrafter(answers)).generate(PROMPTS[0], max_new_tokens=40, eos_token_id=-1, stopping_criteria=criteria, speculate=12)
    assert got.token_ids == answers[0][:9] and got.finish_reason == "criteria"


def test_prefix_allowed_tokens(llama):
    allow = lambda batch, ids: [1, 2, 3] if len(ids) % 2 else [4, 5]
    want = plain_tokens(llama, PROMPTS[0], max_new_tokens=12, eos_token_id=-1, prefix_allowed_tokens_fn=allow)
    got = SpeculativeGenerator(llama, drafter=OracleDrafter([want])).generate(PROMPTS[0], max_new_tokens=12, eos_token_id=-1, prefix_allowed_tokens_fn=allow)
    assert got.token_ids == want


@pytest.mark.parametrize("settings", [dict(), dict(temperature=0.7, top_k=20), dict(top_p=0.8, repetition_penalty=1.2), dict(min_p=0.05, temperature=1.3)])
def test_sampled_tokens_do_not_depend_on_deterministic_drafts_or_batches(settings):
    model = small_model(scale=1.0)
    settings = dict(max_new_tokens=30, do_sample=True, eos_token_id=-1, seed=5, **settings)
    plain = [SpeculativeGenerator(model, drafter="none").generate(p, **settings).token_ids for p in PROMPTS]
    assert len({tuple(t) for t in plain}) == len(plain)
    for drafter in ("suffix", "prompt_lookup", OracleDrafter(plain)):
        generator = SpeculativeGenerator(model, drafter=drafter)
        assert [r.token_ids for r in generator.generate(PROMPTS, speculate=12, **settings)] == plain


def test_several_sequences_of_one_prompt_differ_and_repeat_with_the_seed(llama):
    generator = SpeculativeGenerator(llama)
    settings = dict(max_new_tokens=12, do_sample=True, temperature=3.0, num_return_sequences=3, seed=9)
    first, second = (generator.generate(PROMPTS[0], **settings) for _ in range(2))
    assert len({tuple(r.token_ids) for r in first}) == 3 and [r.token_ids for r in first] == [r.token_ids for r in second]
    torch.manual_seed(3)
    a = generator.generate(PROMPTS[0], max_new_tokens=12, do_sample=True, temperature=3.0)
    torch.manual_seed(3)
    assert generator.generate(PROMPTS[0], max_new_tokens=12, do_sample=True, temperature=3.0).token_ids == a.token_ids


def test_padded_draft_vocabulary(llama, answers):
    draft = small_model(vocab_size=320)
    with torch.no_grad():
        draft.get_output_embeddings().weight[259:] = 5.0  # would win every draft if it were not cut off
    for kind in (dict(), dict(do_sample=True, seed=1)):
        result = SpeculativeGenerator(llama, drafter=draft).generate(PROMPTS[0], max_new_tokens=20, eos_token_id=-1, speculate=6, **kind)
        assert kind or result.token_ids == answers[0][:20]
    wide = small_model(vocab_size=320)
    want = plain_tokens(wide, PROMPTS[0], max_new_tokens=20, eos_token_id=-1)
    assert SpeculativeGenerator(wide, drafter=llama).generate(PROMPTS[0], max_new_tokens=20, eos_token_id=-1).token_ids == want


def test_custom_generate(llama, answers):
    generator = SpeculativeGenerator(llama)
    padded = torch.tensor([[PAD] * (12 - len(p)) + p for p in (PROMPTS[0], PROMPTS[1])])
    mask = torch.tensor([[0] * (12 - len(p)) + [1] * len(p) for p in (PROMPTS[0], PROMPTS[1])])
    out = llama.generate(padded, attention_mask=mask, max_new_tokens=20, eos_token_id=-1, custom_generate=generator.custom_generate)
    assert out[:, :12].equal(padded) and out[:, 12:].tolist() == [a[:20] for a in answers[:2]]


def test_speculate_argument(llama, answers):
    generator = SpeculativeGenerator(llama)
    for speculate in ("auto", True, False, 0, 3):
        result = generator.generate(PROMPTS[0], max_new_tokens=40, eos_token_id=-1, speculate=speculate)
        assert result.token_ids == answers[0]
        assert speculate not in (False, 0) or result.stats.drafted == 0
        assert speculate is True or speculate != 3 or 0 < result.stats.drafted <= 3 * result.stats.rounds


def test_chat_turns_reuse_the_cache(llama, tokenizer):
    generator = SpeculativeGenerator(llama, tokenizer)
    messages = [{"role": "user", "content": "hello there"}]
    first = generator.generate(messages, max_new_tokens=10, eos_token_id=-1)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"] + first.token_ids + [65, 66]
    again = generator.generate(ids, max_new_tokens=10, eos_token_id=-1)
    assert again.stats.reused_tokens == len(ids) - 3 and again.token_ids == plain_tokens(llama, ids, max_new_tokens=10, eos_token_id=-1)
    other = generator.generate([1, 2, 3], max_new_tokens=5, eos_token_id=-1)
    assert other.stats.reused_tokens == 0 and other.token_ids == plain_tokens(llama, [1, 2, 3], max_new_tokens=5, eos_token_id=-1)


def test_logprobs(llama):
    result = SpeculativeGenerator(llama).generate(PROMPTS[0], max_new_tokens=12, eos_token_id=-1, logprobs=3)
    logp = llama(torch.tensor([PROMPTS[0] + result.token_ids])).logits[0].detach().log_softmax(-1)[len(PROMPTS[0]) - 1 :]
    for i, (token, entry) in enumerate(zip(result.token_ids, result.logprobs)):
        assert entry.logprob == pytest.approx(float(logp[i, token]), abs=1e-3)
        assert [t for t, _ in entry.top] == logp[i].topk(3).indices.tolist()


def test_threads_may_share_a_generator(llama, answers):
    from concurrent.futures import ThreadPoolExecutor

    generator = SpeculativeGenerator(llama)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda p: generator.generate(p, max_new_tokens=40, eos_token_id=-1).token_ids, PROMPTS))
    assert results == answers


@pytest.mark.parametrize("settings", [
    {"do_sample": False},
    {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 3},
])  # fmt: skip
def test_scores_are_those_of_transformers(llama, settings):
    prompts = PROMPTS[:2]
    results = SpeculativeGenerator(llama).generate(prompts, max_new_tokens=12, eos_token_id=-1, output_scores=True, speculate=8, **settings)
    settings = {k: v for k, v in settings.items() if k != "seed"}
    for prompt, result in zip(prompts, results):
        assert result.scores.shape == (12, llama.config.vocab_size) and result.scores.dtype == torch.float32
        for i in (0, 5, 11):
            ids = torch.tensor([prompt + result.token_ids[:i]])
            want = llama.generate(ids, max_new_tokens=1, pad_token_id=PAD, output_scores=True, return_dict_in_generate=True, **settings).scores[0][0]
            assert (result.scores[i].isinf() == want.isinf()).all()
            finite = want.isfinite()
            assert (result.scores[i][finite] - want[finite]).abs().max() < 2e-4
            assert result.scores[i][result.token_ids[i]].isfinite()
    assert SpeculativeGenerator(llama).generate(prompts[0], max_new_tokens=2).scores is None
