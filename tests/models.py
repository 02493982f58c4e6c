"""Small random models of the supported families, a byte-level tokenizer, and a drafter that knows the answer."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fastdecode.speculative.tree import Draft

VOCAB = 259  # 256 bytes, then pad, bos, eos
PAD, BOS, EOS = 256, 257, 258
_COMMON = dict(vocab_size=VOCAB, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
_LLAMA = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, **_COMMON)

FAMILIES = {
    "llama": lambda: transformers.LlamaConfig(**_LLAMA),
    "qwen2": lambda: transformers.Qwen2Config(**_LLAMA),
    "qwen3": lambda: transformers.Qwen3Config(head_dim=16, **_LLAMA),
    "mistral": lambda: transformers.MistralConfig(sliding_window=9, **_LLAMA),
    "gemma3": lambda: transformers.Gemma3TextConfig(head_dim=64, sliding_window=7, layer_types=["sliding_attention", "full_attention", "sliding_attention"], **_LLAMA),
    "smollm3": lambda: transformers.SmolLM3Config(no_rope_layers=[1, 0, 1], **_LLAMA),
    "gpt2": lambda: transformers.GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=512, **_COMMON),
}


def small_model(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 4.0, **changes):
    """A random model whose logits are far enough apart that greedy choices do not hang on rounding."""
    config = FAMILIES[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(scale)
    return model


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that characters and stop strings span several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    return tokenizer


class OracleDrafter:
    """Drafts a given continuation, with a wrong sibling before every right token; `wrong_from` spoils it from there on."""

    name = "oracle"

    def __init__(self, answers: list[list[int]], length: int = 6, wrong_from: int | None = None):
        self.answers, self.length, self.wrong_from = answers, length, wrong_from

    def begin(self, requests):
        return [(answer, request) for answer, request in zip(self.answers, requests)]

    def propose(self, state, rows, budgets):
        return [self._draft(*state[r], min(self.length, b.depth, b.nodes // 2)) for r, b in zip(rows, budgets)]

    def _draft(self, answer, request, length):
        done = len(request.tokens)
        tokens, parents, parent = [], [], -1
        for i, right in enumerate(answer[done : done + length]):
            if self.wrong_from is not None and done + i >= self.wrong_from:
                right = (right + 7) % VOCAB
            tokens += [(right + 1) % VOCAB, right]
            parents += [parent, parent]
            parent = len(tokens) - 1
        return Draft(np.asarray(tokens, np.int32), np.asarray(parents, np.int32), np.linspace(1, 0.5, len(tokens), dtype=np.float32))

    def observe(self, state, row, tokens):
        pass

    def end(self, state, row):
        pass


def plain_tokens(model, prompt: list[int], **kwargs) -> list[int]:
    """What transformers generates for one prompt."""
    ids = torch.tensor([prompt])
    kwargs = {"do_sample": False, "pad_token_id": PAD, **kwargs}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **kwargs)[0, len(prompt) :].tolist()


def random_prompt(length: int, seed: int) -> list[int]:
    """Bytes with repeats, so that look-up drafters find something."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(0, 40, (max(1, length // 2),), generator=generator).tolist()
    return (base + base + base)[:length]
