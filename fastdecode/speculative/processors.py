"""How logits become the law that tokens are taken from, per tree node on that node's own prefix.

The processors of transformers are split in two: a tail of common ones (repetition penalty, temperature, top-k, top-p, min-p)
runs as one fused operation over all nodes; everything before it is called row by row, exactly as `generate` would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fastdecode import ops
from fastdecode.speculative.tree import DraftTree

_FUSED = (  # in the order in which the fused operation applies them
    (RepetitionPenaltyLogitsProcessor, "repetition_penalty", "penalty"),
    (TemperatureLogitsWarper, "temperature", "temperature"),
    (TopKLogitsWarper, "top_k", "top_k"),
    (TopPLogitsWarper, "top_p", "top_p"),
    (MinPLogitsWarper, "min_p", "min_p"),
)
_DTYPES = {"top_k": torch.int32}


@dataclass(frozen=True)
class Processors:
    """The processing of one request.

    Attributes:
        sample: whether tokens are drawn (else the most probable one is taken).
        custom: processors called row by row, first.
        fused: parameters of `ops.process_probs`, applied after them.
        listed: all processors of transformers, in order.
    """

    sample: bool
    custom: tuple = ()
    fused: tuple[tuple[str, float], ...] = ()
    listed: tuple = ()

    @classmethod
    def from_list(cls, processors: LogitsProcessorList, sample: bool, **penalties: float) -> "Processors":
        """Splits a transformers list; `penalties` (presence_penalty, frequency_penalty) join the fused part."""
        fused: dict[str, float] = {}
        cut = len(processors)
        rank = len(_FUSED)
        while cut:
            position = _fused_rank(processors[cut - 1])
            if position is None or position >= rank:
                break
            rank, cut = position, cut - 1
            fused[_FUSED[position][1]] = getattr(processors[cut], _FUSED[position][2])
        fused.update({name: value for name, value in penalties.items() if value})
        return cls(sample, tuple(processors[:cut]), tuple(sorted(fused.items())), tuple(processors))

    @property
    def plain(self) -> bool:
        """Greedy on the raw logits: nothing to process."""
        return not (self.sample or self.custom or self.fused)

    def scores(self, prefix: list[int], logits: torch.Tensor) -> torch.Tensor:
        """Processed logits float32 [V] at the token after `prefix`, as transformers' `output_scores` means it."""
        ids, scores = torch.tensor([prefix], device=logits.device), logits[None].float()
        for processor in self.listed:
            scores = processor(ids, scores)
        return scores[0].clone()

    @property
    def needs_prefix(self) -> bool:
        return any(name.endswith("penalty") for name, _ in self.fused)


def _fused_rank(processor) -> int | None:
    for rank, (kind, _, _) in enumerate(_FUSED):
        if type(processor) is kind:
            unusual = getattr(processor, "prompt_ignore_length", None) or getattr(processor, "min_tokens_to_keep", 1) > 1
            return None if unusual else rank
    return None


def tree_probs(logits: torch.Tensor, tree: DraftTree, processors: Sequence[Processors], prompts: Sequence[list[int]], emitted: Sequence[list[int]]) -> torch.Tensor:
    """Processed probabilities float32 [B, N, V] of every node, each on its own prefix (prompt + emitted + path).

    Without sampling the law is one-hot at the most probable token. `logits` [B, N, V] may be overwritten.
    """
    batch, nodes, vocab = logits.shape
    prefixes = None
    if any(p.custom or p.needs_prefix for p in processors):
        prefixes = [[prompts[b] + emitted[b] + tree.path_tokens(b, i) for i in range(nodes)] for b in range(batch)]
    for b, p in enumerate(processors):
        if p.custom:
            logits[b] = _call_custom(p.custom, logits[b], prefixes[b], int(tree.num_nodes[b]))
    return ops.process_probs(logits.reshape(batch * nodes, vocab), **_fused_arguments(processors, nodes, prefixes, prompts, logits.device)).view(batch, nodes, vocab)


def _call_custom(custom: tuple, logits: torch.Tensor, prefixes: list[list[int]], num_nodes: int) -> torch.Tensor:
    """logits [N, V] after the row-wise processors; padding nodes stay as they are."""
    for i in range(num_nodes):
        ids, scores = torch.tensor([prefixes[i]], device=logits.device), logits[i : i + 1].float()
        for processor in custom:
            scores = processor(ids, scores)
        logits[i] = scores[0]
    return logits


def _fused_arguments(processors: Sequence[Processors], nodes: int, prefixes, prompts, device: torch.device) -> dict:
    """Keyword arguments of `ops.process_probs` for rows b * N + i; a parameter that no request sets is left out."""
    off = {"repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    settings = [{**off, **dict(p.fused), **({} if p.sample else {"temperature": 0.0})} for p in processors]
    arguments = {}
    for name, neutral in off.items():
        values = [s[name] for s in settings]
        if any(v != neutral for v in values):
            arguments[name] = torch.tensor(values, dtype=_DTYPES.get(name, torch.float32)).repeat_interleave(nodes).to(device)
    if any(p.needs_prefix for p in processors):
        flat = [prefix for row in prefixes for prefix in row]
        lengths = torch.tensor([0] + [len(prefix) for prefix in flat])
        arguments["prefix"] = torch.tensor([t for prefix in flat for t in prefix], dtype=torch.int32, device=device)
        arguments["prefix_offsets"] = lengths.cumsum(0).to(device)
        arguments["generated_from"] = torch.tensor([len(p) for p in prompts], dtype=torch.int32).repeat_interleave(nodes).to(device)
    return arguments
