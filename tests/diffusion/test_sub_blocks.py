"""Fast-dLLM v2: parts of the blocks of a block-causal model, against its sampler written straight from the specification."""

import pytest
import torch

from fastdecode import DiffusionGenerator, Gap
from fastdecode.diffusion.caches import BlockCausal, Dual
from fastdecode.diffusion.policies import EarlyCommit, FixedBlocks, SubBlocks, Threshold, UniformSteps
from fastdecode.diffusion.presets import make_policy
from tests.diffusion.models import MASK, all_logits, checkpoint, diffusion_model, generator
from tests.models import random_prompt
from tests.threads import one_thread  # noqa: F401

PROMPTS = [random_prompt(n, seed=n) for n in (5, 8, 16, 19, 1)]


def sampler(model, prompt: list[int], canvas: int, block: int, part: int, bar: float, shift: int) -> tuple[list[int], int]:
    """Tokens and passes."""
    tokens, passes, stop = prompt + [MASK] * canvas, 0, len(prompt)

    def proposals(tokens: list[int]):
        logits = all_logits(model, tokens, shift, block)
        logits[:, MASK] = -torch.inf
        return logits.softmax(-1).max(-1)

    while stop < len(tokens):
        begin, stop = stop, min((stop // part + 1) * part, len(tokens))
        if shift and begin % block == 0:  # the clean pass over the block before proposes the first token
            tokens[begin], passes = int(proposals(tokens[:begin] + [MASK]).indices[begin]), passes + 1
        while masked := [p for p in range(begin, stop) if tokens[p] == MASK]:
            confidence, proposal = proposals(tokens)
            best = max(masked, key=lambda p: (float(confidence[p]), -p))
            passes += 1
            for p in masked:
                if p == best or float(confidence[p]) >= bar:
                    tokens[p] = int(proposal[p])
    return tokens[len(prompt) :], passes


@pytest.mark.parametrize("bar", [0.25, 0.0, 1.5])
@pytest.mark.parametrize("block, part", [(8, 4), (16, 8), (8, 8)])
@pytest.mark.parametrize("target, shift", [("hf", 1), ("native", 1), ("native", 0)])
def test_parts_are_filled_as_specified(target, shift, block, part, bar):
    made = generator(target, shift, block_length=block, blocks=SubBlocks(part), cache=BlockCausal(), unmask=Threshold(bar))
    model = diffusion_model(shift, 3, torch.float64)
    results = made.generate(PROMPTS, max_new_tokens=21)
    want = [sampler(model, p, 21, block, part, bar, shift) for p in PROMPTS]
    assert [(r.token_ids, r.stats.forwards) for r in results] == want and all(r.stats.lossless for r in results)
    if bar == 1.5:
        assert all(r.stats.forwards == 21 for r in results)
    assert made.generate(PROMPTS[3], max_new_tokens=21).token_ids == want[3][0]


@pytest.mark.parametrize("shift", [0, 1])
def test_the_cache_inside_blocks(shift):
    """With one layer it is exact: keys and values depend on the token and its place alone. With more it is not, and computes less."""
    parts = {"block_length": 16, "blocks": SubBlocks(8), "unmask": Threshold(0.25)}
    cached, exact = (generator("native", shift, 1, cache=BlockCausal(c), **parts).generate(PROMPTS, max_new_tokens=37) for c in (True, False))
    assert [r.token_ids for r in cached] == [r.token_ids for r in exact]
    cached, exact = (generator("native", shift, cache=BlockCausal(c), **parts).generate(PROMPTS, max_new_tokens=37) for c in (True, False))
    assert not any(r.stats.lossless for r in cached) and all(r.stats.lossless for r in exact)
    assert sum(r.stats.recomputed for r in cached) < sum(r.stats.recomputed for r in exact)
    assert all(MASK not in r.token_ids and len(r.token_ids) == 37 for r in cached)


def test_what_the_cache_inside_blocks_computes():
    made = generator("native", 1, block_length=16, blocks=SubBlocks(8), cache=BlockCausal(parts=True), unmask=Threshold(1.5))
    (result,) = made.generate([PROMPTS[2]], max_new_tokens=16)
    order = [p for p, _, _ in result.stats.commit_order]
    assert order[0] == 0 and set(order[:8]) == set(range(8))
    first = order.index(8)  # when the second part's first token came
    # The prompt; the block with the position before it; the first part alone; the block again until the second part's first token is there.
    assert result.stats.recomputed == 16 + 17 + 6 * 8 + 17 * (first - 7) + 8 * (15 - first)


def test_gaps_and_blocks():
    made = generator("native", 1, block_length=8, blocks=SubBlocks(4), cache=BlockCausal(), allow_infill=True)
    result = made.infill(["start of it ", Gap(9), " middle that is long enough ", Gap(3), "."])
    assert len(result.token_ids) == 12 and MASK not in result.token_ids
    reference = generator("hf", 1, block_length=8, blocks=SubBlocks(4), cache=BlockCausal(), allow_infill=True)
    assert reference.infill(["start of it ", Gap(9), " middle that is long enough ", Gap(3), "."]).token_ids == result.token_ids


def test_checkpoints_of_fast_dllm_v2(tmp_path):
    checkpoint("Dream", tmp_path, model_type="Fast_dLLM_Qwen", architectures=["Fast_dLLM_QwenForCausalLM"], bd_size=16)
    made = DiffusionGenerator.from_pretrained(str(tmp_path), "fast-dllm-v2")
    assert made.facts.block_length == 16 and made.facts.shift == 1 and made.policy.blocks == SubBlocks(8) and made.policy.cache == BlockCausal(parts=True)
    assert len(made.generate(PROMPTS[0], max_new_tokens=20, eos_token_id=-1).token_ids) == 20
    whole = DiffusionGenerator.from_pretrained(str(tmp_path), "llada")
    assert whole.policy.blocks == FixedBlocks(16) and whole.policy.cache == BlockCausal()


@pytest.mark.parametrize("parts, message", [
    (dict(blocks=SubBlocks(8)), r"use cache=BlockCausal\(\)"),
    (dict(blocks=SubBlocks(8), cache=Dual()), r"use cache=BlockCausal\(\)"),
    (dict(blocks=SubBlocks(0), cache=BlockCausal()), r"SubBlocks\(length=0\)"),
    (dict(blocks=SubBlocks(8), cache=BlockCausal(), steps=UniformSteps(2)), "leave steps out"),
    (dict(blocks=SubBlocks(8), cache=BlockCausal(), early_commit=EarlyCommit()), "all positions of a block"),
    (dict(cache=BlockCausal(parts=True)), r"use blocks=SubBlocks\(\)"),
])  # fmt: skip
def test_parts_that_do_not_go_together(parts, message):
    with pytest.raises(ValueError, match=message):
        make_policy("llada", **parts)


def test_parts_that_do_not_fit_the_model():
    with pytest.raises(ValueError, match=r"SubBlocks\(length=8\) does not divide the model's blocks of 12"):
        generator("native", block_length=12, blocks=SubBlocks(8), cache=BlockCausal())
    with pytest.raises(ValueError, match="no such blocks"):
        generator("native", preset="fast-dllm-v2")
