"""What lies in the slots of a cached method: frozen keys stay as they were computed, and drift away from what a pass over everything would give."""

import numpy as np
import pytest
import torch

from fastdecode.diffusion.caches import Delayed, DelayedPrefillDecode, Dual, Prefix
from fastdecode.diffusion.options import resolve
from fastdecode.diffusion.policies import FixedBlocks, WholeCanvas
from fastdecode.targets.active import ActiveRow
from tests.diffusion.models import MASK, generator
from tests.models import random_prompt
from tests.threads import one_thread  # noqa: F401

CANVAS = 24


def passes(made, prompt):
    """(canvas before the pass, tokens it saw, positions it computed, whether it was a refresh, keys of all layers behind it) of every pass."""
    call = resolve(made.policy.sampling, None, {"max_new_tokens": CANVAS, "seed": 0})
    decoding = made._start(made._batches.of_prompts([prompt], call), call)
    (canvas,) = decoding.canvases
    while decoding.active:
        tokens, changed, clock, refresh = canvas.tokens.copy(), canvas.changed.copy(), canvas.clock, made.policy.cache.refreshes(canvas)
        made._step(decoding)
        yield tokens, changed, clock, canvas.positions.copy(), refresh, keys(decoding.slots, len(tokens))


def keys(slots, length: int) -> torch.Tensor:
    """float64 [layers, heads, L, D]."""
    return torch.stack([layer.keys[0, :, :length].clone() for layer in slots.layers])


def fresh_keys(made, tokens: np.ndarray) -> torch.Tensor:
    """Of a pass over everything."""
    everything = np.arange(len(tokens), dtype=np.int32)
    slots = made.target.new_slots(1, len(tokens))
    made.target.forward_active(slots, [ActiveRow(0, tokens, everything, np.full(len(tokens), len(tokens), np.int32), everything[:1])])
    return keys(slots, len(tokens))


@pytest.mark.parametrize("cache", [Delayed(6), DelayedPrefillDecode(5), Prefix(), Dual()], ids=str)
def test_frozen_slots_keep_every_bit(cache):
    """Only what a pass computes is written; the prompt changes at refreshes alone."""
    made, prompt, before = generator("hf", layers=2, blocks=FixedBlocks(12), cache=cache), random_prompt(9, seed=1), None
    for tokens, _, _, positions, refresh, after in passes(made, prompt):
        frozen = np.setdiff1d(np.arange(len(tokens)), positions)
        assert before is None or torch.equal(after[:, :, frozen], before[:, :, frozen])
        assert set(range(9)) <= set(frozen.tolist()) or refresh or isinstance(cache, DelayedPrefillDecode)
        before = after


def test_the_delayed_cache_computes_what_is_not_frozen():
    """Frozen are the tokens that stood there two passes ago."""
    made = generator("hf", layers=2, blocks=WholeCanvas(), cache=Delayed(8))
    for tokens, changed, clock, positions, refresh, _ in passes(made, random_prompt(9, seed=1)):
        assert len(positions) == len(tokens) - (0 if refresh else int((changed <= clock - 2).sum()))


def test_keys_of_the_last_layer_drift_until_they_are_refreshed():
    """The first layer sees tokens alone: its frozen keys are right. Those of the second one are only at a refresh, and less and less behind it."""
    made = generator("hf", layers=2, blocks=WholeCanvas(), cache=Delayed(8))
    drift = [[] for _ in range(8)]  # by passes since the refresh
    for seed in range(6):
        for tokens, _, clock, _, refresh, have in passes(made, random_prompt(9, seed=seed)):
            apart = (have - fresh_keys(made, tokens)).abs().amax((1, 2, 3))
            assert apart[0] < 1e-12
            assert not refresh or apart[1] < 1e-12
            if clock >= 8:
                drift[clock % 8].append(float(apart[1]))
    means = [np.mean(d) for d in drift]
    assert means[0] < 1e-12 and means[1] > 1e-3 and means[7] > means[4] > means[1]


@pytest.mark.parametrize("weights", ["auto", "bfloat16", "int8"])
def test_a_pass_over_what_has_not_changed_gives_the_same_bits(weights):
    made = generator("native", weights=weights)
    tokens = np.asarray(random_prompt(9, seed=3) + [MASK] * CANVAS, np.int32)
    slots, ends = made.target.new_slots(1, len(tokens)), np.full(len(tokens), len(tokens), np.int32)
    part = lambda positions, wanted: ActiveRow(0, tokens[positions], positions, ends[: len(positions)], wanted)
    masks = np.arange(9, len(tokens), dtype=np.int32)
    whole = made.target.forward_active(slots, [part(np.arange(len(tokens), dtype=np.int32), masks)])
    for first in (9, 10, 20, 32):
        again = made.target.forward_active(slots, [part(np.arange(first, len(tokens), dtype=np.int32), np.arange(len(tokens) - first, dtype=np.int32))])
        assert torch.equal(again.floats, whole.floats[first - 9 :]) and torch.equal(again.ints, whole.ints[first - 9 :])
