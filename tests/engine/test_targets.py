import numpy as np
import pytest
import torch
import transformers

from fastdecode import SpeculativeGenerator, UnsupportedModelError
from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.base import prefill_rows
from fastdecode.targets.hf import HFTarget
from fastdecode.targets.slots import cache_keyword
from tests.models import FAMILIES, random_prompt, small_model


def tree_of(pending: list[int], shapes: list[list[tuple[int, int]]]) -> DraftTree:
    """Trees from (token, parent) lists, one per row."""
    drafts = [Draft(np.array([t for t, _ in s], np.int32), np.array([p for _, p in s], np.int32), np.ones(len(s), np.float32)) for s in shapes]
    return DraftTree.build(pending, drafts)


SHAPES = [[(3, -1), (4, -1), (5, 1), (6, 1), (7, 3)], [(8, -1)], []]


def plain_logits(model, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=False).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 2e-4), (torch.float64, 1e-8)])
def test_tree_logits_equal_plain_forward_on_every_path(family, dtype, bound):
    model = small_model(family, dtype=dtype)
    target = HFTarget(model)
    prompts = [random_prompt(n, seed=n) for n in (21, 2, 9)]
    state = target.new_state(3, 8)  # too small on purpose: it has to grow
    for row, prompt in enumerate(prompts):
        target.prefill(state, row, prompt[:-1])
    tree = tree_of([p[-1] for p in prompts], SHAPES)
    logits = target.forward(state, [0, 1, 2], tree)
    for row, prompt in enumerate(prompts):
        for node in range(int(tree.num_nodes[row])):
            want = plain_logits(model, prompt + tree.path_tokens(row, node))[-1]
            assert (logits[row, node] - want).abs().max() < bound


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_after_commit_the_cache_equals_a_fresh_forward(family):
    model = small_model(family)
    target = HFTarget(model)
    prompts = [random_prompt(n, seed=n) for n in (14, 5, 30)]
    state = target.new_state(3, 64)
    for row, prompt in enumerate(prompts):
        target.prefill(state, row, prompt[:-1])
    tree = tree_of([p[-1] for p in prompts], SHAPES)
    target.forward(state, [0, 1, 2], tree)
    target.commit(state, [0, 1, 2], [[0, 2, 4, 5], [0, 1], [0]])
    kept = [[4, 6, 7], [8], []]
    assert state.lengths == [len(p) + len(k) for p, k in zip(prompts, kept)]
    follow = tree_of([11, 12], [[], []])
    logits = target.forward(state, [0, 2], follow)  # a subset of the rows
    for i, (row, token) in enumerate([(0, 11), (2, 12)]):
        want = plain_logits(model, prompts[row] + kept[row] + [token])[-1]
        assert (logits[i, 0] - want).abs().max() < 2e-4


def test_long_prompts_are_prefilled_in_chunks(monkeypatch):
    monkeypatch.setattr("fastdecode.targets.hf.PREFILL_CHUNK", 16)
    for family in ("llama", "mistral"):
        model = small_model(family)
        target = HFTarget(model)
        prompt = random_prompt(75, seed=1)
        state = target.new_state(1, 16)
        target.prefill(state, 0, prompt[:-1])
        logits = target.forward(state, [0], tree_of([prompt[-1]], [[]]))
        assert (logits[0, 0] - plain_logits(model, prompt)[-1]).abs().max() < 2e-4


def test_the_model_is_left_as_it_was(llama):
    before = llama.config._attn_implementation
    want = plain_logits(llama, [1, 2, 3])
    SpeculativeGenerator(llama).generate([1, 2, 3], max_new_tokens=4)
    assert llama.config._attn_implementation == before and torch.equal(plain_logits(llama, [1, 2, 3]), want)


def test_models_that_cannot_be_rolled_back_are_refused():
    config = transformers.MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=1, vocab_size=64)
    with pytest.raises(UnsupportedModelError, match="cannot be rolled back"):
        HFTarget(transformers.MambaForCausalLM(config).eval())
    seq2seq = transformers.T5Config(vocab_size=64, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)
    with pytest.raises(UnsupportedModelError, match="decoder-only"):
        HFTarget(transformers.T5ForConditionalGeneration(seq2seq).eval())
    with pytest.raises(ValueError, match="training mode"):
        HFTarget(small_model().train())


def test_attention_that_works_differently_is_refused_not_decoded_wrongly():
    model = small_model()
    attention = model.model.layers[1].self_attn
    attention.scaling *= 1.0
    forward = type(attention).forward

    class Odd(type(attention)):
        def forward(self, hidden_states, *args, **kwargs):
            shift = 0.0 if kwargs.get(cache_keyword(model)) is None else 1.0  # stands for any behaviour that depends on the cache
            return forward(self, hidden_states + shift, *args, **kwargs)

    attention.__class__ = Odd
    with pytest.raises(UnsupportedModelError, match="differ from a plain forward pass"):
        HFTarget(model)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_equal_prompts_are_prefilled_once(family, monkeypatch):
    target = HFTarget(small_model(family))
    prompts = [random_prompt(n, seed=n)[:-1] for n in (21, 9, 21, 1, 9, 1)]
    one_by_one, shared = target.new_state(6, 32), target.new_state(6, 32)
    for row, prompt in enumerate(prompts):
        target.prefill(one_by_one, row, prompt)
    filled = []
    prefill = target.prefill
    monkeypatch.setattr(target, "prefill", lambda state, row, tokens: (filled.append(row), prefill(state, row, tokens)))
    prefill_rows(target, shared, prompts)
    assert filled == [0, 1, 3] and shared.lengths == one_by_one.lengths
    for a, b in zip(shared.buffers(), one_by_one.buffers()):
        assert a.equal(b)
