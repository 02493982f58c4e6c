"""Exact, fast decoding for Hugging Face models."""

import torch  # noqa: F401  (loaded first: the extension then shares torch's OpenMP runtime and thread team)

from fastdecode import assets
from fastdecode._version import __version__
from fastdecode.diffusion.gemma import DiffusionGemmaGenerator
from fastdecode.diffusion.generator import CanvasState, DiffusionGenerator, Gap
from fastdecode.errors import InvalidLogitsError, UnsupportedModelError
from fastdecode.results import DecodeStats, GenerationResult, TextChunk, TokenLogprobs
from fastdecode.speculative.generator import SpeculativeGenerator

__all__ = [
    "CanvasState",
    "DecodeStats",
    "DiffusionGemmaGenerator",
    "DiffusionGenerator",
    "Gap",
    "GenerationResult",
    "InvalidLogitsError",
    "SpeculativeGenerator",
    "TextChunk",
    "TokenLogprobs",
    "UnsupportedModelError",
    "__version__",
    "assets",
]
