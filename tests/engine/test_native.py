"""The compiled runtime: close to transformers, and equal to itself bit for bit however a token is computed."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastdecode import _C, SpeculativeGenerator, UnsupportedModelError, ops
from fastdecode.ops._dispatch import CPU_LEVELS, implementation
from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.native import NativeTarget
from fastdecode.targets.packing import NATIVE_FAMILIES
from tests import smollm2
from tests.diffusion.models import checkpoint
from tests.models import (
    FAMILIES,
    VOCAB,
    OracleDrafter,
    byte_tokenizer,
    random_prompt,
    small_model,
)

NATIVE = [f for f in FAMILIES if f != "gpt2"]
LEVELS = [level for level in CPU_LEVELS if CPU_LEVELS.index(level) <= CPU_LEVELS.index(_C.isa())]
WEIGHTS = ["float32", "bfloat16", "int8"]


def random_tree(nodes: int, seed: int) -> Draft:
    generator = np.random.default_rng(seed)
    parents = np.array([generator.integers(max(-1, i - 4), i) for i in range(nodes)], np.int32)
    tokens = np.arange(nodes, dtype=np.int32) % VOCAB  # siblings differ
    return Draft(tokens, parents, np.ones(nodes, np.float32))


def step_by_step(target: NativeTarget, tokens: list[int]) -> torch.Tensor:
    """Logits [V] after the last token, one token per forward pass."""
    state = target.new_state(1, 1)  # it has to grow
    for token in tokens[:-1]:
        target.prefill(state, 0, [token])
    return target.forward(state, [0], DraftTree.build([tokens[-1]], [Draft.empty()]))[0, 0].clone()


def plain_logits(model, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=False).logits[0]


def changed(family: str, **changes):
    """A small model with biases and norms that matter."""
    model = small_model(family, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return model


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", NATIVE)
def test_logits_are_close_to_transformers(family, level):
    model = changed(family)
    tokens = random_prompt(40, seed=3)
    want = plain_logits(model, tokens)
    with implementation(level):
        target = NativeTarget(model)
        state = target.new_state(1, 64)
        got = target.forward(state, [0], DraftTree.build([tokens[0]], [Draft.chain(tokens[1:], [1.0] * 39)]))[0]
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


def rounded_to_int8(model):
    """The model with the weights that the runtime's int8 stands for."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed" in name and not model.config.tie_word_embeddings:
                weight.copy_(weight.bfloat16())
            elif weight.dim() == 2:
                most = weight.abs().amax(1, keepdim=True).clamp(min=1e-30)
                weight.copy_((weight * (127 / most)).round() * (most / 127))
    return model


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("family", NATIVE)
def test_smaller_weights_compute_the_rounded_model(family, weights, level):
    model = changed(family)
    tokens = random_prompt(40, seed=3)
    with implementation(level):
        target = NativeTarget(model, weights)
        got = target.forward(target.new_state(1, 64), [0], DraftTree.build([tokens[0]], [Draft.chain(tokens[1:], [1.0] * 39)]))[0]
    rounded = rounded_to_int8(model) if weights == "int8" else model.bfloat16().float()
    want = plain_logits(rounded, tokens)
    assert (got - want).abs().max() < 0.015 * want.abs().max()  # of keys and values in bfloat16
    assert (got - want).square().mean().sqrt() < 0.002 * want.abs().max()


@pytest.mark.parametrize("change", [
    {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    {"attention_bias": True, "mlp_bias": True},
    {"tie_word_embeddings": True},
    {"num_key_value_heads": 1},
    {"head_dim": 48},
    {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 5},
    {"intermediate_size": 112, "vocab_size": 271},
])  # fmt: skip
def test_variants_of_llama(change):
    model = changed("llama", **change)
    tokens = random_prompt(90, seed=4)
    want = plain_logits(model, tokens)[-1]
    assert (step_by_step(NativeTarget(model), tokens) - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", NATIVE)
def test_logits_do_not_depend_on_how_they_are_computed(family, weights, level):
    prompts = [random_prompt(n, seed=n) for n in (37, 1, 16, 70)]
    drafts = [random_tree(n, seed=n) for n in (63, 0, 5, 17)]
    with implementation(level):
        target = NativeTarget(changed(family), weights)
        state = target.new_state(4, 8)
        for row, prompt in enumerate(prompts):
            target.prefill(state, row, prompt[:-1])
        tree = DraftTree.build([p[-1] for p in prompts], drafts)
        logits = target.forward(state, [0, 1, 2, 3], tree).clone()
        for row, prompt in enumerate(prompts):
            nodes = int(tree.num_nodes[row])
            assert not logits[row, nodes:].any()
            for node in {0, nodes // 2, nodes - 1}:
                assert torch.equal(logits[row, node], step_by_step(target, prompt + tree.path_tokens(row, node))), (row, node)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (8, 1)])
@pytest.mark.parametrize("dim", [16, 48, 64, 80, 128])
def test_head_dimensions_and_groups_bit_for_bit(dim, heads, level):
    """Behind more keys than values are laid out at a time, in trees whose tokens see even and odd numbers of them."""
    model = changed("llama", head_dim=dim, num_attention_heads=heads[0], num_key_value_heads=heads[1])
    prompt = random_prompt(291, seed=dim)
    with implementation(level):
        target = NativeTarget(model, "bfloat16")
        state = target.new_state(1, 8)
        target.prefill(state, 0, prompt[:-1])
        tree = DraftTree.build([prompt[-1]], [random_tree(18, seed=3)])
        logits = target.forward(state, [0], tree).clone()
        for node in (0, 1, int(tree.depth[0].argmax())):
            path = prompt + tree.path_tokens(0, node)
            assert torch.equal(logits[0, node], step_by_step(target, path)), node
    want = plain_logits(model.bfloat16().float(), prompt)[-1]
    assert (logits[0, 0] - want).abs().max() < 0.015 * want.abs().max()


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_long_contexts_cross_splits_bit_for_bit(family, weights):
    model = changed(family, max_position_embeddings=2048, **({"sliding_window": 300} if family == "mistral" else {}))
    target = NativeTarget(model, weights)
    prompt = random_prompt(1030, seed=5)
    one_by_one, chunked = target.new_state(1, 1), target.new_state(1, 1)
    for token in prompt[:-8]:
        target.prefill(one_by_one, 0, [token])
    target.prefill(chunked, 0, prompt[:-8])
    paths = DraftTree.build([prompt[-8]], [random_tree(40, seed=9)])  # positions 1022 to 1034 lie in two splits
    logits = [target.forward(state, [0], paths).clone() for state in (one_by_one, chunked)]
    assert torch.equal(*logits)
    node = int(paths.depth[0].argmax())
    want = step_by_step(target, prompt[:-7] + paths.path_tokens(0, node))
    assert torch.equal(logits[0][0, node], want) and int(paths.depth[0, node]) > 3
    if weights == "float32":
        reference = plain_logits(model, prompt[:-7] + paths.path_tokens(0, node))[-1]
        assert (want - reference).abs().max() < 1e-5 * reference.abs().max()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_logits_do_not_depend_on_the_number_of_threads(threads):
    target = NativeTarget(changed("gemma3", dtype=torch.bfloat16))
    tokens = random_prompt(40, seed=6)
    tree = DraftTree.build([7], [random_tree(33, seed=2)])
    results = []
    try:
        for n in (1, threads):
            _C.set_num_threads(n)
            state = target.new_state(1, 8)
            target.prefill(state, 0, tokens)
            results.append(target.forward(state, [0], tree).clone())
    finally:
        _C.set_num_threads(0)
    assert torch.equal(*results)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", NATIVE)
def test_the_cache_after_commits_equals_a_fresh_one(family, weights):
    target = NativeTarget(changed(family), weights)
    prompt = random_prompt(21, seed=8)
    state = target.new_state(2, 8)
    target.prefill(state, 1, prompt[:-1])
    text = list(prompt)
    for round in range(6):
        tree = DraftTree.build([text[-1]], [random_tree(20, seed=round)])
        target.forward(state, [1], tree)
        node = 7 + 2 * round
        nodes = [0]
        while node > 0:
            nodes.insert(1, node)
            node = int(tree.parents[0, node])
        target.commit(state, [1], [nodes])
        text += tree.path_tokens(0, nodes[-1]) + [round]
        assert state.lengths == [0, len(text) - 1]
    state.copy_row(1, 0)
    for row in (0, 1):
        got = target.forward(state, [row], DraftTree.build([text[-1]], [Draft.empty()]))[0, 0]
        assert torch.equal(got, step_by_step(target, text))


@pytest.mark.parametrize("family", NATIVE)
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_drafts_change_nothing(family, weights):
    """Random weights and rounding leave near ties everywhere; bit-equal logits do not care."""
    model = small_model(family, scale=1.0)
    prompts = [random_prompt(n, seed=n) for n in (12, 5, 31, 1)]
    plain = [SpeculativeGenerator(model, drafter="none", weights=weights).generate(p, max_new_tokens=30, eos_token_id=-1).token_ids for p in prompts]
    for drafter in ("suffix", "prompt_lookup", OracleDrafter(plain, wrong_from=9)):
        generator = SpeculativeGenerator(model, drafter=drafter, weights=weights)
        assert [r.token_ids for r in generator.generate(prompts, max_new_tokens=30, eos_token_id=-1, speculate=12)] == plain


def test_the_default_target():
    assert set(NATIVE_FAMILIES) == {small_model(f).config.model_type for f in NATIVE}
    assert isinstance(SpeculativeGenerator(small_model()).target, NativeTarget)


@pytest.mark.parametrize("make, reason", [
    (lambda: small_model("gpt2"), "model type 'gpt2' is not one of"),
    (lambda: small_model(dtype=torch.float64), "its dtype is torch.float64"),
    (lambda: small_model(hidden_act="relu"), "its activation is 'relu'"),
    (lambda: small_model(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "its rotary frequencies change"),
    (lambda: small_model(hidden_size=72, num_attention_heads=3, num_key_value_heads=3), "not a multiple of 16"),
    (lambda: small_model("gemma3", final_logit_softcapping=30.0), "it caps logits"),
])  # fmt: skip
def test_other_models_fall_back_with_one_line(make, reason, caplog):
    with caplog.at_level(logging.WARNING, "fastdecode"):
        generator = SpeculativeGenerator(make())
    assert not isinstance(generator.target, NativeTarget)
    assert len(caplog.records) == 1 and reason in caplog.text and "runs through transformers" in caplog.text
    assert len(generator.generate([1, 2, 3], max_new_tokens=3, eos_token_id=-1).token_ids) == 3


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family, changes", [("llama", {}), ("llama", {"vocab_size": 2500}), ("gemma3", {"vocab_size": 1025}), ("mistral", {"vocab_size": 1024})])
def test_statistics_of_logits_that_are_never_stored(family, changes, weights):
    model = changed(family, **changes)
    target = NativeTarget(model, weights)
    state = target.new_state(3, 8)
    prompts = [random_prompt(n, seed=n) for n in (9, 4, 30)]
    for row, prompt in enumerate(prompts):
        target.prefill(state, row, prompt[:-1])
    tree = DraftTree.build([p[-1] for p in prompts], [random_tree(n, seed=n) for n in (70, 0, 5)])
    rows = int(tree.num_nodes.sum())
    generator = torch.Generator().manual_seed(1)
    given = dict(
        ids=torch.randint(-1, target.vocab_size, (rows, 7), generator=generator, dtype=torch.int32),
        banned=torch.randint(-1, target.vocab_size, (8,), generator=generator, dtype=torch.int32),
        temperature=torch.rand(rows, generator=generator).mul_(2).sub_(0.3).clamp_(min=0),
        key=torch.randint(0, 1 << 40, (rows, 4), generator=generator),
    )
    logits = target.forward(state, [0, 1, 2], tree)
    stored = logits[torch.arange(tree.shape[1]) < tree.num_nodes[:, None]]
    for arguments in ({}, given):
        want = ops.vocab_stats(stored, **arguments)
        got = target.forward_stats(state, [0, 1, 2], tree, **arguments)
        assert torch.equal(got.ints, want.ints) and torch.equal(got.second, want.second)
        torch.testing.assert_close(got.floats, want.floats, rtol=2e-6, atol=4e-6)
        assert torch.equal(got.floats[:, [0, 1, 5]], want.floats[:, [0, 1, 5]])
        assert (got.id_logits is None) if not arguments else torch.equal(got.id_logits, want.id_logits)
        try:
            _C.set_num_threads(1)
            assert all(torch.equal(a, b) for a, b in zip(got, target.forward_stats(state, [0, 1, 2], tree, **arguments)) if a is not None)
        finally:
            _C.set_num_threads(0)
    found = torch.from_numpy(target.most_probable(state, [0, 1, 2], tree))
    inside = torch.arange(tree.shape[1]) < tree.num_nodes[:, None]
    want = ops.vocab_stats(stored)
    assert torch.equal(found[:, inside], torch.stack([want.argmax, want.second])) and (found[:, ~inside] == -1).all()
    with pytest.raises(ValueError, match="temperature is given and key is None"):
        target.forward_stats(state, [0, 1, 2], tree, temperature=given["temperature"])


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", NATIVE)
def test_layers_in_parts_give_the_same_bits(family, weights):
    model = changed(family)
    layers = model.config.num_hidden_layers
    target = NativeTarget(model, weights)
    prompts = [random_prompt(n, seed=n) for n in (12, 3)]
    tree = DraftTree.build([p[-1] for p in prompts], [random_tree(9, seed=1), random_tree(4, seed=2)])

    def fresh():
        state = target.new_state(2, 8)
        for row, prompt in enumerate(prompts):
            target.prefill(state, row, prompt[:-1])
        return state

    whole = fresh()
    logits = target.forward(whole, [0, 1], tree).clone()
    cut = layers // 2
    parts = fresh()
    hidden, early = target.forward_layers(parts, [0, 1], tree, end=cut, taps=[0, cut], logits=True)
    assert hidden.shape == (2, int(tree.num_nodes.sum()), model.config.hidden_size) and not torch.equal(early, logits)
    last, late = target.forward_layers(parts, [0, 1], tree, begin=cut, hidden=hidden[1], taps=[layers], logits=True)
    assert torch.equal(late, logits)
    assert torch.equal(target.forward_layers(parts, [0, 1], tree, begin=layers, hidden=last[0], logits=True)[1], logits)
    after = []
    for state in (whole, parts):  # keys and values agree as well
        target.commit(state, [0, 1], [[0], [0]])
        after.append(target.forward(state, [0, 1], tree).clone())
    assert torch.equal(*after)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", NATIVE)
def test_few_wanted_outputs_are_those_of_all(family, weights, level):
    """The last layer leaves out what nobody wants: that changes neither the other outputs nor the keys and values."""
    with implementation(level):
        target = NativeTarget(changed(family), weights)
        lengths = (9, 4, 530 if target.max_positions > 600 else 60)  # the last one has two splits of keys, or leaves a window behind
        prompts = [random_prompt(n, seed=n) for n in lengths]
        tree = DraftTree.build([p[-1] for p in prompts], [random_tree(n, seed=n) for n in (20, 3, 6)])
        columns = (target.vocab_size + 15) // 16 * 16

        def logits_of(wanted: list[int], **part) -> tuple[torch.Tensor, torch.Tensor]:
            """Of the nodes of all trees, and those after one more token for each."""
            state = target.new_state(3, 8)
            for row, prompt in enumerate(prompts):
                target.prefill(state, row, prompt[:-1])
            nodes = _C.TokenSet()
            nodes.add_trees([0, 1, 2], [n - 1 for n in lengths], tree.tokens.numpy(), tree.parents.numpy(), tree.num_nodes.numpy())
            nodes.want(np.asarray(wanted, np.int32))
            logits = torch.empty(len(wanted), columns)
            target.transformer.forward(state.cache, nodes, logits=logits.data_ptr(), ld=columns, **part)
            target.commit(state, [0, 1, 2], [[0]] * 3)
            return logits[:, : target.vocab_size], target.forward(state, [0, 1, 2], DraftTree.build([1, 2, 3], [Draft.empty()] * 3)).clone()

        whole, after = logits_of(list(range(32)))
        for wanted in ([0], [31], [20, 21, 24, 25, 31], [1, 5, 6, 7, 19], list(range(31))):  # some leave whole sequences out
            few, then = logits_of(wanted)
            assert torch.equal(few, whole[wanted]) and torch.equal(then, after)
        guided, _ = logits_of(list(range(32)), guidance=1.5)
        assert torch.equal(logits_of([2, 9, 18, 25], guidance=1.5)[0][:2], guided[[2, 9]])


@pytest.mark.parametrize("family", ["llama", "qwen2", "smollm3"])
def test_hidden_states_are_those_of_transformers(family):
    model = changed(family)
    layers = model.config.num_hidden_layers
    tokens = random_prompt(20, seed=3)
    with torch.inference_mode():
        want = model(torch.tensor([tokens]), output_hidden_states=True, use_cache=False).hidden_states
    target = NativeTarget(model)
    tree = DraftTree.build([tokens[0]], [Draft.chain(tokens[1:], [1.0] * 19)])
    got, _ = target.forward_layers(target.new_state(1, 32), [0], tree, taps=range(layers))
    for layer in range(layers):
        torch.testing.assert_close(got[layer], want[layer][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make, message", [
    (dict(begin=1), "starts at layer 1 needs the hidden states before it"),
    (dict(end=99), "layers 0 to 99 are not in a model of 3"),
    (dict(taps=[1, 0]), "hidden states before layer 0 are asked for"),
    (dict(hidden=torch.zeros(3, 64)), r"hidden has shape \[3, 64\], expected \[1, 64\]"),
])  # fmt: skip
def test_parts_that_do_not_exist(make, message):
    target = NativeTarget(small_model())
    with pytest.raises(ValueError, match=message):
        target.forward_layers(target.new_state(1, 8), [0], DraftTree.build([1], [Draft.empty()]), **make)


def bidirectional_logits(model, tokens: list[int], visible: torch.Tensor) -> torch.Tensor:
    """Logits [L, V] where token i attends to the tokens j with visible[i, j]."""
    mask = torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))[None, None]
    with torch.inference_mode():
        return model(torch.tensor([tokens]), attention_mask=mask, position_ids=torch.arange(len(tokens))[None], use_cache=False).logits[0]


def block_logits(target: NativeTarget, state, tokens: list[int], positions: list[int], ends: list[int]) -> torch.Tensor:
    added = _C.TokenSet()
    as_ids = lambda values: np.asarray(values, np.int32)
    added.add_positions(0, as_ids([tokens[p] for p in positions]), as_ids(positions), as_ids(ends))
    added.want(as_ids(range(len(positions))))
    columns = (target.vocab_size + 15) // 16 * 16
    logits = torch.empty(len(positions), columns)
    target.transformer.forward(state.cache, added, logits=logits.data_ptr(), ld=columns)
    return logits[:, : target.vocab_size]


def test_a_model_may_be_freed_once_it_is_packed():
    prompt = random_prompt(9, seed=2)
    want = SpeculativeGenerator(small_model(), target="native").generate(prompt, max_new_tokens=9)
    model = small_model()
    generator = SpeculativeGenerator(model, target=NativeTarget.from_model(model, release=True))
    assert generator.generate(prompt, max_new_tokens=9).token_ids == want.token_ids
    with pytest.raises(RuntimeError, match="its weights are packed in the compiled runtime"):
        model(torch.tensor([prompt]))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_tokens_that_see_later_ones(family, weights):
    model, block = changed(family), 8
    target = NativeTarget(model, weights)
    tokens = random_prompt(60, seed=6)
    everywhere = list(range(60))
    for ends in ([60] * 60, [min(60, (p // block + 1) * block) for p in everywhere]):  # bidirectional, block-causal
        whole = block_logits(target, target.new_state(1, 8), tokens, everywhere, ends)
        if weights == "float32":
            want = bidirectional_logits(model, tokens, torch.arange(60) < torch.tensor(ends)[:, None])
            assert (whole - want).abs().max() < 1e-5 * want.abs().max()
    state, parts = target.new_state(1, 8), []
    for start in range(0, 60, block):  # a block only needs the blocks before it
        positions = everywhere[start : start + block]
        parts.append(block_logits(target, state, tokens, positions, [positions[-1] + 1] * len(positions)))
    assert torch.equal(torch.cat(parts), whole)
    again = block_logits(target, state, tokens, [3, 17, 59], [8, 24, 60])  # scattered positions overwrite their slots
    assert torch.equal(again, whole[[3, 17, 59]])


def test_wrong_calls_into_the_runtime():
    transformer = NativeTarget(small_model()).transformer
    cache = transformer.new_cache(1, 16)
    ids = lambda *values: np.array(values, np.int32)

    def chain(row, *tokens):
        added = _C.TokenSet()
        added.add_chain(row, 0, list(tokens))
        return added

    with pytest.raises(ValueError, match="token 259 is outside the vocabulary 0 .. 258"):
        transformer.forward(cache, chain(0, 1, VOCAB))
    with pytest.raises(ValueError, match="row 1 is not in a cache of 1"):
        transformer.forward(cache, chain(1, 1))
    with pytest.raises(ValueError, match="weights='int3' is unknown"):
        _C.PackedMatrix("int3", 16, 16)
    rows = torch.zeros(8, 16)
    for place in ((9, 8, 8), (0, 0, 16), (0, 2, 1), (-1, 8, 8), (0, 2, 8), (0, 1, 2**62), (2**63 - 4, 8, 8)):
        with pytest.raises(ValueError, match=r"8 rows in blocks of .* do not fit into the 16 of the packed matrix"):
            _C.PackedMatrix("float32", 16, 16).pack(rows.data_ptr(), 0, 8, *place)
    with pytest.raises(ValueError, match="row 0 has length -3; pass the number of its committed tokens"):
        _C.TokenSet().add_chain(0, -3, [1])
    with pytest.raises(ValueError, match=r"parents\[1\] = 1 is not -1 or a node before it"):
        _C.TokenSet().add_trees([0], [0], ids(1, 2), ids(-1, 1), ids(2))
    with pytest.raises(ValueError, match=r"counts\[0\] = 3 is not in 0 .. 2"):
        _C.TokenSet().add_trees([0], [0], ids(1, 2), ids(-1, 0), ids(3))
    with pytest.raises(ValueError, match=r"positions\[1\] = 3 does not lie between"):
        _C.TokenSet().add_positions(0, ids(1, 2), ids(3, 3), ids(9, 9))
    with pytest.raises(ValueError, match=r"positions\[0\] = 3 does not lie between"):
        _C.TokenSet().add_positions(0, ids(1), ids(3), ids(3))
    with pytest.raises(ValueError, match=r"wanted\[0\] = 2 does not ascend within the 2 tokens"):
        chain(0, 1, 2).want(ids(2))
    transformer.forward(cache, _C.TokenSet())  # nothing to do


@pytest.mark.parametrize("family", NATIVE)
@pytest.mark.parametrize("shards", [1, 3])
def test_from_pretrained_packs_the_files(family, shards, tmp_path):
    model = changed(family)
    size = sum(p.numel() * 4 for p in model.parameters())
    model.save_pretrained(tmp_path, max_shard_size=size // shards + 1)
    byte_tokenizer().save_pretrained(tmp_path)
    prompts = [random_prompt(n, seed=n) for n in (12, 5)]
    settings = dict(max_new_tokens=16, eos_token_id=-1)
    want = [r.token_ids for r in SpeculativeGenerator(model).generate(prompts, **settings)]
    generator = SpeculativeGenerator.from_pretrained(str(tmp_path))
    assert isinstance(generator.target, NativeTarget) and sum(p.numel() for p in generator.model.parameters()) == 0
    assert [r.token_ids for r in generator.generate(prompts, **settings)] == want
    with pytest.raises(RuntimeError, match="shell.*AutoModelForCausalLM"):
        generator.model(torch.tensor([[1]]))
    sampled = dict(settings, do_sample=True, temperature=0.7, top_k=9, seed=3)
    assert generator.generate(prompts[0], **sampled).token_ids == SpeculativeGenerator(model).generate(prompts[0], **sampled).token_ids


@pytest.mark.parametrize("spoil, reason", [
    (lambda tensors: tensors.pop("model.norm.weight"), "no tensor 'model.norm.weight'"),
    (lambda tensors: tensors.update({"model.norm.weight": torch.ones(5)}), r"'model.norm.weight' of the checkpoint has shape \[5\], the configuration asks for \[64\]"),
])  # fmt: skip
def test_checkpoints_that_do_not_fit(spoil, reason, tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    spoil(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=reason):
        NativeTarget.from_pretrained(str(tmp_path))


def test_an_index_that_leaves_the_checkpoint(tmp_path):
    small_model().save_pretrained(tmp_path, max_shard_size=50_000)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "../model-00001"))
    with pytest.raises(UnsupportedModelError, match="names files outside the checkpoint"):
        NativeTarget.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_masked_diffusion_checkpoints(kind, tmp_path):
    model = checkpoint(kind, tmp_path, model=changed("llama" if kind == "llada" else "qwen2"))
    target = NativeTarget.from_pretrained(str(tmp_path), dtype=torch.float32)
    assert target.bidirectional and target.element == "float32"
    tokens = random_prompt(30, seed=2)
    got = block_logits(target, target.new_state(1, 8), tokens, list(range(30)), [30] * 30)
    want = bidirectional_logits(model, tokens, torch.ones(30, 30, dtype=torch.bool))
    assert (got - want).abs().max() < 1e-5 * want.abs().max()
    with pytest.raises(UnsupportedModelError, match="masked-diffusion model"):
        SpeculativeGenerator.from_pretrained(str(tmp_path))


def test_a_diffusion_configuration_that_is_not_known(tmp_path):
    checkpoint("llada", tmp_path, scale_logits=True)
    with pytest.raises(UnsupportedModelError, match="scale_logits=True; only False is known"):
        NativeTarget.from_pretrained(str(tmp_path))


MEMORY = """
import sys, threading, time
import torch, fastdecode
from fastdecode.targets.layouts import LAYOUTS
from fastdecode.targets.native import NativeTarget

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024

start, peak, stop = anonymous(), 0, False
def watch():
    global peak
    while not stop:
        peak = max(peak, anonymous())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
target = NativeTarget.from_pretrained(sys.argv[1], sys.argv[2])
state = target.new_state(1, 1024)
stop = True
thread.join()
print((peak - start) / (target.transformer.weight_bytes + state.cache.nbytes))
"""


@pytest.mark.model
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_loading_needs_little_more_than_the_packed_weights(weights):
    result = subprocess.run([sys.executable, "-c", MEMORY, smollm2.path(), weights], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.25
