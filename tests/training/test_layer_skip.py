"""A model that was trained to exit early can draft for itself."""

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from fastdecode import SpeculativeGenerator
from fastdecode.speculative.drafters.early_exit import EarlyExitDrafter
from fastdecode.training.layer_skip import layer_skip_loss
from tests.models import small_model
from tests.threads import one_thread  # noqa: F401


def test_without_early_exits_it_is_the_loss_of_the_model():
    model, tokens = small_model(), torch.randint(50, (2, 9))
    want = F.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(layer_skip_loss(model, tokens, early=0.0), want)


def test_layers_count_in_proportion_to_their_number():
    model, tokens = small_model(), torch.randint(50, (2, 9))
    states = model.model(tokens, output_hidden_states=True).hidden_states
    exits = [*(model.model.norm(h) for h in states[1:-1]), states[-1]]
    losses = [F.cross_entropy(model.lm_head(h[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()) for h in exits]
    count = sum(range(1, len(losses)))
    want = (sum(0.3 * i / count * loss for i, loss in enumerate(losses[:-1], 1)) + losses[-1]) / 1.3
    torch.testing.assert_close(layer_skip_loss(model, tokens, early=0.3), want)


@pytest.mark.parametrize("early", [-0.1, float("nan"), float("inf")])
def test_weights_that_make_no_sense_are_refused(early):
    with pytest.raises(ValueError, match="early=.* must be a finite number"):
        layer_skip_loss(small_model(), torch.zeros(1, 3, dtype=torch.long), early)


def test_models_and_texts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"tokens has shape \[1, 1\], expected \[B, T\]"):
        layer_skip_loss(small_model(), torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="model is GPT2LMHeadModel, which has no model.norm"):
        layer_skip_loss(small_model("gpt2"), torch.zeros(1, 4, dtype=torch.long))


def test_a_trained_model_drafts_with_its_first_layer():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, bos_token_id=None, eos_token_id=None))
    successor, draw = torch.randperm(64), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        tokens = torch.randint(64, (8, 1), generator=draw)
        for _ in range(23):
            tokens = torch.cat([tokens, successor[tokens[:, -1:]]], 1)
        optimizer.zero_grad()
        layer_skip_loss(model, tokens).backward()
        optimizer.step()
    prompt = [5, int(successor[5])]
    plain = SpeculativeGenerator(model.eval(), drafter="none", target="native").generate(prompt, max_new_tokens=40, do_sample=False)
    for layer in (1, 2):
        drafted = SpeculativeGenerator(model, drafter=EarlyExitDrafter(layer, 4), target="native").generate(prompt, max_new_tokens=40, do_sample=False, speculate=4)
        assert drafted.token_ids == plain.token_ids and drafted.stats.mean_acceptance_length > 4
