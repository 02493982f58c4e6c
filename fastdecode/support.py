"""The tables of supported models and methods, made from the code; the README holds a copy that a test compares."""

from __future__ import annotations

import inspect

from fastdecode.diffusion.presets import PRESETS
from fastdecode.speculative.drafters import DRAFTERS, CompositeDrafter, EagleDrafter, ModelDrafter
from fastdecode.speculative.verifiers import VERIFIERS
from fastdecode.targets.hf import TESTED_FAMILIES
from fastdecode.targets.packing import NATIVE_FAMILIES


def markdown() -> str:
    """Markdown tables: drafters, verifiers, policies of masked diffusion, model families."""
    drafters = {**DRAFTERS, "eagle": EagleDrafter, "a draft model": ModelDrafter, "a list of drafters": CompositeDrafter}
    native = {family.name for family in NATIVE_FAMILIES.values()}
    parts = [
        _table(("drafter", "what it does"), [(_code(name), _summary(kind)) for name, kind in drafters.items()]),
        _table(("verifier", "rule", "lossless"), [(_code(name), _summary(type(v)), "yes" if v.lossless else "no") for name, v in VERIFIERS.items()]),
        _table(("preset (masked diffusion)", "what it does", "source"), [(_code(name), p.what, p.source) for name, p in PRESETS.items()]),
        _table(("model family", "compiled CPU runtime", "tested with"), [(name, "yes" if name in native else "no", tests) for name, tests in TESTED_FAMILIES.items()]),
    ]
    return "\n\n".join(parts)


def _code(name: str) -> str:
    return name if " " in name else f"`{name}`"


def _summary(kind: type) -> str:
    return inspect.getdoc(kind).split("\n\n")[0].split("\n")[0].rstrip(".")


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ("---",) * len(header), *rows))


if __name__ == "__main__":
    print(markdown())
