from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Sequence

import torch

from fastdecode.speculative.drafters.base import Budget
from fastdecode.speculative.exit_layers import ExitChoice
from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.base import TargetModel
from fastdecode.targets.native import NativeTarget

CANDIDATES = 10  # layers that are weighed
ALWAYS, OFTEN, SELDOM = 4, 8, 32  # rounds that are all analysed at first; then every so many, with drafts and without


@dataclass
class _State:
    requests: Sequence
    cache: Any = None  # of the target
    hidden: dict[int, list[torch.Tensor]] = field(default_factory=dict)  # by row: [taps, n, width] of the pending token and the drafted ones
    analysed: bool = False  # whether this round's hidden states are kept
    round: int = 0
    order: list[int] = field(default_factory=list)  # rows of the last pass, and its nodes per row
    nodes: list[int] = field(default_factory=list)


class EarlyExitDrafter:
    """The model's own first layers draft, and verification goes on from where they stopped (LayerSkip, arXiv:2404.16710; DEL, arXiv:2504.05598).

    What the early layers computed - keys, values and hidden states of the drafted tokens - is used by the pass that verifies them: no
    layer runs twice for a token. It pays for models that were trained to exit early; for others plain decoding is found to be faster.

    Args:
        layer: layers that draft, followed by the final norm and the head; "auto" chooses layer and length round by round from what every candidate
            layer would have said (DEL).
        num_tokens: depth at most.
        threshold: a token of less confidence ends the draft; None learns one for every layer with "auto", and means 0 else.
    """

    name = "early_exit"

    def __init__(self, layer: int | str = "auto", num_tokens: int = 12, threshold: float | None = None):
        if layer != "auto" and (not isinstance(layer, int) or isinstance(layer, bool) or layer < 1):
            raise ValueError(f"layer={layer!r} must be a positive integer or 'auto'")
        if not isinstance(num_tokens, int) or isinstance(num_tokens, bool) or num_tokens < 1:
            raise ValueError(f"num_tokens={num_tokens!r} must be a positive integer")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold!r} must lie between 0 and 1")
        self.layer, self.num_tokens, self.threshold, self.adaptive = layer, num_tokens, threshold, layer == "auto"
        self.length = num_tokens
        self.target: NativeTarget | None = None
        self.choice: ExitChoice | None = None

    def pair(self, target: TargetModel) -> None:
        if not isinstance(target, NativeTarget):
            raise ValueError("drafter early_exit runs parts of the model, which only the compiled runtime can; use target='native', or another drafter")
        if target.layers < 2 or (not self.adaptive and self.layer >= target.layers):
            raise ValueError(f"layer={self.layer} of early_exit is not below the model's {target.layers} layers")
        if self.target is not None and self.target is not target:
            raise ValueError("this EarlyExitDrafter drafts for another generator's model already; make one per generator")
        self.target = target
        if self.adaptive:
            layers = list(range(1, target.layers, max(1, target.layers // CANDIDATES)))
            first, last = self._seconds(layers[0]), self._seconds(layers[-1])
            slope = (last - first) / max(1, layers[-1] - layers[0])
            whole = last + slope * (target.layers - layers[-1])
            self.choice = ExitChoice(layers, self.num_tokens, whole, lambda layer: first + slope * (layer - layers[0]))
            self.layer, self.length = layers[0], 0

    def _seconds(self, layer: int, repeats: int = 5) -> float:
        """Of the early layers and the head for one token, the fastest of some."""
        state, fastest = self.target.new_state(1, 16), float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            self.target.early(state, [0], [[0]], [0], layer)
            fastest = min(fastest, time.perf_counter() - start)
        return fastest

    def level_seconds(self) -> float:
        return self._seconds(self.layer)

    def begin(self, requests: Sequence) -> _State:
        return _State(requests)

    def attach(self, state: _State, cache: Any) -> None:
        """Tells the target's state of the batch, whose keys and values the early layers share."""
        state.cache = cache

    def propose(self, state: _State, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        state.hidden = {r: [] for r in rows}
        if self.adaptive:
            self.layer, self.length = self.choice.best()
            state.analysed = state.round < ALWAYS or state.round % (OFTEN if self.length else SELDOM) == 0
        state.round += 1
        state.order, state.nodes = list(rows), [1] * len(rows)
        self._keep_hidden(state, 0)
        most = {r: min(b.nodes, b.depth, self._most) for r, b in zip(rows, budgets)}
        chains: dict[int, tuple[list[int], list[float]]] = {r: ([], []) for r in rows}
        feed = {r: state.requests[r].pending for r in rows if most[r] > 0}
        while feed:
            said, feed = self._advance(state, feed), {}
            for r, (token, confidence) in said.items():
                chain, scores = chains[r]
                if token < 0:
                    continue
                chain.append(token)
                scores.append((scores[-1] if scores else 1.0) * confidence)
                if len(chain) < most[r] and confidence >= self._least:
                    feed[r] = token
        return [Draft.chain(*chains[r]) for r in rows]

    @property
    def _most(self) -> int:
        """Length of a draft: the promised one; longer where a threshold ends it."""
        learnt = self.adaptive and self.length and self.threshold is None and self.choice.accounts[self.layer].threshold is not None
        return self.num_tokens if learnt else self.length

    @property
    def _least(self) -> float:
        learnt = self.choice.accounts[self.layer].threshold if self.adaptive and self.threshold is None else None
        return learnt or self.threshold or 0.0

    def _candidates(self, low: int, high: int) -> list[int]:
        return [layer for layer in self.choice.accounts if low <= layer < high] if self.adaptive else []

    def _keep_hidden(self, state: _State, begin: int) -> None:
        """Asks the target's next pass, from layer `begin` on, for the hidden states that will be looked at."""
        if self.adaptive:
            state.cache.taps = self._candidates(begin, self.target.layers) if state.analysed else []

    def _advance(self, state: _State, feed: dict[int, int]) -> dict[int, tuple[int, float]]:
        """Runs the early layers over one token of each row; returns their favourite and its probability."""
        stats = self._run_early(state, {r: [token] for r, token in feed.items()}, True)
        return dict(zip(feed, zip(stats.argmax.tolist(), (stats.top1 - stats.logsumexp).exp().tolist())))

    def _run_early(self, state: _State, texts: dict[int, list[int]], head: bool):
        taps = self._candidates(0, self.layer) if state.analysed else []
        offsets = [sum(part.shape[1] for part in state.hidden[r]) for r in texts]
        hidden, stats = self.target.early(state.cache, list(texts), list(texts.values()), offsets, self.layer, head, taps)
        for r, part in zip(texts, hidden.split([len(text) for text in texts.values()], 1)):
            state.hidden[r].append(part)
        return stats

    def entered(self, state: _State, rows: Sequence[int], tree: DraftTree) -> tuple[int, torch.Tensor]:
        """The layer that verification goes on with, and the hidden states [M, width] before it of all nodes of the trees."""
        counts = dict(zip(rows, tree.num_nodes.tolist()))
        known = {r: sum(part.shape[1] for part in state.hidden[r]) for r in rows}
        missing = {r: tree.tokens[b, known[r] : counts[r]].tolist() for b, r in enumerate(rows) if counts[r] > known[r]}
        if missing:
            self._run_early(state, missing, False)
        state.hidden = {r: [torch.cat(state.hidden[r], 1)[:, : counts[r]]] for r in rows}
        state.nodes = [counts[r] for r in rows]
        self._keep_hidden(state, self.layer)
        return self.layer, torch.cat([state.hidden[r][0][-1] for r in rows])

    def observe(self, state: _State, row: int, tokens: Sequence[int]) -> None:
        """Looks at what every candidate layer would have said at the positions that turned out to be on the path."""
        if not state.analysed:
            return
        at, count = state.order.index(row), len(tokens)
        begin = sum(state.nodes[:at])
        late = state.cache.hidden[:, begin : begin + count]  # [taps, n, width], of the layers that the last pass ran
        early = state.hidden[row][0][:-1, :count] if state.hidden[row] and len(state.cache.taps) < len(self.choice.accounts) else late[:0]
        hidden = torch.cat([early, late])
        stats = self.target.exit_stats(hidden.flatten(0, 1))
        said, sure = stats.argmax.view(-1, count).tolist(), (stats.top1 - stats.logsumexp).exp().view(-1, count).tolist()
        for account, ids, confidences in zip(self.choice.accounts.values(), said, sure):
            account.learn([a == b for a, b in zip(ids, tokens)], confidences)

    def end(self, state: _State, row: int) -> None:
        state.hidden.pop(row, None)
