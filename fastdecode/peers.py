"""Other engines, run on the same prompts for comparison: greedy or sampled, with a given number of tokens, EOS ignored.

Every runner takes prompt ids and returns when its tokens arrived. A `GgufPeer` may not be installed.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, NamedTuple

Arrivals = list[tuple[float, list[int]]]  # (clock, new tokens)
Runner = Callable[[list[int]], Arrivals]


class TokenClock:
    """A streamer of transformers that notes when tokens arrive; the prompt, which comes first, is left out."""

    def __init__(self):
        self.events: Arrivals = []
        self._prompt = True

    def put(self, value) -> None:
        if not self._prompt:
            self.events.append((time.perf_counter(), value.flatten().tolist()))
        self._prompt = False

    def end(self) -> None:
        pass


def transformers_generate(model, new_tokens: int, sampling: dict[str, Any], **extra: Any) -> Runner:
    """`model.generate` itself; `extra` may turn on its prompt look-up."""
    import torch

    def run(ids: list[int]) -> Arrivals:
        clock, prompt = TokenClock(), torch.tensor([ids])
        with torch.inference_mode():
            model.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, eos_token_id=-1, streamer=clock, max_new_tokens=new_tokens, **sampling, **extra)
        return clock.events

    return run


def llama_cpp(gguf: Path, threads: int, new_tokens: int, temperature: float) -> Runner:
    """llama.cpp through its Python package, on the GGUF file itself."""
    from llama_cpp import Llama

    model = Llama(str(gguf), n_ctx=4096, n_threads=threads, n_threads_batch=threads, verbose=False)

    def run(ids: list[int]) -> Arrivals:
        model.reset()
        events: Arrivals = []
        for token in model.generate(ids, temp=temperature, top_k=0 if temperature else 1, top_p=1.0, min_p=0.0, repeat_penalty=1.0):
            events.append((time.perf_counter(), [token]))
            if len(events) == new_tokens:
                return events
        return events

    return run


def openvino_genai(gguf: Path, threads: int, new_tokens: int, temperature: float) -> Runner:
    """OpenVINO GenAI, which reads the GGUF file too."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    pipeline = genai.LLMPipeline(str(gguf), "CPU", INFERENCE_NUM_THREADS=threads)
    config = genai.GenerationConfig(max_new_tokens=new_tokens, min_new_tokens=new_tokens, ignore_eos=True, do_sample=temperature > 0, temperature=temperature or 1.0)

    def run(ids: list[int]) -> Arrivals:
        events: Arrivals = []

        class Clock(genai.StreamerBase):
            def write(self, tokens) -> Any:
                events.append((time.perf_counter(), list(tokens) if isinstance(tokens, (list, tuple)) else [tokens]))
                return genai.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        prompt = np.asarray([ids], np.int64)
        pipeline.generate(genai.TokenizedInputs(ov.Tensor(prompt), ov.Tensor(np.ones_like(prompt))), config, Clock())
        return events

    return run


class GgufPeer(NamedTuple):
    """An engine that reads the model from a GGUF file.

    Attributes:
        package, module: what has to be installed.
        start: makes a runner from file, threads, new tokens and temperature.
    """

    package: str
    module: str
    start: Callable[[Path, int, int, float], Runner]

    @property
    def installed(self) -> bool:
        return find_spec(self.module) is not None


GGUF_PEERS = {"llama-cpp": GgufPeer("llama-cpp-python", "llama_cpp", llama_cpp), "openvino-genai": GgufPeer("openvino-genai", "openvino_genai", openvino_genai)}
