"""The filter of Learn2PD (arXiv:2509.25188): a small network that tells from a block's confidences which proposals are final."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Sequence

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from fastdecode.ops import VocabStats
from fastdecode.targets.active import ActiveRow, DiffusionTarget

LENGTH = 32


class UnmaskFilter(nn.Module):
    """Two layers over the confidences of all positions of a block, of `length` each; short blocks are padded with 1."""

    def __init__(self, length: int = LENGTH):
        super().__init__()
        self.length = length
        self.layers = nn.Sequential(nn.Linear(length, length), nn.ReLU(), nn.Linear(length, length))

    def forward(self, confidences: torch.Tensor) -> torch.Tensor:
        """Logits [R, length] from float32 [R, length]."""
        return self.layers(confidences)

    def save(self, path: str | Path) -> None:
        save_file({name: p.detach().contiguous() for name, p in self.named_parameters()}, path)

    @classmethod
    def load(cls, path: str | Path) -> "UnmaskFilter":
        """Raises ValueError when the file does not hold such a filter."""
        tensors = load_file(path)
        shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        length = shapes.get("layers.0.weight", (0,))[0]
        made = cls(length or 1)
        if shapes != {name: tuple(p.shape) for name, p in made.named_parameters()}:
            raise ValueError(f"{path} holds {shapes}, not the two layers of an unmask filter")
        made.load_state_dict(tensors)
        return made.eval()


class Replay:
    """Decodes one block behind each prompt again, with the final tokens known, and notes confidences and what was right.

    Args:
        prompts: token ids. answers: the final tokens of the block, `LENGTH` each.
        mask: id of the mask, which is never proposed.
    """

    def __init__(self, target: DiffusionTarget, prompts: Sequence[list[int]], answers: Sequence[list[int]], mask: int):
        self.target, self.prompts, self.mask = target, prompts, mask
        self.answers = np.asarray(answers, np.int32)

    def collect(self, choose: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], steps: int = LENGTH) -> tuple[torch.Tensor, ...]:
        """Confidences, rightness and masks of every step, [N, LENGTH] each.

        Args:
            choose: from confidences, rightness and masks [B, LENGTH] to the positions that are committed. A row in which
                nothing is chosen and nothing new was proposed is stuck, and gets all its tokens.
        """
        count = len(self.prompts)
        canvas = np.full((count, LENGTH), self.mask, np.int32)
        masked = np.ones((count, LENGTH), bool)
        slots = self.target.new_slots(count, max(map(len, self.prompts)) + LENGTH)
        notes: list[tuple[np.ndarray, ...]] = []
        for _ in range(steps):
            rows = np.flatnonzero(masked.any(1))
            if len(rows) == 0:
                break
            stats = self._pass(slots, rows, canvas)
            proposed = stats.ints[:, 0].numpy().reshape(-1, LENGTH)
            confidence = (stats.top1.double() - stats.logsumexp.double()).exp().float().numpy().reshape(-1, LENGTH)
            right, open_positions = proposed == self.answers[rows], masked[rows]
            notes.append((confidence, right, open_positions.copy()))
            chosen = choose(confidence, right, open_positions) & open_positions
            stuck = ~chosen.any(1)
            canvas[rows] = np.where(chosen, proposed, canvas[rows])
            canvas[rows[stuck]] = self.answers[rows[stuck]]
            masked[rows] &= ~chosen
            masked[rows[stuck]] = False
        return tuple(torch.from_numpy(np.concatenate(part)) for part in zip(*notes))

    def _pass(self, slots, rows: np.ndarray, canvas: np.ndarray) -> VocabStats:
        active = []
        for r in rows:
            tokens = np.concatenate([np.asarray(self.prompts[r], np.int32), canvas[r]])
            positions = np.arange(len(tokens), dtype=np.int32)
            active.append(ActiveRow(int(r), tokens, positions, np.full(len(tokens), len(tokens), np.int32), positions[-LENGTH:].copy()))
        return self.target.forward_active(slots, active, banned=torch.tensor([self.mask], dtype=torch.int32))


def oracle(confidence: np.ndarray, right: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Commits exactly what is right: the fastest decoding that loses nothing."""
    return right


def filtered(network: UnmaskFilter, bar: float) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Commits what the filter accepts, and the most confident position."""

    def choose(confidence: np.ndarray, right: np.ndarray, masked: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            accepted = network(torch.from_numpy(confidence)).sigmoid().numpy() > bar
        best = np.where(masked, confidence, -1.0).argmax(1)
        accepted[np.arange(len(best)), best] = True
        return accepted

    return choose


def train_filter(replay: Replay, iterations: int = 3000, rate: float = 3e-3, seed: int = 0, bar: float = 0.96, progress: Callable[[str], None] = lambda line: None) -> tuple[UnmaskFilter, dict[str, float]]:  # fmt: skip
    """Fits a filter to the oracle's decodings, then once more to those that the filter itself leads to.

    Returns:
        The filter, and on a tenth of the states that was held out: share of right proposals among the accepted, and share of
        the right ones that are accepted.
    """
    torch.manual_seed(seed)
    network = UnmaskFilter()
    states = replay.collect(oracle)
    _fit(network, states, iterations, rate, progress)
    states = tuple(torch.cat(pair) for pair in zip(states, replay.collect(filtered(network, bar))))
    quality = _fit(network, states, iterations, rate, progress)
    return network.eval(), {**quality, "states": len(states[0])}


def _fit(network: UnmaskFilter, states: tuple[torch.Tensor, ...], iterations: int, rate: float, progress: Callable[[str], None]) -> dict[str, float]:
    confidence, right, masked = states
    held_out = torch.arange(len(confidence)) % 10 == 9
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    inputs, labels, weight = confidence[~held_out], right[~held_out].float(), masked[~held_out].float()
    for i in range(iterations):
        loss = F.binary_cross_entropy_with_logits(network(inputs), labels, weight, reduction="sum") / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if i % 500 == 499:
            progress(f"iteration {i + 1}: loss {loss.item():.4f}")
    with torch.inference_mode():
        accepted = (network(confidence[held_out]).sigmoid() > 0.96) & masked[held_out]
    good = right[held_out] & masked[held_out]
    return {"precision": float((accepted & good).sum() / accepted.sum().clamp(min=1)), "recall": float((accepted & good).sum() / good.sum().clamp(min=1))}
