"""The loop: propose, run the target once over the tree, verify, commit, learn."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, Sequence

import numpy as np
import torch

from fastdecode import ops
from fastdecode.errors import InvalidLogitsError, UnsupportedModelError
from fastdecode.results import TokenLogprobs
from fastdecode.speculative.controller import Controller, Plan
from fastdecode.speculative.drafters import Drafter
from fastdecode.speculative.request import Request
from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.speculative.verifiers import Verifier, choose_verifier
from fastdecode.targets.base import TargetModel, TargetState, prefill_rows


@dataclass(frozen=True)
class Options:
    """How a call speculates.

    Attributes:
        max_draft: draft tokens per request and round; 0 decodes plainly.
        min_score: nodes with a lower estimated chance of acceptance are not drafted.
        adaptive: cut drafts to the size that measured costs and acceptance estimates favour.
        logprobs: how many top log-probabilities to keep per token; None keeps nothing.
        scores: keep the processed logits of every token.
    """

    max_draft: int
    min_score: float
    adaptive: bool = True
    logprobs: int | None = None
    scores: bool = False


@dataclass
class KeptCache:
    """The cache of the last single-prompt call: the next turn of a chat starts with the same tokens."""

    tokens: list[int] = field(default_factory=list)
    state: TargetState | None = None
    draft_state: Any = None  # of the drafter, if it reads hidden states


class Kept(NamedTuple):
    """What verification left of one row: nodes downwards from the root, and the target's own token after the last of them."""

    path: list[int]
    next_token: int


class Decoding:
    """Decodes a batch of requests, one round per `step`; rows leave the batch as they finish."""

    @torch.inference_mode()
    def __init__(self, target: TargetModel, drafter: Drafter | None, verifier: Verifier | None, requests: Sequence[Request], options: Options, kept: KeptCache, controller: Controller):
        self.target, self.verifier, self.requests, self.options, self.kept, self.controller = target, verifier, list(requests), options, kept, controller
        self.drafter = drafter if options.max_draft else None
        self.plan = Plan(controller, self.requests, options.max_draft, options.min_score, options.adaptive)
        self.active = list(range(len(self.requests)))
        self.logprobs: list[list[TokenLogprobs]] = [[] for _ in self.requests]
        self.scores: list[list[torch.Tensor]] = [[] for _ in self.requests]
        self.round = 0
        self.taps = list(getattr(self.drafter, "taps", ()))  # what the drafter reads of the target's hidden states
        with self._timed("draft"):
            self.draft_state = self.drafter.begin(self.requests) if self.drafter else None
        with self._timed("prefill"):
            self.state = self._prefilled_state()
        if hasattr(self.drafter, "attach"):
            self.drafter.attach(self.draft_state, self.state)
        for request in self.requests:
            request.stats.drafter = self.drafter.name if self.drafter else "none"

    @torch.inference_mode()
    def step(self) -> list[tuple[int, list[int]]]:
        """One round. Returns (request number, emitted tokens) of every active row."""
        rows = self.active
        requests = [self.requests[r] for r in rows]
        begin = time.perf_counter()
        drafts = self._propose(rows)
        tree = self._tree(requests, drafts)
        drafted = time.perf_counter()
        seen = self._look(rows, tree, requests)
        hidden = self.state.hidden if self.taps else None
        looked = time.perf_counter()
        kept = self._verify(tree, seen, requests)
        emitted = [self._emit(b, r, drafts[b], kept[b]) for b, r in enumerate(rows)]
        verified = time.perf_counter()
        self.target.commit(self.state, rows, [k.path[: 1 + len(e)] for k, e in zip(kept, emitted)])
        committed = time.perf_counter()
        self._observe(rows, emitted, self._hidden_of(tree, kept, emitted, hidden))
        self.controller.step.record(len(rows) + sum(map(len, drafts)), looked - drafted)
        self.round += 1
        self.active = [r for r in rows if self.requests[r].finish_reason is None]
        draft_seconds = drafted - begin + time.perf_counter() - committed
        for request in requests:
            request.stats.add_seconds(draft=draft_seconds, target=looked - drafted, verify=verified - looked, commit=committed - verified)
        return list(zip(rows, emitted))

    def _prefilled_state(self) -> TargetState:
        """All prompt tokens but the last, which is the first pending token."""
        if len(self.requests) == 1 and (reused := self._reuse()) is not None:
            return reused
        longest = max(len(q.prompt) + min(q.max_new_tokens, 1024) for q in self.requests)
        state = self._new_state(len(self.requests), longest + self.options.max_draft + 1)
        prefill_rows(self.target, state, [request.prompt[:-1] for request in self.requests], self._reader)
        return state

    def _new_state(self, rows: int, capacity: int) -> TargetState:
        if not self.taps:
            return self.target.new_state(rows, capacity)
        if not hasattr(self.target, "layers"):
            raise UnsupportedModelError(f"drafter {self.drafter.name!r} reads hidden states, and the target {type(self.target).__name__} does not give any: it has no `layers` (see TargetModel)")
        return self.target.new_state(rows, capacity, self.taps)

    @property
    def _reader(self):
        """Hands the hidden states of a prompt's next tokens to the drafter, if it reads them."""
        return (lambda row, hidden: self.drafter.read(self.draft_state, row, hidden)) if self.taps else None

    def _reuse(self) -> TargetState | None:
        """The kept cache, cut back to the tokens that this prompt shares with it."""
        prompt, kept, state = self.requests[0].prompt, self.kept.tokens, self.kept.state
        self.kept.state = None  # taken: a second call that runs meanwhile starts afresh
        shared = next((i for i, (a, b) in enumerate(zip(kept, prompt[:-1])) if a != b), min(len(kept), len(prompt) - 1))
        if state is None or shared == 0:
            return None
        state.lengths[0] = shared
        if hasattr(state, "taps"):
            state.taps = list(self.taps)  # an earlier call may have read other hidden states, or none
        if self.taps:
            self.drafter.resume(self.draft_state, 0, self.kept.draft_state, shared)
            self.target.prefill(state, 0, prompt[shared:-1], lambda hidden: self._reader(0, hidden))
        else:
            self.target.prefill(state, 0, prompt[shared:-1])
        self.requests[0].stats.reused_tokens = shared
        return state

    def _propose(self, rows: Sequence[int]) -> list[Draft]:
        if self.drafter is None:
            return [Draft.empty()] * len(rows)
        budgets = self.plan.budgets(rows, self.round)
        start = time.perf_counter()
        proposals = self.drafter.propose(self.draft_state, rows, budgets)
        self.controller.record_proposal(max(d.depth for d in proposals), time.perf_counter() - start)
        drafts = self.plan.trim(rows, proposals)
        for r, budget, proposal, draft in zip(rows, budgets, proposals, drafts):
            self.requests[r].stats.record_decision(budget.depth == 0 and self.requests[r].remaining > 1, len(proposal) - len(draft))
        return drafts

    def _tree(self, requests: Sequence[Request], drafts: Sequence[Draft]) -> DraftTree:
        pending = [q.pending for q in requests]
        if not any(map(len, drafts)) and not any(d.draws for d in drafts):
            return DraftTree.pending_only(pending)
        for draft, request in zip(drafts, requests):
            if len(draft):
                self._check(draft, request)
        return DraftTree.build(pending, drafts)

    def _check(self, draft: Draft, request: Request) -> None:
        low, high, depth = draft.extent
        if low < 0 or high >= self.target.vocab_size:
            raise ValueError(f"drafter {self.drafter.name!r} proposed token {low if low < 0 else high}, the model's vocabulary is 0 .. {self.target.vocab_size - 1}; draft only ids that the model has")
        if depth > max(0, request.remaining - 1):
            raise ValueError(f"drafter {self.drafter.name!r} proposed a path of {depth} tokens where the budget's depth was at most {request.remaining - 1}; keep to budget.depth")

    def _look(self, rows: Sequence[int], tree: DraftTree, requests: Sequence[Request]) -> torch.Tensor | np.ndarray:
        """The target's logits [B, N, V], or only its most probable tokens, an array int32 [B, N], where nothing else is asked for."""
        learn = getattr(self.drafter, "learn", None)
        entered = {"entered": self.drafter.entered(self.draft_state, rows, tree)} if hasattr(self.drafter, "entered") and tree.shape[1] > 1 else {}
        if hasattr(self.target, "most_probable") and not self._keeps_logits and all(q.processors.plain and not q.processors.sample for q in requests):
            found = self.target.most_probable(self.state, rows, tree, **entered)
            if learn:
                self._teach(rows, tree, requests, torch.from_numpy(found))
            return found[0]
        logits = self.target.forward(self.state, rows, tree, **entered)
        logits = logits.float() if logits.dtype == torch.float64 else logits  # what the operations take
        if learn:
            stats = ops.vocab_stats(logits.flatten(0, 1))
            self._teach(rows, tree, requests, torch.stack([stats.argmax, stats.second]).cpu().view(2, *tree.shape))
        return logits

    def _teach(self, rows: Sequence[int], tree: DraftTree, requests: Sequence[Request], found: torch.Tensor) -> None:
        """Tells the drafter which two tokens, int32 [2, B, N], the target holds most probable after every node."""
        for b, (row, request, nodes) in enumerate(zip(rows, requests, tree.num_nodes.tolist())):
            tokens, parents = tree.tokens[b, :nodes], tree.parents[b, :nodes]
            before = (request.prompt[-2:] + request.tokens)[-2:][0]  # of the root: the token before the pending one
            above = torch.where(parents < 0, before, tokens[parents.clamp(min=0)])
            self.drafter.learn(self.draft_state, row, torch.stack([above, tokens], 1), found[:, b, :nodes].T)

    @property
    def _keeps_logits(self) -> bool:
        return self.options.logprobs is not None or self.options.scores

    def _verify(self, tree: DraftTree, seen: torch.Tensor | np.ndarray, requests: Sequence[Request]) -> list[Kept]:
        verifier = choose_verifier(self.verifier, tree, requests)
        for request, nodes in zip(requests, tree.arrays["num_nodes"].tolist()):
            if nodes > 1 or not request.tokens:  # rounds without a draft say nothing about the rule
                request.stats.verifier = verifier.name
                request.stats.lossless &= verifier.lossless
        self._raw = seen.clone() if self._keeps_logits else None
        if isinstance(seen, np.ndarray):
            kept = [Kept(*row) for row in verifier.follow(tree, seen)]
        else:
            verdict = verifier.verify(tree.to(seen.device), seen, requests, self.round)
            kept = [Kept(path[: length + 1], token) for path, length, token in zip(*(t.tolist() for t in verdict))]
        for request, row in zip(requests, kept):
            if row.next_token < 0:
                position = len(request.tokens) + len(row.path) - 1
                raise InvalidLogitsError(f"no token can be chosen at output position {position}: the model returned NaN, or no token with a finite logit is left after the logits processors; check the weights, the dtype and the processors")
        return kept

    def _emit(self, b: int, row: int, draft: Draft, kept: Kept) -> list[int]:
        """Hands the kept tokens to the request one by one, until one of them ends it."""
        request, accepted = self.requests[row], len(kept.path) - 1
        tokens = [int(draft.tokens[i - 1]) for i in kept.path[1:]] + [kept.next_token]
        emitted: list[int] = []
        for node, token in zip(kept.path, tokens):
            if self.options.scores:
                self.scores[row].append(request.processors.scores(request.prompt + request.tokens, self._raw[b, node]))
            if self.options.logprobs is not None:
                self.logprobs[row].append(_logprobs(self._raw[b, node], token, self.options.logprobs))
            request.emit(token)
            emitted.append(token)
            if request.finish_reason:
                break
        accepted = min(accepted, len(emitted))
        request.stats.record_round(len(draft), draft.depth, accepted, len(emitted))
        self.plan.learn(row, draft, accepted)
        return emitted

    def _hidden_of(self, tree: DraftTree, kept: Sequence[Kept], emitted: Sequence[list[int]], hidden: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Hidden states [taps, n, width] at the nodes after which each row's n emitted tokens stand."""
        if hidden is None:
            return [None] * len(kept)
        first, states = [0, *accumulate(tree.arrays["num_nodes"].tolist())], hidden.numpy()
        return [torch.from_numpy(states.take([first[b] + node for node in k.path[: len(tokens)]], 1)) for b, (k, tokens) in enumerate(zip(kept, emitted))]

    def _observe(self, rows: Sequence[int], emitted: Sequence[list[int]], hidden: Sequence[torch.Tensor | None]) -> None:
        for row, tokens, states in zip(rows, emitted, hidden):
            if self.drafter:
                self.drafter.observe(self.draft_state, row, tokens)
            if states is not None and self.requests[row].finish_reason is None:
                self.drafter.read(self.draft_state, row, states)
            if self.requests[row].finish_reason:
                self._finish(row)

    def _finish(self, row: int) -> None:
        request = self.requests[row]
        if self.drafter:
            self.drafter.end(self.draft_state, row)
        if len(self.requests) == 1:
            self.kept.tokens = (request.prompt + request.tokens)[: self.state.lengths[0]]
            self.kept.state, self.kept.draft_state = self.state, self.draft_state

    @contextmanager
    def _timed(self, part: str):
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        for request in self.requests:
            request.stats.add_seconds(**{part: seconds})


def _logprobs(logits: torch.Tensor, token: int, k: int) -> TokenLogprobs:
    logp = torch.log_softmax(logits.float(), -1)
    top = logp.topk(k) if k else None
    return TokenLogprobs(float(logp[token]), list(zip(top.indices.tolist(), top.values.tolist())) if k else [])
