"""A draft head's passes, one by one."""

import numpy as np
import torch

from fastdecode import _C


def read_text(head, cache, length: int, text: list[int], features: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Appends text to row 0 of the cache; outputs [n, width] at all of it and logits [1, draft vocabulary] after the last token."""
    tokens = _C.TokenSet()
    tokens.add_chain(0, length, text)
    tokens.want(np.asarray([len(text) - 1], np.int32))
    return _run(head, cache, tokens, text, features, of_text=True, wanted=1)


def read_level(head, cache, length: int, tree: tuple[np.ndarray, np.ndarray], count: int, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last `count` nodes of a tree behind `length` tokens; `states` [count, width] are the outputs at their parents."""
    nodes = _C.TokenSet()
    tokens, parents = tree
    nodes.add_trees([0], [length], tokens, parents, np.asarray([len(tokens)], np.int32), [len(tokens) - count])
    return _run(head, cache, nodes, tokens[len(tokens) - count :], states.numpy(), of_text=False, wanted=count)


def _run(head, cache, tokens, ids, entered: np.ndarray, of_text: bool, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
    columns = -(-len(head.vocabulary) // 16) * 16
    logits, states = torch.empty(wanted, columns), torch.empty(1, len(ids), head.width)
    if not head.fuses:
        entered = np.concatenate([head.transformer.embed(np.asarray(ids, np.int32)), entered], 1)
    entered = np.ascontiguousarray(entered, np.float32)
    name = "features" if of_text or not head.fuses else "hidden"
    head.transformer.forward(cache, tokens, logits=logits.data_ptr(), ld=columns, taps=[1], tapped=states.data_ptr(), **{name: entered.ctypes.data})
    return states[0], logits[:, : len(head.vocabulary)]
