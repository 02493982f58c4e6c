"""The engine behind `model.generate(..., custom_generate=...)`: what transformers has prepared goes in, its format comes out."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from fastdecode.speculative.decoding import Options
from fastdecode.speculative.prepare import Resolved, check_context, request_from


def generate_from_prepared(generator, input_ids, attention_mask, processors: LogitsProcessorList, criteria: StoppingCriteriaList, config: GenerationConfig) -> torch.Tensor:
    """LongTensor [B, L]: prompts as given, continuations padded on the right.

    Raises:
        ValueError: a mode that the engine does not decode (beams, guidance), see `SpeculativeGenerator.generate`.
    """
    seed = int(torch.randint(2**62, ()))
    requests = []
    for row, ids in enumerate(input_ids.tolist()):
        kept = [t for t, keep in zip(ids, attention_mask[row].tolist()) if keep] if attention_mask is not None else ids
        limit = config.max_length - input_ids.shape[1]
        check_context(len(kept), limit, generator.target.max_positions)
        resolved = Resolved(input_ids, config, processors, criteria)
        requests.append(request_from(resolved, kept, generator.tokenizer, (), seed, row, limit))
    decoding = generator.decode(requests, Options(generator.max_draft, generator.min_score))
    while decoding.active:
        generator._step(decoding)
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    longest = max(len(r.tokens) for r in requests)
    new = [r.tokens + [pad] * (longest - len(r.tokens)) for r in requests]
    return torch.cat([input_ids, torch.tensor(new, device=input_ids.device)], dim=1)
