"""Trained models that ship beside the code, in the package fastdecode-assets."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

GROUP = "fastdecode.assets"


def _directories() -> list[Path]:
    return [Path(entry.load()) for entry in entry_points(group=GROUP)]


def installed(kind: str) -> list[Path]:
    """The directories of all assets of a kind."""
    return sorted(path for directory in _directories() for path in (directory / kind).glob("*") if path.is_dir())


def find(name: str) -> Path:
    """The directory of an asset.

    Raises:
        RuntimeError: no installed package brings it; says what to install.
    """
    for path in _directories():
        if (path / name).is_dir():
            return path / name
    raise RuntimeError(f"the trained model {name!r} comes with the package fastdecode-assets, which is not installed; run pip install ./assets in the source tree")
