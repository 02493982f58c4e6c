"""The figures of the documentation are drawn by code, and what the pages name exists."""

import importlib.util
import re
from pathlib import Path

import pytest

import fastdecode
from fastdecode import ops

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("transport_figure", DOCS / "transport_figure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path / "transport.svg")
    drawn, committed = ((folder / "transport.svg").read_text() for folder in (tmp_path, DOCS))
    labels = lambda svg: re.findall(r"<!-- (.+?) -->", svg)
    assert labels(drawn) == labels(committed) and any("kept 0.821 of the time" in label for label in labels(drawn))


def test_the_example_prints_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "transport.md").read_text(), re.S)
    exec(code, {})
    printed = [float(re.search(r"[\d.]+", line)[0]) for line in capsys.readouterr().out.splitlines()]
    assert printed == pytest.approx([float(x) for x in re.findall(r"# ([\d.]+),", code)], abs=1e-3)


def test_pages_name_what_exists():
    text = (DOCS / "transport.md").read_text()
    for name in re.findall(r"`ops\.(\w+)`", text):
        assert hasattr(ops, name), name
    for file in re.findall(r"`((?:fastdecode|bench)/[\w/.]+)`", text):
        root = Path(fastdecode.__file__).parents[1] if file.startswith("fastdecode/") else DOCS.parent
        assert (root / file).exists(), file
