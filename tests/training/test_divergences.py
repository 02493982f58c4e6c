"""Divergences are what they are called, and so are their gradients."""

import math

import pytest
import torch

from fastdecode.training.divergences import DIVERGENCES, forward_kl, jensen_shannon, reverse_kl, total_variation

TARGET = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
DRAFT = torch.tensor([[0.25, 0.25, 0.4, 0.1]]).log()


def random_logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(7, 11, generator=torch.Generator().manual_seed(seed))


def gradient(divergence, target, draft) -> torch.Tensor:
    draft = draft.clone().requires_grad_()
    divergence(target, draft).sum().backward()
    return draft.grad


@pytest.mark.parametrize("name", DIVERGENCES)
def test_none_is_negative_and_equal_laws_are_at_zero(name):
    target, draft = random_logits(0), random_logits(1)
    assert (DIVERGENCES[name](target, draft) > 1e-3).all()
    torch.testing.assert_close(DIVERGENCES[name](target, target + 5), torch.zeros(7), rtol=0, atol=1e-6)


def test_values_of_a_small_example():
    torch.testing.assert_close(forward_kl(TARGET, DRAFT).item(), 0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.5))
    torch.testing.assert_close(total_variation(TARGET, DRAFT).item(), 0.3)
    finite = 0.25 * math.log(0.5) + 0.25 * math.log(0.25 / 0.3) + 0.4 * math.log(2)
    torch.testing.assert_close(reverse_kl(TARGET, DRAFT).item(), finite + 0.1 * (math.log(0.1) + 30), rtol=1e-5, atol=0)
    m = [0.375, 0.275, 0.3, 0.05]
    kl = lambda a: sum(x * math.log(x / y) for x, y in zip(a, m) if x)
    torch.testing.assert_close(jensen_shannon(TARGET, DRAFT).item(), kl([0.5, 0.3, 0.2, 0]) + kl([0.25, 0.25, 0.4, 0.1]), rtol=1e-5, atol=0)


def test_gradients_are_the_closed_forms():
    target, draft = random_logits(2), random_logits(3)
    p, q = target.softmax(-1), draft.softmax(-1)
    torch.testing.assert_close(gradient(forward_kl, target, draft), q - p, rtol=1e-4, atol=1e-6)
    reverse = q * ((q / p).log() - reverse_kl(target, draft)[:, None])
    torch.testing.assert_close(gradient(reverse_kl, target, draft), reverse, rtol=1e-4, atol=1e-6)
    smaller = (q < p).float()
    torch.testing.assert_close(gradient(total_variation, target, draft), -q * (smaller - (q * smaller).sum(-1, keepdim=True)), rtol=1e-4, atol=1e-6)


def test_jensen_shannon_goes_over_into_both_relative_entropies():
    target, draft = random_logits(4) / 3, random_logits(5) / 3
    torch.testing.assert_close(jensen_shannon(target, draft, 1e-3), forward_kl(target, draft), rtol=0.01, atol=1e-3)
    torch.testing.assert_close(jensen_shannon(target, draft, 1 - 1e-3), reverse_kl(target, draft), rtol=0.01, atol=1e-3)


def test_total_variation_is_bounded_by_the_relative_entropy():
    target, draft = random_logits(6), random_logits(7)
    assert (total_variation(target, draft) <= (forward_kl(target, draft) / 2).sqrt()).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_token_that_the_target_rules_out_leaves_gradients_finite(name):
    assert gradient(DIVERGENCES[name], TARGET, DRAFT).isfinite().all()
