"""Side by side: transformers' `generate` and the engine on the same prompts."""

from __future__ import annotations

from typing import Any, Iterator, Sequence

from fastdecode.benchmark import Settings, method


def compare(generator, prompts: Sequence[str], new_tokens: int) -> Iterator[dict[str, Any]]:
    """Per prompt: tokens per second of both (prompt apart), tokens per round, and whether the tokens are identical."""
    tokenizer = generator.tokenizer
    hf_runner, own_runner = (method(name, generator.model, tokenizer, Settings(new_tokens)) for name in ("hf", "auto"))
    for prompt in prompts:
        ids = list(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True)["input_ids"])
        hf, ours = hf_runner(ids), own_runner(ids)
        first = next((i for i, (a, b) in enumerate(zip(hf["tokens"], ours["tokens"])) if a != b), None)
        yield {
            "prompt": prompt,
            "text": tokenizer.decode(ours["tokens"], skip_special_tokens=True),
            "hf": hf["counted"] / hf["seconds"],
            "ours": ours["counted"] / ours["seconds"],
            "acceptance": ours["mean_acceptance_length"],
            "identical": first is None and len(hf["tokens"]) == len(ours["tokens"]),
            "first_difference": first,
        }
