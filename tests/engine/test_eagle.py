"""EAGLE heads by the names of public checkpoints: what they compute, the trees they draft, and that text stays exact."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from fastdecode import _C, SpeculativeGenerator
from fastdecode.errors import UnsupportedModelError
from fastdecode.speculative.drafters import CompositeDrafter, EagleDrafter, SuffixDrafter
from fastdecode.speculative.eagle_head import EagleHead
from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.hf import HFTarget
from fastdecode.targets.native import NativeTarget
from tests.heads import read_level, read_text
from tests.models import random_prompt, small_model
from tests.threads import one_thread  # noqa: F401

HIDDEN, INNER, HEADS, KV_HEADS, DIM, DRAFTS = 64, 96, 4, 2, 16, 120


def config(**changes) -> dict:
    return {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM, "vocab_size": 259, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "num_hidden_layers": 1, **changes}  # fmt: skip


def eagle3(seed: int = 0, taps: int = 3, head: bool = True) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    weight = lambda *shape: torch.randn(*shape, generator=draw) * shape[-1] ** -0.5
    tensors = {
        "fc.weight": weight(HIDDEN, taps * HIDDEN), "midlayer.input_layernorm.weight": 1 + 0.1 * weight(HIDDEN), "midlayer.hidden_norm.weight": 1 + 0.1 * weight(HIDDEN), "midlayer.post_attention_layernorm.weight": 1 + 0.1 * weight(HIDDEN),
        "midlayer.self_attn.q_proj.weight": weight(HEADS * DIM, 2 * HIDDEN), "midlayer.self_attn.k_proj.weight": weight(KV_HEADS * DIM, 2 * HIDDEN), "midlayer.self_attn.v_proj.weight": weight(KV_HEADS * DIM, 2 * HIDDEN), "midlayer.self_attn.o_proj.weight": weight(HIDDEN, HEADS * DIM),
        "midlayer.mlp.gate_proj.weight": weight(INNER, HIDDEN), "midlayer.mlp.up_proj.weight": weight(INNER, HIDDEN), "midlayer.mlp.down_proj.weight": weight(HIDDEN, INNER), "norm.weight": 1 + 0.1 * weight(HIDDEN),
    }  # fmt: skip
    if head:
        ids = torch.randperm(259, generator=draw)[:DRAFTS].sort().values
        tensors |= {"lm_head.weight": 4 * weight(DRAFTS, HIDDEN), "d2t": ids - torch.arange(DRAFTS), "t2d": torch.isin(torch.arange(259), ids)}
    return tensors


def eagle1(seed: int = 0) -> dict[str, torch.Tensor]:
    tensors = {name.replace("midlayer.", "layers.0."): t for name, t in eagle3(seed, taps=2, head=False).items() if "layernorm" not in name or "post" in name}
    for part in "qkv":
        tensors[f"layers.0.self_attn.{part}_proj.weight"] = tensors[f"layers.0.self_attn.{part}_proj.weight"][:, :HIDDEN].contiguous()
    del tensors["norm.weight"], tensors["layers.0.hidden_norm.weight"]
    return tensors | {"fc.bias": 0.1 * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed + 1))}


def write(folder, tensors, **changes):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(**changes)))
    return folder


def nodes(tokens, parents) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(tokens, np.int32), np.asarray(parents, np.int32)


def plain_head(tensors, features: torch.Tensor, words: torch.Tensor, rows: torch.Tensor, window: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """The head over a chain in readable torch: features [T, F] (from some position on: own outputs [T, H]), embeddings [T, H] -> outputs, logits."""
    tensors = {name.replace("midlayer.", "layers.0."): t for name, t in tensors.items()}
    get, norm = lambda name: tensors[f"layers.0.{name}.weight"], lambda x, w: F.rms_norm(x, (HIDDEN,), w, 1e-5)
    third = "layers.0.hidden_norm.weight" in tensors
    x = torch.cat([norm(words, get("input_layernorm")), norm(features, get("hidden_norm"))], -1) if third else features
    split = lambda y, heads: y.view(len(y), heads, DIM).transpose(0, 1)
    angles = torch.arange(len(x))[:, None] * 10000.0 ** -(torch.arange(0, DIM, 2) / DIM)
    turn = lambda y: torch.cat([y[..., : DIM // 2] * angles.cos() - y[..., DIM // 2 :] * angles.sin(), y[..., DIM // 2 :] * angles.cos() + y[..., : DIM // 2] * angles.sin()], -1)
    q, k, v = turn(split(x @ get("self_attn.q_proj").T, HEADS)), turn(split(x @ get("self_attn.k_proj").T, KV_HEADS)), split(x @ get("self_attn.v_proj").T, KV_HEADS)
    group = HEADS // KV_HEADS
    behind = torch.arange(len(x))[:, None] - torch.arange(len(x))
    attended = F.scaled_dot_product_attention(q[None], k.repeat_interleave(group, 0)[None], v.repeat_interleave(group, 0)[None], (behind >= 0) & (behind < window))[0]
    h = features + attended.transpose(0, 1).flatten(1) @ get("self_attn.o_proj").T
    y = norm(h, get("post_attention_layernorm"))
    h = h + (F.silu(y @ get("mlp.gate_proj").T) * (y @ get("mlp.up_proj").T)) @ get("mlp.down_proj").T
    return h, (norm(h, tensors["norm.weight"]) if third else h) @ tensors.get("lm_head.weight", rows).T


def fused(tensors, given: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """What enters the layer from what the head reads: fc over hidden states (EAGLE-3) or over embedding and hidden state (EAGLE-1)."""
    if "midlayer.hidden_norm.weight" in tensors:
        return given @ tensors["fc.weight"].T
    return torch.cat([words, given], -1) @ tensors["fc.weight"].T + tensors["fc.bias"]


@pytest.fixture(scope="module")
def model():
    return small_model(num_hidden_layers=8)


@pytest.mark.parametrize("make_target", [NativeTarget, HFTarget])
def test_targets_give_their_hidden_states(model, make_target):
    target, tokens, taps = make_target(model), random_prompt(300, seed=3), (0, 2, 8)
    state, kept = target.new_state(2, 320, taps), []
    target.prefill(state, 0, tokens[:280], kept.append)
    state.copy_row(0, 1)
    draft = Draft.chain(tokens[281:], [1.0] * 19)
    target.forward(state, [0, 1], DraftTree.build([tokens[280]] * 2, [draft, Draft.empty()]))
    hidden = torch.cat([*kept, state.hidden], 1)
    assert hidden.shape == (3, 301, HIDDEN) and torch.allclose(hidden[:, 300], hidden[:, 280], rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        states = model(torch.tensor([tokens]), output_hidden_states=True, use_cache=False).hidden_states
    for got, layer in zip(hidden[:2, :300], taps):
        torch.testing.assert_close(got, states[layer][0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.model.norm(hidden[2, :300]), states[8][0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("make", [eagle1, eagle3])
@pytest.mark.parametrize("make_target", [NativeTarget, HFTarget])
def test_a_chain_of_drafts_is_that_of_readable_torch(model, tmp_path, make, make_target, window):
    target, tensors = make_target(model), make()
    head = EagleHead.load(write(tmp_path / "head", tensors, sliding_window=window), target)
    assert head.taps == ((model.config.num_hidden_layers,) if make is eagle1 else head.taps)
    embedding, rows = model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()
    text, drafts = random_prompt(9, seed=1), [int(head.vocabulary[3]), int(head.vocabulary[11])]
    features = torch.randn(8, HIDDEN * (1 if make is eagle1 else len(head.taps)))
    cache = head.transformer.new_cache(1, 16)
    _C.TreeGrower(head.transformer, head.vocabulary, 4).read(cache, 0, 0, text[1:6], features[:5].numpy())
    hidden, logits = read_text(head, cache, 5, text[6:], features[5:].numpy())
    words = embedding[torch.tensor(text[1:] + drafts)]
    entered = fused(tensors, features, words[:8])
    out, want = plain_head(tensors, entered, words[:8], rows, window or 1000)
    torch.testing.assert_close(logits[0], want[-1], rtol=1e-4, atol=1e-4)
    hidden = hidden[-1:]
    torch.testing.assert_close(hidden[0], out[-1], rtol=1e-4, atol=1e-4)
    for level in range(2):
        hidden, logits = read_level(head, cache, 8, nodes(drafts[: level + 1], range(-1, level)), 1, hidden)
        own = out[-1:] if make is eagle3 else fused(tensors, out[-1:], words[8 + level : 9 + level])
        entered = torch.cat([entered, own])
        out, want = plain_head(tensors, entered, words[: 9 + level], rows, window or 1000)
        torch.testing.assert_close(logits[0], want[-1], rtol=1e-4, atol=1e-4)


def test_a_window_that_is_not_used_is_none(model, tmp_path):
    head = EagleHead.load(write(tmp_path / "head", eagle3(), sliding_window=4, use_sliding_window=False), NativeTarget(model))
    assert head._window() == 0


def test_branches_see_their_own_path_alone(model, tmp_path):
    head = EagleHead.load(write(tmp_path / "head", eagle3()), NativeTarget(model))
    text, features = random_prompt(6, seed=2), torch.randn(5, HIDDEN * len(head.taps))
    a, b, c, d = (int(t) for t in head.vocabulary[:4])

    def grown(tree, paths):
        cache = head.transformer.new_cache(1, 16)
        root, _ = read_text(head, cache, 0, text[1:], features.numpy())
        first, _ = read_level(head, cache, 5, nodes(tree[0][: paths[0]], tree[1][: paths[0]]), paths[0], root[-1:].repeat(paths[0], 1))
        return read_level(head, cache, 5, nodes(*tree), len(tree[0]) - paths[0], first[[tree[1][i] for i in range(paths[0], len(tree[0]))]])[1]

    together = grown(([a, b, c, d, c], [-1, -1, 0, 1, 1]), [2])
    assert torch.equal(together[0], grown(([a, c], [-1, 0]), [1])[0])
    assert torch.equal(together[1], grown(([b, d], [-1, 0]), [1])[0]) and torch.equal(together[2], grown(([b, c], [-1, 0]), [1])[0])


@pytest.mark.parametrize("make", [eagle1, eagle3])
@pytest.mark.parametrize("target", ["native", "hf"])
def test_text_stays_exact(model, tmp_path, make, target):
    drafter = EagleDrafter(write(tmp_path / "head", make()), width=4, num_tokens=5)
    prompts = [random_prompt(n, seed=n) for n in (1, 2, 7, 40)]
    want = SpeculativeGenerator(model, drafter="none", target=target).generate(prompts, max_new_tokens=24)
    generator = SpeculativeGenerator(model, drafter=drafter, target=target)
    got = generator.generate(prompts, max_new_tokens=24, speculate=12)
    assert [r.token_ids for r in got] == [r.token_ids for r in want] and got[0].stats.drafted > 0
    sampled = dict(do_sample=True, temperature=0.8, seed=5, max_new_tokens=16)
    for prompt in prompts:
        assert generator.generate(prompt, **sampled).token_ids == SpeculativeGenerator(model, drafter="none", target=target).generate(prompt, **sampled).token_ids


def test_long_prompts_chats_and_pauses_keep_what_the_head_knows(model, tmp_path):
    drafter = EagleDrafter(write(tmp_path / "head", eagle3()), width=4, num_tokens=4)
    generator, fresh = (SpeculativeGenerator(model, drafter=EagleDrafter(drafter.path, 4, 4), target="native") for _ in range(2))
    prompt = random_prompt(420, seed=3)
    first = generator.generate(prompt, max_new_tokens=10, speculate=8)
    turn = prompt + first.token_ids + random_prompt(5, seed=4)
    second = generator.generate(turn, max_new_tokens=10, speculate=8)
    assert second.stats.reused_tokens > 420 and second.token_ids == fresh.generate(turn, max_new_tokens=10, speculate=8).token_ids
    row = generator._kept.draft_state.rows[0]
    assert row.position == generator._kept.state.lengths[0] - 1 or row.length > 420
    generator.generate(turn + [5], max_new_tokens=4, speculate=False)
    after = generator.generate(turn + [5, 6], max_new_tokens=6, speculate=8)
    assert after.stats.reused_tokens > 420  # the call without drafts kept no hidden states, but keys and values
    assert after.token_ids == fresh.generate(turn + [5, 6], max_new_tokens=6, speculate=8).token_ids


def test_a_tree_holds_the_most_probable_paths(model, tmp_path):
    """Against every path of two tokens, scored one by one."""
    target = NativeTarget(model)
    path = write(tmp_path / "head", eagle3())
    drafter, head = EagleDrafter(path, width=6, num_tokens=2), EagleHead.load(path, target)
    drafter.pair(target)
    generator = SpeculativeGenerator(model, drafter=drafter, target=target)
    seen = []
    propose = drafter.propose
    drafter.propose = lambda *a: seen.append(propose(*a)) or seen[-1]
    prompt = random_prompt(6, seed=9)
    generator.generate(prompt, max_new_tokens=3, speculate=9)
    draft = seen[0][0]
    state = target.new_state(1, 16, head.taps)
    kept = []
    target.prefill(state, 0, prompt[:-1], kept.append)
    cache = head.transformer.new_cache(1, 16)
    root, logits = read_text(head, cache, 0, prompt[1:], head.features(kept[0]))
    law = logits[0].softmax(-1)
    chances = {(int(head.vocabulary[i]),): float(law[i]) for i in law.topk(6).indices.tolist()}
    for i in law.topk(6).indices.tolist():
        _, below = read_level(head, cache, 5, nodes([int(head.vocabulary[i])], [-1]), 1, root[-1:])
        chances |= {(int(head.vocabulary[i]), int(head.vocabulary[j])): float(law[i] * p) for j, p in enumerate(below[0].softmax(-1))}
    best = sorted(chances.items(), key=lambda item: -item[1])[: len(draft)]
    paths = []
    for node in range(len(draft)):
        parent = int(draft.parents[node])
        paths.append((*(paths[parent] if parent >= 0 else ()), int(draft.tokens[node])))
    assert set(paths) == {p for p, _ in best} and len(draft) == 9
    np.testing.assert_allclose(draft.scores, [chances[p] for p in paths], rtol=1e-4)


def test_merged_with_what_the_text_says(model, tmp_path):
    path = write(tmp_path / "head", eagle3())
    generator = SpeculativeGenerator(model, drafter=CompositeDrafter([SuffixDrafter(), EagleDrafter(path, 4, 4)]))
    prompt = random_prompt(10, seed=1) * 3
    assert generator.generate(prompt, max_new_tokens=20).token_ids == SpeculativeGenerator(model, drafter="none").generate(prompt, max_new_tokens=20).token_ids


def test_wrong_heads_are_refused(model, tmp_path):
    target = NativeTarget(model)
    with pytest.raises(FileNotFoundError, match="config.json"):
        EagleHead.load(tmp_path, target)
    folder = write(tmp_path / "pickled", eagle3())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickled weights"):
        EagleHead.load(folder, target)
    with pytest.raises(ValueError, match="hidden_size=128 of the head is not the target's 64"):
        EagleHead.load(write(tmp_path / "wide", eagle3(), hidden_size=128), target)
    for kv_heads in (0, HEADS - 1):
        with pytest.raises(ValueError, match=f"num_attention_heads={HEADS} of the head is not a multiple of num_key_value_heads={kv_heads}"):
            EagleHead.load(write(tmp_path / "groups", eagle3(), num_key_value_heads=kv_heads), target)
    with pytest.raises(ValueError, match="fc.weight has shape"):
        EagleHead.load(write(tmp_path / "taps", eagle3(taps=2)), target)
    missing = eagle3()
    del missing["midlayer.mlp.up_proj.weight"]
    with pytest.raises(ValueError, match="no tensor layers.0.mlp.up_proj.weight"):
        EagleHead.load(write(tmp_path / "missing", missing), target)
    with pytest.raises(ValueError, match="does not ascend within the"):
        EagleHead.load(write(tmp_path / "deep", eagle3(), eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 2, 99]}), target)
    for window in (0, -1, True, 3.5, "352", 10**30):
        with pytest.raises(ValueError, match="sliding_window=.* of the head must be a number of tokens from 1"):
            EagleHead.load(write(tmp_path / "blind", eagle3(), sliding_window=window), target)
    far = eagle3() | {"d2t": torch.full((DRAFTS,), 200)}
    with pytest.raises(ValueError, match="d2t maps to token"):
        EagleHead.load(write(tmp_path / "far", far), target)
    drafter = EagleDrafter(write(tmp_path / "fits", eagle3()))
    SpeculativeGenerator(model, drafter=drafter)
    with pytest.raises(ValueError, match="make one per generator"):
        SpeculativeGenerator(model, drafter=drafter)
    bare = type("Bare", (), {name: lambda *a: None for name in ("new_state", "prefill", "forward", "commit")} | {"vocab_size": 259, "max_positions": None})()
    with pytest.raises(UnsupportedModelError, match="Bare does not give any"):
        SpeculativeGenerator(model, drafter=EagleDrafter(drafter.path), target=bare)
    with pytest.raises(ValueError, match="width=0 must be"):
        EagleDrafter(folder, width=0)
    with pytest.raises(TypeError, match="head is int"):
        EagleDrafter(3)


def test_an_eagle1_head_needs_an_rms_norm_behind_the_layers(tmp_path):
    gpt = small_model("gpt2", n_embd=HIDDEN, vocab_size=259)
    with pytest.raises(UnsupportedModelError, match="GPT2LMHeadModel has no RMS norm behind its layers"):
        EagleHead.load(write(tmp_path / "head", eagle1()), HFTarget(gpt))


def test_trees_of_several_rows_are_those_of_each_row_alone(model, tmp_path):
    head = EagleHead.load(write(tmp_path / "head", eagle3()), NativeTarget(model))
    grower = _C.TreeGrower(head.transformer, head.vocabulary, 5)
    texts, levels = [random_prompt(n, seed=n) for n in (1, 3, 7)], (1, 4, 2)
    features = [np.random.default_rng(n).standard_normal((n, grower.features), np.float32) for n in (1, 3, 7)]
    growth = lambda r, row: _C.Growth(row=row, length=0, text=texts[r], width=5, min_score=0.0, levels=levels[r])

    def drafts(growths, features, rows):
        grower.grow(head.transformer.new_cache(rows, 16), growths, np.concatenate(features))
        return [(g.length, *(a.tolist() for a in g.tree.best(40))) for g in growths]

    together = drafts([growth(r, r) for r in range(3)], features, 3)
    assert together == [drafts([growth(r, 0)], [features[r]], 1)[0] for r in range(3)]
    assert [len(tokens) for _, tokens, _, _ in together] == [5, 40, 30] and [length for length, *_ in together] == [1, 3, 7]


def test_a_level_that_others_cover_is_not_grown():
    growth = lambda **limits: _C.Growth(row=0, length=0, text=[1], width=2, min_score=0.0, levels=3, **limits)
    assert growth(least=0.9).worthwhile and not growth(least=1.0).worthwhile
    assert growth(least=0.5, covered=[0.4]).worthwhile and not growth(least=0.5, covered=[0.6]).worthwhile
    with pytest.raises(ValueError, match="text is empty"):
        _C.Growth(row=0, length=0, text=[], width=2, min_score=0.0, levels=3)


def test_features_of_another_shape_are_refused(model, tmp_path):
    head = EagleHead.load(write(tmp_path / "head", eagle3()), NativeTarget(model))
    grower, cache = _C.TreeGrower(head.transformer, head.vocabulary, 4), head.transformer.new_cache(1, 16)
    with pytest.raises(ValueError, match=r"features have shape \[2, 192\], the text and the head ask for \[3, 192\]"):
        grower.read(cache, 0, 0, [1, 2, 3], np.zeros((2, 192), np.float32))
    with pytest.raises(ValueError, match=r"\[1, 64\], the text and the head ask for \[1, 192\]"):
        grower.grow(cache, [_C.Growth(row=0, length=0, text=[1], width=4, min_score=0.0, levels=1)], np.zeros((1, 64), np.float32))
    with pytest.raises(ValueError, match="vocabulary has 3 ids, the head 120 outputs"):
        _C.TreeGrower(head.transformer, np.arange(3, dtype=np.int32), 4)


def test_the_cost_of_a_level_follows_the_drafts(model, tmp_path):
    drafter = EagleDrafter(write(tmp_path / "head", eagle3()), width=4, num_tokens=4)
    generator = SpeculativeGenerator(model, drafter=drafter, target="native")
    drafter._level_seconds = 1.0  # as if the machine had been slow: so dear that only a fixed draft goes on
    generator.generate(random_prompt(9, seed=1), max_new_tokens=8, speculate=4)
    assert 0 < drafter.level_seconds() < 1.0
    drafter._level_seconds = 1e-9
    generator.generate(random_prompt(9, seed=1), max_new_tokens=8, speculate=4)
    assert 1e-9 < drafter.level_seconds() <= 1e-9 * 1.1**8, "one slow draft must not forbid all that follow"
    assert generator._controller.level_seconds == drafter.level_seconds()
