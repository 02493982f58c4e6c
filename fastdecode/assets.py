"""Trained models that ship beside the code, in the package fastdecode-assets."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

GROUP = "fastdecode.assets"


def find(name: str) -> Path:
    """The directory of an asset.

    Raises:
        RuntimeError: no installed package brings it; says what to install.
    """
    for entry in entry_points(group=GROUP):
        path = Path(entry.load()) / name
        if path.is_dir():
            return path
    raise RuntimeError(f"the trained model {name!r} comes with the package fastdecode-assets, which is not installed; run pip install ./assets in the source tree")
