"""What the caches of masked diffusion save: a random model in the layout of LLaDA with a real vocabulary, one token per step.

    python -m bench.diffusion_cache [--prompt 512] [--canvas 128] [--layers 14] [--repeats 1] [--caches none,delayed,dual] [--json FILE]

Speed does not depend on what the weights say; quality is no subject here. Prints the share of time that is spent outside the transformer
and the peak memory above the level after loading.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from pathlib import Path

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fastdecode import DiffusionGenerator
from fastdecode.benchmark import header
from fastdecode.diffusion.caches import Delayed, Dual, NoCache, Prefix
from fastdecode.targets.native import NativeTarget

CACHES = {"none": NoCache(), "delayed": Delayed(8), "prefix": Prefix(), "dual": Dual()}
VOCAB, MASK = 126464, 126336


def model(layers: int) -> LlamaForCausalLM:
    """About 300 million parameters with 14 layers."""
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=768, intermediate_size=2304, num_hidden_layers=layers, num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=4096, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()


class PeakMemory(threading.Thread):
    """Follows the memory of the process."""

    def __init__(self):
        super().__init__(daemon=True)
        self.process, self.running = psutil.Process(), True
        self.start_bytes = self.bytes = self.process.memory_info().rss

    def run(self) -> None:
        while self.running:
            self.bytes = max(self.bytes, self.process.memory_info().rss)
            time.sleep(0.01)

    def stop(self) -> int:
        """Peak above the level at the start."""
        self.running = False
        return self.bytes - self.start_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--canvas", type=int, default=128)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--caches", default="none,delayed,dual")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    loaded = model(args.layers)
    parameters = sum(p.numel() for p in loaded.parameters())
    target = NativeTarget(loaded, "bfloat16")
    target.release()
    made = {name: DiffusionGenerator(target, None, "llada", mask_token_id=MASK, eos_token_id=-1, cache=CACHES[name]) for name in args.caches.split(",")}
    prompt = torch.randint(VOCAB - 1000, (args.prompt,), generator=torch.Generator().manual_seed(1)).tolist()
    memory = PeakMemory()
    memory.start()
    seconds: dict[str, list[float]] = {name: [] for name in made}
    outside: dict[str, float] = {}
    for _ in range(args.repeats):
        for name, generator in made.items():
            start = time.perf_counter()
            stats = generator.generate(prompt, max_new_tokens=args.canvas).stats
            seconds[name].append(time.perf_counter() - start)
            outside[name] = 1 - stats.seconds["target"] / seconds[name][-1]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    results = {"parameters": parameters, "seconds": median, "outside_the_transformer": outside, "peak_mb_above_loaded": memory.stop() / 1e6, "logits_of_all_positions_mb": (args.prompt + args.canvas) * VOCAB * 4 / 1e6}
    if "none" in median:
        results["times_faster_than_none"] = {name: median["none"] / s for name, s in median.items()}
    for name, value in results.items():
        print(name, value)
    if args.json:
        args.json.write_text(json.dumps({**header(), "arguments": {k: str(v) for k, v in vars(args).items()}, "results": results}, indent=1))


if __name__ == "__main__":
    main()
