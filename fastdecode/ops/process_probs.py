from __future__ import annotations

import torch

from fastdecode import _C
from fastdecode.ops import _check, _workspace, reference
from fastdecode.ops._dispatch import DTYPE_CODES, kernel


def process_probs(
    logits: torch.Tensor,
    *,
    temperature: torch.Tensor | None = None,
    top_k: torch.Tensor | None = None,
    top_p: torch.Tensor | None = None,
    min_p: torch.Tensor | None = None,
    repetition_penalty: torch.Tensor | None = None,
    presence_penalty: torch.Tensor | None = None,
    frequency_penalty: torch.Tensor | None = None,
    prefix: torch.Tensor | None = None,
    prefix_offsets: torch.Tensor | None = None,
    generated_from: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sampling probabilities of each row of logits, processed in the order of transformers.

    Repetition penalty, presence and frequency penalties, temperature, top-k, top-p, min-p, softmax. Every parameter has one
    value per row; an absent one is off.

    Args:
        logits: [R, V] float32, bfloat16 or float16; the last dimension is contiguous. Computed in float32.
        temperature: float32 [R], >= 0; 0 puts all mass on the argmax (lowest id among equals).
        top_k: int32 [R], 0 is off; keeps every score at least as high as the k-th highest.
        top_p: float32 [R], 1 is off; keeps the fewest most probable tokens (at least one) whose mass reaches top_p, the
            lowest ids among equals (Holtzman et al., arXiv:1904.09751).
        min_p: float32 [R], 0 is off; keeps probabilities of at least min_p times the largest (arXiv:2407.01082).
        repetition_penalty: float32 [R], > 0; divides positive and multiplies negative logits of each token of the prefix
            once (Keskar et al., arXiv:1909.05858).
        presence_penalty, frequency_penalty: float32 [R]; subtracted once, and once per occurrence, from the logits of the
            generated tokens, as the OpenAI interface defines them.
        prefix: int32 [total], the tokens of all rows, needed by the penalties; ids outside [0, V) are ignored.
        prefix_offsets: int64 [R + 1]; row r owns prefix[prefix_offsets[r]:prefix_offsets[r + 1]].
        generated_from: int32 [R], where within its prefix a row's generated tokens start; None is 0.
        out: float32 [R, V] contiguous, to be overwritten.

    Returns:
        float32 [R, V]. A logit of -inf gets exactly 0. A row that holds NaN, or only -inf, or +inf at a temperature above 0,
        becomes NaN.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or layout; penalties without a prefix.
    """
    rows, vocab = _check.rows("logits", logits, tuple(DTYPE_CODES))
    if vocab == 0:
        raise ValueError(f"logits has shape {list(logits.shape)}, expected at least one column")
    per_row = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty, "generated_from": generated_from,
    }  # fmt: skip
    for name, value in per_row.items():
        if value is not None:
            _check.tensor(name, value, torch.int32 if name in ("top_k", "generated_from") else torch.float32, (rows,), logits.device)
    penalties = any(per_row[name] is not None for name in per_row if name.endswith("penalty"))
    _check_prefix(penalties, prefix, prefix_offsets, rows, logits.device)
    if out is not None:
        _check.tensor("out", out, torch.float32, (rows, vocab), logits.device)
    if not penalties:
        prefix = prefix_offsets = generated_from = None
    arguments = (temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, prefix, prefix_offsets, generated_from)
    run = kernel("process_probs", logits.device)
    if run is None:
        result = reference.process_probs(logits, *arguments)
        return result if out is None else out.copy_(result)
    if out is None:
        out = torch.empty(rows, vocab, dtype=torch.float32, device=logits.device)
    pointers = [0 if t is None else t.data_ptr() for t in arguments]
    run(
        logits.data_ptr(), rows, vocab, logits.stride(0), DTYPE_CODES[logits.dtype], *pointers, out.data_ptr(), *_working_memory(logits, penalties)
    )
    return out


def _working_memory(logits: torch.Tensor, penalties: bool) -> tuple[int, int]:
    """Pointers to the scratch memory of all threads and to the token counts, which only the CPU kernels need."""
    if logits.device.type != "cpu":
        return 0, 0
    threads, vocab = _C.num_threads(), logits.shape[1]
    scratch = _workspace.uninitialised(threads * _C.process_probs_scratch(vocab))
    return scratch.data_ptr(), _workspace.zeros(threads * vocab).data_ptr() if penalties else 0


def _check_prefix(penalties: bool, prefix, prefix_offsets, rows: int, device: torch.device) -> None:
    if (prefix is None) != (prefix_offsets is None):
        raise ValueError("prefix and prefix_offsets belong together: give both or neither")
    if prefix is None:
        if penalties:
            raise ValueError("a penalty is given and prefix is None; pass the rows' tokens as prefix and prefix_offsets")
        return
    total = _check.tensor("prefix", prefix, torch.int32, (None,), device).shape[0]
    _check.tensor("prefix_offsets", prefix_offsets, torch.int64, (rows + 1,), device)
    if device.type == "cpu":
        offsets = prefix_offsets.tolist()
        if offsets[0] < 0 or offsets[-1] > total or any(a > b for a, b in zip(offsets, offsets[1:])):
            raise ValueError(f"prefix_offsets is {offsets}, expected ascending values from 0 to len(prefix) = {total}")
