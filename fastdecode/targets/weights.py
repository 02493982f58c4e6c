"""Weights of a checkpoint on disk, brought in one module at a time, so that a model is never in memory twice."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from pathlib import PurePath
from typing import Iterator

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from fastdecode.errors import UnsupportedModelError
from fastdecode.targets.layouts import Layout, layout_of


class CheckpointWeights:
    """The tensors of a checkpoint in safetensors files, which are mapped into memory, not read.

    Args:
        name_or_path: a directory, or a repository of the hub.
        layout: of a checkpoint with other names than the model has.
        config: of the model, which the layout may need.

    Raises:
        UnsupportedModelError: the checkpoint has no safetensors files.
    """

    def __init__(self, name_or_path: str, layout: Layout | None = None, config: PretrainedConfig | None = None):
        self._layout, self._config = layout, config
        self._open = ExitStack()
        self._files = {}
        for file in _weight_files(name_or_path):
            try:
                handle = self._open.enter_context(safe_open(file, framework="pt"))
            except SafetensorError as error:
                raise UnsupportedModelError(f"{file} is damaged or cut short ({error}); fetch the checkpoint again") from error
            self._files.update({name: handle for name in handle.keys()})

    def fill(self, module: nn.Module, prefix: str) -> None:
        """Gives the parameters of a module, named as in the checkpoint behind `prefix`, their values.

        Raises:
            UnsupportedModelError: a name is missing or has another shape.
        """
        for name, parameter in list(module.named_parameters()):
            _set(module, name, self._tensor(prefix, name, parameter.shape))
        stored = module.state_dict()
        for name, buffer in list(module.named_buffers()):
            if name in stored:
                *path, last = name.split(".")
                module.get_submodule(".".join(path))._buffers[last] = self._tensor(prefix, name, buffer.shape).to(buffer.dtype)

    def _tensor(self, prefix: str, name: str, shape: torch.Size) -> torch.Tensor:
        name = f"{prefix}.{name}" if prefix else name
        tensor = self._layout.assemble(name, self._config, self._get) if self._layout else None
        full = self._layout.rename(name) if self._layout else name
        tensor = self._get(full) if tensor is None else tensor
        if tensor.shape != shape:
            raise UnsupportedModelError(f"tensor {full!r} of the checkpoint has shape {list(tensor.shape)}, the configuration asks for {list(shape)}")
        return tensor

    def _get(self, full: str) -> torch.Tensor:
        if full not in self._files:
            raise UnsupportedModelError(f"the checkpoint has no tensor {full!r}: its names are not those of the model")
        return self._files[full].get_tensor(full)

    def close(self) -> None:
        self._files.clear()
        self._open.close()


def skeleton(name_or_path: str, dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """The model of a checkpoint, in eval mode, with parameters that have shapes but no memory."""
    layout, raw = layout_of(name_or_path)
    config = layout.config(raw) if layout else AutoConfig.from_pretrained(name_or_path)
    if getattr(config, "quantization_config", None):
        raise UnsupportedModelError("the checkpoint is quantised")
    dtype = (config.dtype or torch.float32) if dtype == "auto" else dtype
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if hasattr(model, "model") and hasattr(model.model, "rotary_emb"):
        model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its tables are computed, not loaded
    return model.eval()


def load_layout(name_or_path: str, dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """A masked-diffusion checkpoint as a model of transformers, under the names of transformers."""
    model = skeleton(name_or_path, dtype)
    layout, _ = layout_of(name_or_path)
    checkpoint = CheckpointWeights(name_or_path, layout, model.config)
    try:
        checkpoint.fill(model, "")
    finally:
        checkpoint.close()
    model.tie_weights()
    return model.to(model.dtype if dtype == "auto" else dtype)


@contextmanager
def filled(module: nn.Module, weights: CheckpointWeights | None, prefix: str) -> Iterator[nn.Module]:
    """The module with its weights inside the block and with empty ones after it; without a checkpoint: as it is."""
    if weights is None:
        yield module
        return
    weights.fill(module, prefix)
    try:
        yield module
    finally:
        empty(module)


def empty(module: nn.Module) -> None:
    """Frees the memory of a module's parameters; they keep their dtype and say that they are on the CPU."""
    for name, parameter in list(module.named_parameters()):
        _set(module, name, torch.empty(0, dtype=parameter.dtype))


def _set(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    module._parameters[last] = nn.Parameter(tensor, requires_grad=False)


def _weight_files(name_or_path: str) -> list[str]:
    find = lambda name: cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_connection_errors=False)
    single = find("model.safetensors")
    if single:
        return [single]
    index = find("model.safetensors.index.json")
    if not index:
        raise UnsupportedModelError(f"{name_or_path} has no safetensors files")
    with open(index) as file:
        names = sorted(set(json.load(file)["weight_map"].values()))
    if any(PurePath(name).name != name for name in names):
        raise UnsupportedModelError(f"{name_or_path}: the index of its weights names files outside the checkpoint")
    files = {name: find(name) for name in names}
    missing = [name for name, file in files.items() if file is None]
    if missing:
        raise UnsupportedModelError(f"{name_or_path} lacks {', '.join(missing)}, which its index names; fetch the checkpoint again")
    return list(files.values())
