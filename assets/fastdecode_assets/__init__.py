"""Directories of trained models, one per name."""

from pathlib import Path

DIRECTORY = str(Path(__file__).parent)
