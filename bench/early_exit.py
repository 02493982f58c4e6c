"""Self-speculation: a small model is trained to exit early, then decodes plainly, with every fixed layer and length, with both chosen (DEL), and
with drafter="auto", which drafts from the text too.

    python -m bench.early_exit [--steps 350] [--new-tokens 256] [--repeats 5] [--model DIR] [--json FILE]

Two kinds of text: a chain in which a token nearly decides the next one, and phrases that repeat at some distance. Greedy, bfloat16.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fastdecode import SpeculativeGenerator
from fastdecode.benchmark import header
from fastdecode.speculative.drafters.early_exit import EarlyExitDrafter
from fastdecode.targets.native import NativeTarget
from fastdecode.training.layer_skip import layer_skip_loss

VOCABULARY, LENGTH, PHRASE = 512, 96, 12
LAYERS, LENGTHS = (1, 2, 3, 4, 6, 8), (2, 4, 6, 9, 12)


class Language:
    """Random text with a law that can be learned.

    Args:
        seed: decides which token follows which.
    """

    def __init__(self, seed: int = 0):
        self.successor = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(seed))

    def chain(self, rows: int, draw: torch.Generator) -> torch.Tensor:
        """[rows, LENGTH], one token in ten is any token."""
        tokens = torch.randint(VOCABULARY, (rows, LENGTH), generator=draw)
        free = torch.rand(rows, LENGTH, generator=draw) < 0.1
        for t in range(1, LENGTH):
            tokens[:, t] = torch.where(free[:, t], tokens[:, t], self.successor[tokens[:, t - 1]])
        return tokens

    def phrases(self, rows: int, draw: torch.Generator) -> torch.Tensor:
        """[rows, LENGTH], a random phrase over and over."""
        return torch.randint(VOCABULARY, (rows, PHRASE), generator=draw).repeat(1, LENGTH // PHRASE)

    def kinds(self):
        return {"chain": self.chain, "phrases": self.phrases}


def trained(language: Language, steps: int, early: float = 0.2) -> LlamaForCausalLM:
    """A model of 12 layers that can exit early."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None)
    model, draw = LlamaForCausalLM(config), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.1)
    for _ in range(steps):
        tokens = torch.cat([kind(12, draw) for kind in language.kinds().values()])
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer_skip_loss(model, tokens, early)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    print(f"loss {loss.item():.3f} after {steps} steps", flush=True)
    return model.to(torch.bfloat16).eval()


def length_of(name: str) -> int | bool:
    """Of the drafts of a method: of layer/length fixed, else as it sees fit."""
    return int(name.split("/")[1]) if "/" in name else True


def measure(generators: dict[str, SpeculativeGenerator], prompts: list[list[int]], new_tokens: int, repeats: int) -> dict[str, dict]:
    """Tokens per second, median of interleaved repeats over all prompts, and tokens per pass."""
    seconds: dict[str, list[float]] = {name: [] for name in generators}
    passes, want = {}, None
    for repeat in range(repeats):
        for name in random.Random(repeat).sample(list(generators), len(generators)):
            start = time.perf_counter()
            results = [generators[name].generate(p, max_new_tokens=new_tokens, do_sample=False, speculate=length_of(name)) for p in prompts]
            seconds[name].append(time.perf_counter() - start)
            texts = [r.token_ids for r in results]
            want = want or texts
            if texts != want:
                raise RuntimeError(f"{name} wrote other tokens than the others")
            passes[name] = len(prompts) * new_tokens / sum(r.stats.rounds for r in results)
    return {name: {"tokens_per_second": len(prompts) * new_tokens / statistics.median(s), "tokens_per_pass": passes[name]} for name, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", type=Path, help="where the trained model is kept; one that is there already is used")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    language = Language()
    if options.model and options.model.exists():
        model = LlamaForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    else:
        model = trained(language, options.steps)
        if options.model:
            model.save_pretrained(options.model)
    target = NativeTarget.from_model(model, release=True)  # one for all: where weights lie is worth some per cent
    make = lambda drafter: SpeculativeGenerator(model, drafter=drafter, target=target)
    generators = {"plain": make("none"), "del": make(EarlyExitDrafter("auto")), "auto": make("auto")}
    generators |= {f"{layer}/{length}": make(EarlyExitDrafter(layer, length)) for layer in LAYERS for length in LENGTHS}
    report = {**header(), "kinds": {}}
    for name, kind in language.kinds().items():
        prompts = kind(4, torch.Generator().manual_seed(7))[:, :48].tolist()
        report["kinds"][name] = found = measure(generators, prompts, options.new_tokens, options.repeats)
        best = max((n for n in found if "/" in n), key=lambda n: found[n]["tokens_per_second"])
        rate = lambda n: found[n]["tokens_per_second"]
        print(f"{name}: plain {rate('plain'):.0f} tokens/s; best fixed layer/length {best} {rate(best) / rate('plain'):.2f}x", flush=True)
        for chosen in ("del", "auto"):
            print(f"{name}: {chosen} {rate(chosen) / rate('plain'):.2f}x, {found[chosen]['tokens_per_pass']:.2f} tokens per pass; against the best {rate(chosen) / rate(best):.3f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
