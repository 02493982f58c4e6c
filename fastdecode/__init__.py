"""Exact, fast decoding for Hugging Face models."""

import torch  # noqa: F401  (loaded first: the extension then shares torch's OpenMP runtime and thread team)

from fastdecode._version import __version__

__all__ = ["__version__"]
