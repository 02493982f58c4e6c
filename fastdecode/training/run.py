"""A training run that can be interrupted: matrices by Muon, the rest by AdamW, everything it needs in one directory."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Iterator, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class Schedule(Protocol):
    """What a recipe says about the optimiser.

    Attributes:
        steps: in all. warmup: with a rising rate; then it falls by a cosine to a tenth.
        rate: learning rate. weight_decay: of matrices.
    """

    steps: int
    warmup: int
    rate: float
    weight_decay: float


class ResumableRun:
    """`checkpoint.safetensors` and `state.json` hold all it needs to go on; a run that is resumed ends as one that was never stopped.

    Subclasses give the loss of a step, which may depend on the recipe and the number of the step alone.

    Args:
        recipe: a frozen dataclass with the fields of `Schedule`.
        directory: a run of another recipe in it is refused.
        model: its trainable matrices get Muon, embeddings and vectors AdamW.
    """

    def __init__(self, recipe: Any, directory: Path, model: nn.Module):
        self.recipe, self.directory, self.model = recipe, directory, model
        self.step, self.seconds = 0, 0.0
        self.curve: list[tuple[int, float]] = []
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        matrices = [p for p in model.parameters() if p.dim() == 2 and p.requires_grad and id(p) not in embeddings]
        others = [p for p in model.parameters() if p.requires_grad and not any(p is m for m in matrices)]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=recipe.rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        if (directory / "state.json").exists():
            self._resume()

    def loss(self, step: int) -> torch.Tensor:
        raise NotImplementedError

    def train(self, save_every: float = 300.0, progress: Callable[[int, float], None] = lambda step, loss: None) -> None:
        """Runs to the end of the recipe, saving every so many seconds."""
        start, saved, before = time.monotonic(), time.monotonic(), self.seconds
        while self.step < self.recipe.steps:
            loss = self.update()
            self.seconds = before + time.monotonic() - start
            if self.step % 50 == 0:
                self.curve.append((self.step, round(loss, 4)))
                progress(self.step, loss)
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def update(self) -> float:
        """One step; returns its loss."""
        loss = self.loss(self.step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def _rate(self) -> float:
        recipe = self.recipe
        if self.step < recipe.warmup:
            return recipe.rate * (self.step + 1) / recipe.warmup
        return recipe.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * self.step / recipe.steps)))

    def save(self) -> None:
        """Writes the state of the run; what was there is replaced once the new files are complete."""
        self.directory.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": p.detach() for name, p in self.model.named_parameters() if p.requires_grad} | dict(self._optimizer_tensors())
        save_file({k: v.contiguous() for k, v in tensors.items()}, self.directory / "checkpoint.new")
        state = {"recipe": asdict(self.recipe), "step": self.step, "seconds": round(self.seconds, 1), "curve": self.curve}
        (self.directory / "state.new").write_text(json.dumps(state))
        (self.directory / "checkpoint.new").replace(self.directory / "checkpoint.safetensors")
        (self.directory / "state.new").replace(self.directory / "state.json")

    def _optimizer_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for i, optimizer in enumerate(self.optimizers):
            for key, values in optimizer.state_dict()["state"].items():
                yield from ((f"optimizer.{i}.{key}.{name}", torch.as_tensor(value)) for name, value in values.items())

    def _resume(self) -> None:
        state = json.loads((self.directory / "state.json").read_text())
        if state["recipe"] != json.loads(json.dumps(asdict(self.recipe))):
            raise ValueError(f"{self.directory} holds a run of another recipe, {state['recipe']}; use another directory or the same recipe")
        tensors = load_file(self.directory / "checkpoint.safetensors")
        self.model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}, strict=False)
        for i, optimizer in enumerate(self.optimizers):
            own: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"optimizer.{i}."):
                    _, _, key, part = name.split(".", 3)
                    own.setdefault(int(key), {})[part] = tensor
            optimizer.load_state_dict({"state": own, "param_groups": optimizer.state_dict()["param_groups"]})
        self.step, self.seconds, self.curve = state["step"], state["seconds"], [tuple(point) for point in state["curve"]]
