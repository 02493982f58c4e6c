"""Random distributions, keys and the statistics that compare drawn tokens with a law."""

import torch
from scipy import stats


def keys(batch: int, seed: int = 0, purpose: int = 0) -> torch.Tensor:
    """int64 [B, 4]: one request per row, word 2 free in its low half."""
    rows = torch.arange(batch, dtype=torch.int64)
    return torch.stack([torch.full_like(rows, seed), rows, rows % 7 << 32, torch.full_like(rows, purpose)], 1)


def random_laws(*shape: int, seed: int, sharpness: float = 2.0, zeros: float = 0.0) -> torch.Tensor:
    """float32 rows that sum to 1; a share `zeros` of the entries has no mass (never a whole row)."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(*shape, generator=generator)
    if zeros:
        drop = torch.rand(*shape, generator=generator) < zeros
        drop.scatter_(-1, logits.argmax(-1, keepdim=True), False)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits.softmax(-1)


def draw(law: torch.Tensor, seed: int) -> torch.Tensor:
    """One int32 token from each row of law [..., V]."""
    flat = torch.multinomial(law.reshape(-1, law.shape[-1]), 1, generator=torch.Generator().manual_seed(seed))
    return flat.reshape(law.shape[:-1]).int()


def assert_follows(tokens: torch.Tensor, law: torch.Tensor, significance: float = 1e-4) -> None:
    """Chi-square test of tokens [n] against law [V]; tokens without mass must not occur."""
    counts = torch.bincount(tokens.long(), minlength=len(law)).double()
    possible = law > 0
    assert counts[~possible].sum() == 0, f"drew tokens without mass: {counts.tolist()} against {law.tolist()}"
    expected = law[possible].double() / law[possible].double().sum() * len(tokens)
    expected, order = expected.sort()
    counts = counts[possible][order]
    rare = int((expected.cumsum(0) < 5).sum()) + 1  # the statistic needs about 5 per cell: the rarest tokens share one
    pool = lambda x: torch.cat([x[:rare].sum(0, keepdim=True), x[rare:]]).numpy()
    p_value = stats.chisquare(pool(counts), pool(expected)).pvalue if len(expected) > rare else 1.0
    assert p_value > significance, f"p-value {p_value:.2e}: counts {counts.tolist()} against expected {expected.tolist()}"
