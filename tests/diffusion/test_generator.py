"""Checkpoints, arguments, infilling, streaming: what users of `DiffusionGenerator` touch."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fastdecode import DiffusionGenerator, Gap, UnsupportedModelError
from fastdecode.diffusion.caches import BlockCausal, Dual
from fastdecode.diffusion.policies import (
    AdaptiveBlocks,
    Credit,
    EarlyCommit,
    FixedBlocks,
    FreeDraft,
    Threshold,
    UniformSteps,
)
from fastdecode.targets.hf_diffusion import HFDiffusionTarget
from fastdecode.targets.layouts import LAYOUTS
from fastdecode.targets.native import NativeTarget
from tests.diffusion.models import (
    EOS,
    MASK,
    all_logits,
    checkpoint,
    diffusion_model,
    generator,
)
from tests.models import byte_tokenizer, random_prompt, small_model
from tests.threads import one_thread  # noqa: F401

PROMPT = random_prompt(9, seed=1)


@pytest.mark.parametrize("kind", ["llada", "Dream"])
@pytest.mark.parametrize("shards", [False, True])
def test_checkpoints_by_their_real_names(kind, shards, tmp_path):
    model = checkpoint(kind, tmp_path, shards)
    native = DiffusionGenerator.from_pretrained(str(tmp_path), "llada", blocks=FixedBlocks(6))
    modules = DiffusionGenerator.from_pretrained(str(tmp_path), "llada", blocks=FixedBlocks(6), target="hf")
    by_hand = DiffusionGenerator(model, byte_tokenizer(), "llada", blocks=FixedBlocks(6), mask_token_id=MASK, eos_token_id=EOS, shift=kind == "Dream" and 1 or 0)
    assert isinstance(native.target, NativeTarget) and isinstance(modules.target, HFDiffusionTarget)
    assert native.facts.shift == (kind == "Dream") and native.facts.mask == MASK and native.facts.eos == (EOS,)
    want = by_hand.generate(PROMPT, max_new_tokens=14).token_ids
    assert native.generate(PROMPT, max_new_tokens=14).token_ids == modules.generate(PROMPT, max_new_tokens=14).token_ids == want


def test_the_name_traps_of_llada(tmp_path):
    """ff_out is the head at the top and the down projection in a block; ff_proj is the gate."""
    model = checkpoint("llada", tmp_path)
    right = DiffusionGenerator.from_pretrained(str(tmp_path), "llada", target="hf").target.model
    tokens = PROMPT + [MASK] * 4
    assert (all_logits(right, tokens) - all_logits(model, tokens)).abs().max() < 1e-4
    tensors = load_file(tmp_path / "model.safetensors")
    block = "model.transformer.blocks.0."
    tensors[block + "ff_proj.weight"], tensors[block + "up_proj.weight"] = tensors[block + "up_proj.weight"], tensors[block + "ff_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    swapped = DiffusionGenerator.from_pretrained(str(tmp_path), "llada", target="hf").target.model
    assert (all_logits(swapped, tokens) - all_logits(model, tokens)).abs().max() > 1e-2


def test_tied_checkpoints_have_no_head(tmp_path):
    model = checkpoint("llada", tmp_path, weight_tying=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.transformer.ff_out.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    want = DiffusionGenerator(model, byte_tokenizer(), "llada", mask_token_id=MASK, eos_token_id=EOS).generate(PROMPT, max_new_tokens=8).token_ids
    for target in ("native", "hf"):
        assert DiffusionGenerator.from_pretrained(str(tmp_path), "llada", target=target).generate(PROMPT, max_new_tokens=8).token_ids == want


def remove(name):
    return lambda folder, tensors: tensors.pop(name)


BROKEN = {
    "a tensor is missing": (remove("model.transformer.ln_f.weight"), "no tensor 'model.transformer.ln_f.weight'"),
    "the head is missing": (remove("model.transformer.ff_out.weight"), "no tensor 'model.transformer.ff_out.weight'"),
    "a shape is wrong": (lambda folder, tensors: tensors.update({"model.transformer.blocks.1.q_proj.weight": torch.zeros(3, 3)}), r"q_proj.weight' of the checkpoint has shape \[3, 3\]"),
}


@pytest.mark.parametrize("target", ["native", "hf"])
@pytest.mark.parametrize("name", BROKEN)
def test_checkpoints_that_do_not_fit(name, target, tmp_path):
    checkpoint("llada", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    BROKEN[name][0](tmp_path, tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=BROKEN[name][1]):
        DiffusionGenerator.from_pretrained(str(tmp_path), target=target)


@pytest.mark.parametrize("target", ["native", "hf"])
def test_files_that_are_not_whole(target, tmp_path):
    checkpoint("llada", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UnsupportedModelError, match="damaged or cut short"):
        DiffusionGenerator.from_pretrained(str(tmp_path), target=target)
    file.unlink()
    with pytest.raises(UnsupportedModelError, match="no safetensors files"):
        DiffusionGenerator.from_pretrained(str(tmp_path), target=target)
    checkpoint("llada", tmp_path, shards=True)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="lacks model-00002-of-00002.safetensors"):
        DiffusionGenerator.from_pretrained(str(tmp_path), target=target)


def test_other_checkpoints_are_refused(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type='llama'.*use SpeculativeGenerator"):
        DiffusionGenerator.from_pretrained(str(tmp_path))
    checkpoint("llada", tmp_path, scale_logits=True)
    with pytest.raises(UnsupportedModelError, match="scale_logits=True"):
        DiffusionGenerator.from_pretrained(str(tmp_path))


MADE = {
    "a mask outside the vocabulary": (dict(mask_token_id=100_000), "mask_token_id=100000 is not in the model's vocabulary"),
    "shift 2": (dict(shift=2), "shift=2 must be 0"),
    "target": (dict(target="gpu"), "target='gpu' is unknown"),
    "weights": (dict(target="native", weights="int4"), "weights='int4' is unknown"),
    "delimiters": (dict(blocks=AdaptiveBlocks()), "needs delimiters"),
    "blocks that the model has not": (dict(cache=BlockCausal()), "no such blocks"),
    "blocks of another length": (dict(cache=BlockCausal(), blocks=FixedBlocks(8), block_length=16), "does not fit the model's blocks of 16"),
    "a cache that the model's blocks need": (dict(block_length=16, cache=Dual()), "blocks of 16"),
}


@pytest.mark.parametrize("name", MADE)
def test_wrong_constructions(name):
    options, message = MADE[name]
    with pytest.raises(ValueError, match=message):
        DiffusionGenerator(diffusion_model(dtype=torch.float32), byte_tokenizer(), "llada", **{"mask_token_id": MASK, **options})


def test_a_model_without_a_mask():
    with pytest.raises(ValueError, match="mask_token_id is missing"):
        DiffusionGenerator(diffusion_model(dtype=torch.float32), byte_tokenizer())
    with pytest.raises(TypeError, match="model is str"):
        DiffusionGenerator("GSAI-ML/LLaDA-8B-Instruct", byte_tokenizer(), mask_token_id=MASK)
    with pytest.raises(UnsupportedModelError, match="GPT2LMHeadModel"):
        DiffusionGenerator(small_model("gpt2"), byte_tokenizer(), mask_token_id=MASK, target="native")


CALLS = {
    "a mask in the prompt": (lambda g: g.generate([1, MASK, 2], max_new_tokens=4), ValueError, "holds the mask, token 255"),
    "an empty prompt": (lambda g: g.generate("", max_new_tokens=4), ValueError, "empty string"),
    "no canvas": (lambda g: g.generate(PROMPT, max_new_tokens=0), ValueError, "max_new_tokens=0"),
    "half a token": (lambda g: g.generate(PROMPT, max_new_tokens=2.5), ValueError, "max_new_tokens=2.5"),
    "too long": (lambda g: g.generate(PROMPT, max_new_tokens=600), ValueError, "609 positions, the model has 512.*at most 503"),
    "far too long": (lambda g: g.generate(PROMPT, max_new_tokens=10**9), ValueError, "the model has 512"),
    "stop of another kind": (lambda g: g.generate(PROMPT, max_new_tokens=4, stop=3), ValueError, "stop=3"),
    "temperature": (lambda g: g.generate(PROMPT, max_new_tokens=4, temperature=-1.0), ValueError, "temperature=-1.0"),
    "seed": (lambda g: g.generate(PROMPT, max_new_tokens=4, seed=-1), ValueError, "seed=-1"),
    "stop": (lambda g: g.generate(PROMPT, max_new_tokens=4, stop=[""]), ValueError, "stop="),
    "an id outside": (lambda g: g.generate([1, 5000], max_new_tokens=4), ValueError, "token id 5000"),
    "a stream with a mask": (lambda g: g.stream([1, MASK], max_new_tokens=4), ValueError, "holds the mask"),
    "infill": (lambda g: g.infill(["a", Gap(2)]), PermissionError, "allow_infill=True"),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        call(generator("native"))


@pytest.mark.parametrize("parts", [dict(drafts=FreeDraft(2)), dict(credit=Credit(), unmask=Threshold())])
def test_what_is_defined_for_the_most_probable_tokens_only(parts):
    with pytest.raises(ValueError, match="use temperature=0"):
        generator("native", **parts).generate(PROMPT, max_new_tokens=4, temperature=0.5)


INFILL = {
    "no gap": (["ab"], ValueError, "has 0 gaps"),
    "too many gaps": ([Gap(1)] * 300, ValueError, "has 300 gaps"),
    "a number": (["ab", 3], TypeError, "list of strings and Gap"),
    "a string": ("ab", TypeError, "list of strings and Gap"),
}


@pytest.mark.parametrize("name", INFILL)
def test_wrong_templates(name):
    template, error, message = INFILL[name]
    with pytest.raises(error, match=message):
        generator("native", allow_infill=True).infill(template)


def test_gaps_have_tokens():
    for count in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="positive number of tokens"):
            Gap(count)
    with pytest.raises(ValueError, match="begin with text"):
        generator("native", 1, allow_infill=True).infill([Gap(2), "ab"])


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("parts", [{}, {"cache": Dual()}, {"drafts": FreeDraft(3)}], ids=["plain", "dual", "drafts"])
def test_infill_fills_gaps_and_nothing_else(shift, parts):
    made = generator("native", shift, blocks=FixedBlocks(5), allow_infill=True, **parts)
    result = made.infill(["start ", Gap(4), " middle ", Gap(7), " end"])
    assert len(result.token_ids) == 11 and MASK not in result.token_ids
    ids = made.tokenizer("start ")["input_ids"] + result.token_ids[:4] + made.tokenizer(" middle ")["input_ids"] + result.token_ids[4:] + made.tokenizer(" end")["input_ids"]
    assert result.text == made.tokenizer.decode(ids, skip_special_tokens=True)
    seen = []
    withheld = made.infill(["start ", Gap(4)], moderate=lambda text: seen.append(text) or False)
    assert withheld.text is None and withheld.token_ids == [] and withheld.finish_reason == "moderated" and seen[0].startswith("start ")


def test_a_mask_in_given_text_is_never_an_open_position():
    made = generator("native", mask_in_text="text", blocks=FixedBlocks(6))
    prompt = [5, MASK, 9, MASK]
    result = made.generate(prompt, max_new_tokens=6)
    assert sorted(p for p, _, _ in result.stats.commit_order) == list(range(6))
    assert len(result.token_ids) == 6 and MASK not in result.token_ids
    with pytest.raises(ValueError, match="mask_in_text='open'"):
        generator("native", mask_in_text="open")


def test_states_of_a_stream_lead_to_the_result():
    made = generator("native", blocks=FixedBlocks(6), unmask=Threshold(0.3), eos=EOS)
    states = list(made.stream([PROMPT, PROMPT[:4]], max_new_tokens=15))
    results = made.generate([PROMPT, PROMPT[:4]], max_new_tokens=15)
    for index, result in enumerate(results):
        own = [s for s in states if s.index == index]
        assert [s.forwards for s in own] == list(range(1, result.stats.forwards + 1))
        assert [s.finish_reason for s in own[:-1]] == [None] * (len(own) - 1) and own[-1].finish_reason == result.finish_reason
        assert own[-1].token_ids[: len(result.token_ids)] == result.token_ids
        for a, b in zip(own, own[1:]):
            assert all(x is None or x == y for x, y in zip(a.token_ids, b.token_ids))  # what is committed stays


def test_stop_strings_cut_the_text():
    made = generator("native", blocks=FixedBlocks(6))
    whole = made.generate(PROMPT, max_new_tokens=16)
    middle = whole.text[5:7]
    cut = made.generate(PROMPT, max_new_tokens=16, stop=middle)
    assert cut.finish_reason == "stop" and cut.text == whole.text[: whole.text.find(middle)]


def test_early_commit_fills_everything_at_once():
    made = generator("native", early_commit=EarlyCommit(bars=(0.0, 0.0, 0.0)), blocks=FixedBlocks(6))
    result = made.generate(PROMPT, max_new_tokens=16)
    logits = all_logits(diffusion_model(0, 3, torch.float32), PROMPT + [MASK] * 16)
    logits[:, MASK] = -torch.inf
    assert result.stats.forwards == 1 and result.token_ids == logits[len(PROMPT) :].argmax(-1).tolist()


def test_statistics_and_seeds():
    made = generator("native", blocks=FixedBlocks(6), steps=UniformSteps(3))
    a, b = made.generate(PROMPT, max_new_tokens=18, temperature=1.0, seed=5), made.generate(PROMPT, max_new_tokens=18, temperature=1.0, seed=5)
    assert a.token_ids == b.token_ids and a.token_ids != made.generate(PROMPT, max_new_tokens=18, temperature=1.0, seed=6).token_ids
    stats = a.stats.to_dict()
    assert stats["rounds"] == 9 and stats["emitted"] == 18 and a.stats.tokens_per_forward == 2.0 and a.stats.lossless
    assert stats["recomputed"] == 9 * (len(PROMPT) + 18) and set(stats["seconds"]) == {"target", "commit"}
    assert not generator("native", cache=Dual()).generate(PROMPT, max_new_tokens=4).stats.lossless


def test_equal_prompts_of_one_call_draw_different_tokens():
    one, two = generator("native").generate([PROMPT, PROMPT], max_new_tokens=12, temperature=1.5, seed=1)
    assert one.token_ids != two.token_ids


def moe_checkpoint(kind: str, folder):
    """A small random model of transformers, written under the names and keys of a mixture of experts for masked diffusion."""
    sizes = dict(vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, rms_norm_eps=1e-5, max_position_embeddings=256, num_experts_per_tok=2, norm_topk_prob=True, tie_word_embeddings=False)
    torch.manual_seed(3)
    if kind == "llada_moe":
        config = transformers.Qwen3MoeConfig(**sizes, num_key_value_heads=4, head_dim=8, moe_intermediate_size=16, num_experts=6, mlp_only_layers=[0], rope_parameters={"rope_type": "default", "rope_theta": 50000.0})
        raw = {"model_type": "llada", "architectures": ["LLaDAMoEModelLM"], **sizes, "num_key_value_heads": 4, "dense_intermediate_size": 48, "expert_intermediate_size": 16, "shared_expert_intermediate_size": None, "num_experts": 6, "moe_layer_freq": [0, 1, 1], "qk_layernorm": True, "rope_theta": 50000.0}
    else:
        config = transformers.Glm4MoeConfig(**sizes, num_key_value_heads=2, head_dim=16, moe_intermediate_size=16, n_routed_experts=8, n_shared_experts=1, n_group=4, topk_group=2, first_k_dense_replace=1, routed_scaling_factor=2.5, use_qk_norm=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})
        raw = {"model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"], **sizes, "num_key_value_heads": 2, "head_dim": 16, "moe_intermediate_size": 16, "num_experts": 8, "num_shared_experts": 1, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "use_qk_norm": True, "use_bias": False, "use_qkv_bias": False, "score_function": "sigmoid", "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "block_size": 8}
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name:
                tensor.uniform_(0.5, 1.5)
            elif "bias" in name or "gate.weight" in name:
                tensor.normal_(0, 0.3)
    tensors = {}
    for name, t in model.state_dict().items():
        if ".experts." in name:
            prefix, part = name.rsplit(".", 1)
            for e, own in enumerate(t):
                halves = dict(zip(("gate_proj", "up_proj"), own.chunk(2))) if part == "gate_up_proj" else {"down_proj": own}
                tensors |= {f"{prefix}.{e}.{p}.weight": h.clone() for p, h in halves.items()}
        elif kind == "llada2_moe" and ".self_attn.q_proj" in name:
            rest = [model.state_dict()[name.replace("q_proj", p)] for p in ("k_proj", "v_proj")]
            tensors[name.replace("self_attn.q_proj", "attention.query_key_value")] = torch.cat([t, *rest])
        elif kind == "llada_moe" or not (".k_proj" in name or ".v_proj" in name):
            tensors[LAYOUTS[kind].rename(name)] = t.clone()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**raw, "mask_token_id": MASK, "eos_token_id": EOS, "torch_dtype": "float32"}))
    byte_tokenizer().save_pretrained(folder)
    return model, tensors


@pytest.mark.parametrize("kind, names", [
    ("llada_moe", ["model.layers.1.mlp.gate.weight", "model.layers.2.mlp.experts.5.up_proj.weight", "model.layers.0.mlp.gate_proj.weight", "model.layers.1.self_attn.q_norm.weight"]),
    ("llada2_moe", ["model.word_embeddings.weight", "model.layers.0.attention.query_key_value.weight", "model.layers.1.attention.dense.weight", "model.layers.1.attention.key_layernorm.weight", "model.layers.1.mlp.gate.expert_bias", "model.layers.2.mlp.shared_experts.up_proj.weight", "model.layers.1.mlp.experts.7.down_proj.weight"]),
])  # fmt: skip
def test_mixtures_of_experts(kind, names, tmp_path, caplog):
    model, tensors = moe_checkpoint(kind, tmp_path)
    assert set(names) <= set(tensors)
    made = DiffusionGenerator.from_pretrained(str(tmp_path), "llada")
    assert isinstance(made.target, HFDiffusionTarget) and "runs through transformers" in caplog.text
    tokens, block = PROMPT + [MASK] * 7, 8 if kind == "llada2_moe" else None
    assert torch.equal(all_logits(made.target.model, tokens, 0, block), all_logits(model, tokens, 0, block))
    result = made.generate([PROMPT, PROMPT[:3]], max_new_tokens=10)
    assert all(MASK not in r.token_ids and (r.finish_reason == "eos" or len(r.token_ids) == 10) for r in result)
    assert (made.facts.block_length == 8) == (kind == "llada2_moe") and all(r.stats.lossless for r in result)


def test_expert_layouts_that_are_not_known(tmp_path):
    moe_checkpoint("llada2_moe", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "score_function": "softmax"}))
    with pytest.raises(UnsupportedModelError, match="score_function='softmax'"):
        DiffusionGenerator.from_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": {"type": "yarn"}}))
    with pytest.raises(UnsupportedModelError, match="rope_scaling"):
        DiffusionGenerator.from_pretrained(str(tmp_path))
