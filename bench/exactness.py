"""Greedy text of every drafter against `model.generate` in fp32 on the Spec-Bench prompts.

    python -m bench.exactness --model DIR [--limit N] [--new-tokens 64] [--drafters suffix,prompt_lookup,model] [--json FILE]

Mismatches are listed with the gap of the two largest logits at that position: rounding may decide where it is below 5e-4.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdecode import SpeculativeGenerator
from fastdecode.benchmark import load_prompts
from fastdecode.speculative.drafters import ModelDrafter

PROMPTS = Path(__file__).parent / "data/spec_bench_120.jsonl"
TIE = 5e-4


def without_layers(model, removed: tuple[int, ...]):
    """The model with some layers taken out: a draft model with the same tokenizer."""
    draft = copy.deepcopy(model)
    draft.model.layers = torch.nn.ModuleList(layer for i, layer in enumerate(draft.model.layers) if i not in removed)
    for i, layer in enumerate(draft.model.layers):
        layer.self_attn.layer_idx = i
    draft.config.num_hidden_layers = len(draft.model.layers)
    return draft


def gap(model, ids: list[int]) -> float:
    """Difference of the two largest next-token logits after `ids`."""
    with torch.inference_mode():
        top = model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1].topk(2).values
    return float(top[0] - top[1])


def compare(model, generator, prompts: list[list[int]], answers: list[list[int]], batch: int, new_tokens: int) -> dict:
    """How many prompts agree, and the first difference of those that do not."""
    same, differences = 0, []
    for start in range(0, len(prompts), batch):
        results = generator.generate(prompts[start : start + batch], max_new_tokens=new_tokens)
        for i, result in enumerate(results, start):
            if result.token_ids == answers[i]:
                same += 1
                continue
            at = next((k for k, (a, b) in enumerate(zip(result.token_ids, answers[i])) if a != b), min(len(result.token_ids), len(answers[i])))
            differences.append({"prompt": i, "position": at, "gap": gap(model, prompts[i] + answers[i][:at])})
    return {"identical": same, "of": len(prompts), "differences": differences, "beyond_ties": sum(d["gap"] >= TIE for d in differences)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--drafters", default="none,suffix,prompt_lookup,composite,model")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    chats = [[{"role": "user", "content": text}] for _, text in load_prompts(PROMPTS, args.limit)]
    prompts = [list(tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=True)["input_ids"]) for c in chats]
    answers = []
    for ids in prompts:
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=args.new_tokens, do_sample=False)
        answers.append(out[0, len(ids) :].tolist())
    report = {}
    special = {"composite": lambda: ["suffix", "prompt_lookup"], "model": lambda: ModelDrafter(without_layers(model, (12, 18)))}
    for name in args.drafters.split(","):
        generator = SpeculativeGenerator(model, tokenizer, drafter=special.get(name, lambda: name)())
        for batch in (1, 8):
            report[f"{name}, batch {batch}"] = compare(model, generator, prompts, answers, batch, args.new_tokens)
            print(name, batch, report[f"{name}, batch {batch}"], flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
