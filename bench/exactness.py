"""Tokens of every drafter on the Spec-Bench prompts, beside those of plain decoding.

    python -m bench.exactness --model DIR [--target auto|native|hf] [--dtype float32] [--weights auto|int8] [--reference hf|plain] [--temperature 0]
                              [--limit N] [--new-tokens 64] [--drafters none,suffix,...] [--batches 1,8] [--json FILE]

The reference is `model.generate`, or our own plain decoding one prompt at a time, which is the only one that has the same random
numbers when tokens are sampled. Mismatches are listed with the gap of the two largest logits at that position: against
transformers, rounding may decide where it is below 5e-4.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdecode import SpeculativeGenerator
from fastdecode.acceptance import without_layers
from fastdecode.benchmark import load_prompts
from fastdecode.speculative.drafters import ModelDrafter

PROMPTS = Path(__file__).parent / "data/spec_bench_120.jsonl"
TIE = 5e-4


def gap(model, ids: list[int]) -> float:
    """Difference of the two largest next-token logits after `ids`."""
    with torch.inference_mode():
        top = model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1].topk(2).values
    return float(top[0] - top[1])


def hf_answers(model, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    answers = []
    for ids in prompts:
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=new_tokens, do_sample=False)
        answers.append(out[0, len(ids) :].tolist())
    return answers


def compare(model, generator, prompts: list[list[int]], answers: list[list[int]], batch: int, settings: dict) -> dict:
    """How many prompts agree, and the first difference of those that do not."""
    same, differences = 0, []
    for start in range(0, len(prompts), batch):
        results = generator.generate(prompts[start : start + batch], **settings)
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
    parser.add_argument("--target", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--reference", choices=("hf", "plain"), default="hf")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--drafters", default="none,suffix,prompt_lookup,composite,model")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.temperature and args.reference == "hf":
        parser.error("--temperature needs --reference plain: transformers draws other random numbers")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    chats = [[{"role": "user", "content": text}] for _, text in load_prompts(PROMPTS, args.limit)]
    prompts = [list(tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=True)["input_ids"]) for c in chats]
    settings = {"max_new_tokens": args.new_tokens, "seed": 1, **({"do_sample": True, "temperature": args.temperature, "top_k": 0} if args.temperature else {"do_sample": False})}
    build = lambda drafter: SpeculativeGenerator(model, tokenizer, drafter=drafter, target=args.target, weights=args.weights)
    if args.reference == "hf":
        answers = hf_answers(model, prompts, args.new_tokens)
    else:
        plain = build("none")
        answers = [plain.generate(ids, **settings).token_ids for ids in prompts]
    report = {}
    special = {"composite": lambda: ["suffix", "prompt_lookup"], "model": lambda: ModelDrafter(without_layers(copy.deepcopy(model), (12, 18)))}
    for name in args.drafters.split(","):
        generator = build(special.get(name, lambda: name)())
        for batch in map(int, args.batches.split(",")):
            report[f"{name}, batch {batch}"] = compare(model, generator, prompts, answers, batch, settings)
            print(name, batch, report[f"{name}, batch {batch}"], flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
