"""The README and the pages are executed: every Python example runs, the tables come from the code."""

import re
from pathlib import Path

import pytest

from fastdecode import support
from tests import smollm2

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.mark.model
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number, monkeypatch, capsys):
    path = smollm2.path()
    code = EXAMPLES[number].replace('"HuggingFaceTB/SmolLM2-135M-Instruct"', repr(path))
    exec(compile(code, f"README example {number}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", sorted((Path(__file__).parents[1] / "docs").glob("*.md")), ids=lambda p: p.stem)
def test_examples_of_pages_run(page, capsys):
    examples = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    for number, code in enumerate(examples):
        exec(compile(code, f"{page.name} example {number}", "exec"), {"__name__": "__main__"})
    assert not examples or capsys.readouterr().out.strip()


def test_there_are_three_examples():
    assert len(EXAMPLES) >= 3


def test_tables_come_from_the_code():
    assert support.markdown() in README, "run `python -m fastdecode.support` and paste its output into README.md"
