"""What the weights of the compiled runtime cost in quality: perplexity, and divergence from float32, beside transformers.

    python -m bench.quality --model DIR [--tokens 2000] [--json FILE]

Three texts are made of the questions of bench/data/spec_bench_120.jsonl. KL is the mean over positions of KL(p || q), p from
transformers in float32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Callable

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdecode.benchmark import header, load_prompts
from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.native import NativeTarget

PROMPTS = Path(__file__).parent / "data/spec_bench_120.jsonl"
TEXTS = {"rag": ("rag",), "summarization": ("summarization",), "questions": ("mt_bench", "math_reasoning", "qa", "translation")}
CHUNK = 200


def texts(tokenizer, tokens: int) -> dict[str, list[int]]:
    prompts = load_prompts(PROMPTS)
    joined = {name: "\n\n".join(text for category, text in prompts if category in categories) for name, categories in TEXTS.items()}
    return {name: list(tokenizer(text)["input_ids"])[:tokens] for name, text in joined.items()}


@torch.inference_mode()
def hf_logits(model, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits[0].float()


def native_logits(target: NativeTarget, ids: list[int]) -> torch.Tensor:
    """Logits [L, V], by chains of some hundred tokens that are all accepted."""
    state, parts = target.new_state(1, len(ids)), []
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        tree = DraftTree.build([chunk[0]], [Draft.chain(chunk[1:], [1.0] * (len(chunk) - 1))])
        parts.append(target.forward(state, [0], tree)[0].clone())
        target.commit(state, [0], [list(range(len(chunk)))])
    return torch.cat(parts)


def compare(logits: torch.Tensor, reference: torch.Tensor, ids: list[int]) -> dict[str, float]:
    logq, logp = logits.log_softmax(-1), reference.log_softmax(-1)
    loss = -logq[:-1].gather(1, torch.tensor(ids[1:])[:, None]).mean()
    return {"perplexity": float(loss.exp()), "kl": float((logp.exp() * (logp - logq)).sum(-1).mean()), "same_argmax": float((logq.argmax(-1) == logp.argmax(-1)).float().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    load = lambda dtype: AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    exact, short = load(torch.float32), load(torch.bfloat16)
    methods: dict[str, Callable] = {"hf float32": lambda ids: hf_logits(exact, ids), "hf bfloat16": lambda ids: hf_logits(short, ids)}
    for weights in ("float32", "bfloat16", "int8"):
        target = NativeTarget(short, weights)
        methods[f"native {weights}"] = lambda ids, target=target: native_logits(target, ids)
    report = {**header(), "texts": {}}
    for name, ids in texts(AutoTokenizer.from_pretrained(args.model), args.tokens).items():
        reference = hf_logits(exact, ids)
        report["texts"][name] = {"tokens": len(ids), **{method: compare(run(ids), reference, ids) for method, run in methods.items()}}
        for method, row in report["texts"][name].items():
            print(name, method, row, flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
