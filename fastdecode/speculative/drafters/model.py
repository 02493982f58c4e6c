from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from fastdecode import ops
from fastdecode.speculative.drafters.base import Budget
from fastdecode.speculative.drafters.drawn_tree import DrawnTree
from fastdecode.speculative.processors import tree_probs
from fastdecode.speculative.tree import Draft, DraftTree, Draws
from fastdecode.targets.base import prefill_rows
from fastdecode.targets import make_target

DRAFT = 1  # purpose word of random keys, see csrc/include/fastdecode/philox.cuh


@dataclass
class _State:
    requests: Sequence
    cache: Any
    cached: list[list[int]]  # per row: tokens whose K/V are in the cache


class ModelDrafter:
    """A smaller language model with the same tokenizer drafts (arXiv:2211.17192, arXiv:2302.01318).

    Greedy requests get a chain of its most probable tokens, with the runners-up as siblings; sampled requests get a tree of tokens
    drawn from its processed laws, several at each node. Padded vocabularies may differ: ids that only one side has are never
    drafted.

    Args:
        model: the draft model.
        num_tokens: depth at most.
        siblings: alternatives per position for greedy requests.
        branches: whether sampled requests get a tree; else a chain with one draw per position.
        replacement: whether several draws at a node are independent, or distinct.
        fixed: most probable tokens of every node of a sampled tree that are always drafted; only the others are drawn.
    """

    name = "model"

    def __init__(self, model: PreTrainedModel, num_tokens: int = 6, siblings: int = 1, branches: bool = True, replacement: bool = True, fixed: int = 0):
        if not isinstance(num_tokens, int) or isinstance(num_tokens, bool) or num_tokens < 1:
            raise ValueError(f"num_tokens={num_tokens!r} must be a positive integer")
        if not isinstance(siblings, int) or isinstance(siblings, bool) or siblings < 0:
            raise ValueError(f"siblings={siblings!r} must be an integer of at least 0")
        if not isinstance(fixed, int) or isinstance(fixed, bool) or fixed < 0:
            raise ValueError(f"fixed={fixed!r} must be an integer of at least 0")
        if fixed and not branches:
            raise ValueError(f"fixed={fixed} tokens beside drawn ones need a tree; pass branches=True")
        self.target = make_target("auto", model)
        for name, value in (("branches", branches), ("replacement", replacement)):
            if not isinstance(value, bool):
                raise TypeError(f"{name}={value!r} must be True or False")
        self.num_tokens, self.siblings, self.branches, self.replacement, self.fixed = num_tokens, siblings, branches, replacement, fixed
        self.vocab_size: int | None = None  # of the model that verifies; set by the generator

    def level_seconds(self) -> float:
        """What one more token of a draft costs: a pass of the draft model over one token."""
        state, token, seconds = self.target.new_state(1, 8), DraftTree.build([0], [Draft.empty()]), []
        for _ in range(4):  # the first one allocates
            start = time.perf_counter()
            self.target.forward(state, [0], token)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    def begin(self, requests: Sequence) -> _State:
        capacity = max(len(r.prompt) for r in requests) + 64
        cache = self.target.new_state(len(requests), capacity)
        prefill_rows(self.target, cache, [self._known(r.prompt[:-1]) for r in requests])
        return _State(requests, cache, [list(r.prompt[:-1]) for r in requests])

    def propose(self, state: _State, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        for r in rows:
            self._roll_back(state, r)
        if self.branches and all(state.requests[r].processors.sample for r in rows):
            return self._drawn_trees(state, rows, budgets)
        chains = {r: _Chain(b) for r, b in zip(rows, budgets)}
        feed = {r: self._text(state, r)[len(state.cached[r]) :] for r in rows if self._room(chains[r])}
        while feed:
            logits = self._advance(state, feed)
            feed = {}
            for r, row_logits in logits.items():
                token = self._extend(state.requests[r], chains[r], row_logits)
                if token is not None and self._room(chains[r]):
                    feed[r] = [token]
        return [chains[r].draft() for r in rows]

    def _drawn_trees(self, state: _State, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        """Level by level; every level is one pass over the nodes so far."""
        trees = {r: DrawnTree(b.nodes, min(self.num_tokens, b.depth), (*state.requests[r].key, b.round, DRAFT), self.replacement, self.fixed) for r, b in zip(rows, budgets)}
        growing = [r for r in rows if trees[r].growing]
        if not growing:
            return [Draft.empty() for _ in rows]
        first = self._advance(state, {r: self._text(state, r)[len(state.cached[r]) :] for r in growing})
        for r in growing:  # the pending token becomes the root of the trees
            state.cached[r].pop()
            state.cache.lengths[r] -= 1
        self._grow(state, trees, growing, torch.stack([first[r] for r in growing])[:, None])
        while growing := [r for r in growing if trees[r].growing]:
            tree = self._tree(state, trees, growing)
            self._grow(state, trees, growing, self.target.forward(state.cache, growing, tree)[..., : self.vocab_size].float())
        return [trees[r].draft() for r in rows]

    def _tree(self, state: _State, trees: dict[int, DrawnTree], rows: Sequence[int]) -> DraftTree:
        drafts = [trees[r].draft() for r in rows]
        return DraftTree.build(self._known([state.requests[r].pending for r in rows]), [Draft(d.tokens, d.parents, d.scores) for d in drafts])

    def _grow(self, state: _State, trees: dict[int, DrawnTree], rows: Sequence[int], logits: torch.Tensor) -> None:
        """Adds a level to the tree of each row. logits: float32 [B, N, V] after the nodes that are there."""
        requests = [state.requests[r] for r in rows]
        laws = tree_probs(logits.clone(), self._tree(state, trees, rows), [q.processors for q in requests], [q.prompt for q in requests], [q.tokens for q in requests])
        if self.vocab_size:
            laws = torch.nn.functional.pad(laws, (0, self.vocab_size - laws.shape[-1]))
        for r, row in zip(rows, laws):
            trees[r].grow(row)

    def observe(self, state: _State, row: int, tokens: Sequence[int]) -> None:
        """Nothing: the request holds its own tokens, the cache is rolled back at the next proposal."""

    def end(self, state: _State, row: int) -> None:
        state.cached[row] = []

    def _room(self, chain: "_Chain") -> bool:
        return chain.length < min(self.num_tokens, chain.budget.depth) and len(chain.tokens) < chain.budget.nodes and chain.score >= chain.budget.min_score

    @staticmethod
    def _text(state: _State, row: int) -> list[int]:
        return state.requests[row].prompt + state.requests[row].tokens

    def _roll_back(self, state: _State, row: int) -> None:
        """Keeps the part of the cache that agrees with the text, without its last token (whose logits are needed)."""
        text, cached = self._text(state, row), state.cached[row]
        agree = next((i for i, (a, b) in enumerate(zip(cached, text)) if a != b), min(len(cached), len(text)))
        del cached[min(agree, len(text) - 1) :]
        state.cache.lengths[row] = len(cached)

    def _advance(self, state: _State, feed: dict[int, list[int]]) -> dict[int, torch.Tensor]:
        """Runs the fed tokens of each row; returns the logits [V] after the last one."""
        rows = list(feed)
        known = {r: self._known(tokens) for r, tokens in feed.items()}
        tree = DraftTree.build([known[r][0] for r in rows], [Draft.chain(known[r][1:], [1.0] * (len(known[r]) - 1)) for r in rows])
        logits = self.target.forward(state.cache, rows, tree)
        for b, r in enumerate(rows):
            state.cached[r] += feed[r]
            state.cache.lengths[r] += len(feed[r])
        return {r: logits[b, len(feed[r]) - 1, : self.vocab_size].float() for b, r in enumerate(rows)}

    def _known(self, tokens: Sequence[int]) -> list[int]:
        """Ids that only the target has are shown to the draft model as its last one: a draft may see any context."""
        return [min(t, self.target.vocab_size - 1) for t in tokens]

    def _extend(self, request, chain: "_Chain", logits: torch.Tensor) -> int | None:
        """Adds one position to the chain; returns the token that the draft goes on with."""
        return self._draw(request, chain, logits) if request.processors.sample else self._most_probable(chain, logits)

    def _most_probable(self, chain: "_Chain", logits: torch.Tensor) -> int:
        top = torch.softmax(logits, -1).topk(min(1 + self.siblings, len(logits)))
        ids, probs = top.indices.tolist(), top.values.tolist()
        parent, score = chain.tip, chain.score
        chain.add(ids[0], parent, score * probs[0])
        for token, p in zip(ids[1:], probs[1:]):
            if score * p >= chain.budget.min_score and len(chain.tokens) < chain.budget.nodes:
                chain.add_sibling(token, parent, score * p)
        return ids[0]

    def _draw(self, request, chain: "_Chain", logits: torch.Tensor) -> int | None:
        root = DraftTree.build([0], [Draft.empty()])
        chain_text = request.tokens + chain.path()
        law = tree_probs(logits[None, None].clone(), root, [request.processors], [request.prompt], [chain_text])[0, 0]  # [V]
        key = torch.tensor([[*request.key, chain.budget.round << 32 | chain.length, DRAFT]])
        token = int(ops.verify_tree_point(root.tokens, root.first_child, root.next_sibling, law[None, None], key).next_token)
        if token < 0:
            return None
        law = torch.nn.functional.pad(law, (0, self.vocab_size - len(law))) if self.vocab_size else law
        chain.draws.append(Draws(chain.tip, [token], law))
        # The length of the chain may not depend on the token drawn last, or the law of the drafts would not be `law`.
        chain.add(token, chain.tip, chain.score * float(law.square().sum()))
        return token


class _Chain:
    """A draft under construction: one path, with siblings hanging off it."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.scores: list[float] = []
        self.draws: list[Draws] = []
        self.tip, self.length, self.score = -1, 0, 1.0

    def add(self, token: int, parent: int, score: float) -> None:
        self.add_sibling(token, parent, score)
        self.tip, self.length, self.score = len(self.tokens) - 1, self.length + 1, score

    def add_sibling(self, token: int, parent: int, score: float) -> None:
        self.tokens.append(token)
        self.parents.append(parent)
        self.scores.append(score)

    def path(self) -> list[int]:
        node, tokens = self.tip, []
        while node >= 0:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def draft(self) -> Draft:
        return Draft(np.asarray(self.tokens, np.int32), np.asarray(self.parents, np.int32), np.asarray(self.scores, np.float32), tuple(self.draws))
