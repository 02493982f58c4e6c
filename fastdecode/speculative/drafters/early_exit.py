from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Sequence

import torch

from fastdecode.speculative.drafters.base import Budget
from fastdecode.speculative.exit_layers import Exit, ExitChoice, Watch
from fastdecode.speculative.tree import Draft, DraftTree
from fastdecode.targets.base import TargetModel
from fastdecode.targets.native import NativeTarget

CANDIDATES = 10  # layers that are weighed
LONGEST = 64  # draft
STAY = 8  # rounds that a choice holds, unless an analysis has told more


@dataclass
class _Chain:
    """A draft: its tokens, how sure the layer was of each, and the chance that all up to there are right."""

    most: int
    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)


@dataclass
class _State:
    requests: Sequence
    cache: Any = None  # of the target
    hidden: dict[int, list[torch.Tensor]] = field(default_factory=dict)  # by row: [taps, n, width] of the pending token and the drafted ones
    analysed: bool = False  # whether this round's hidden states are kept
    order: list[int] = field(default_factory=list)  # rows of the last pass, and its nodes per row
    nodes: list[int] = field(default_factory=list)
    chains: dict[int, _Chain] = field(default_factory=dict)  # by row, of this round
    steps: int = 0  # of the early layers in this round's draft, and the seconds they took
    seconds: float = 0.0
    drafted: float | None = None  # when the draft of the last round was there; None: that round says nothing about costs


class EarlyExitDrafter:
    """The model's own first layers draft, and verification goes on from where they stopped (LayerSkip, arXiv:2404.16710; DEL, arXiv:2504.05598).

    What the early layers computed - keys, values and hidden states of the drafted tokens - is used by the pass that verifies them: no
    layer runs twice for a token. It pays for models that were trained to exit early; for others plain decoding is found to be faster.

    Args:
        layer: layers that draft, followed by the final norm and the head; "auto" chooses layer and length round by round from what every candidate
            layer would have said (DEL).
        num_tokens: depth at most.
        threshold: a token of less confidence ends the draft. None: with "auto" a draft ends where one more token, at the chance that
            all before it are right, is not worth its time; else nothing but num_tokens ends it.
    """

    name = "early_exit"

    def __init__(self, layer: int | str = "auto", num_tokens: int = 12, threshold: float | None = None):
        if layer != "auto" and (not isinstance(layer, int) or isinstance(layer, bool) or layer < 1):
            raise ValueError(f"layer={layer!r} must be a positive integer or 'auto'")
        if not isinstance(num_tokens, int) or isinstance(num_tokens, bool) or not 1 <= num_tokens <= LONGEST:
            raise ValueError(f"num_tokens={num_tokens!r} must be an integer from 1 to {LONGEST}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold!r} must lie between 0 and 1")
        self.num_tokens, self.threshold, self.adaptive = num_tokens, threshold, layer == "auto"
        self.exit = Exit(1, 0) if self.adaptive else Exit(layer, num_tokens)
        self.target: NativeTarget | None = None
        self.choice: ExitChoice | None = None
        self.watch = Watch()
        self.age = 0  # rounds since the exit was chosen

    def pair(self, target: TargetModel) -> None:
        if not isinstance(target, NativeTarget):
            raise ValueError("drafter early_exit runs parts of the model, which only the compiled runtime can; use target='native', or another drafter")
        if target.layers < 2 or self.exit.layer >= target.layers:
            raise ValueError(f"layer={self.exit.layer} of early_exit is not below the model's {target.layers} layers")
        if self.target is not None and self.target is not target:
            raise ValueError("this EarlyExitDrafter drafts for another generator's model already; make one per generator")
        self.target = target
        if self.adaptive:
            self.choice = self._make_choice(list(range(1, target.layers, max(1, target.layers // CANDIDATES))))

    def _make_choice(self, layers: list[int]) -> ExitChoice:
        """By the cost of few and of most layers, for one token and for many."""
        count, most = self.target.layers, self.num_tokens
        first, last = self._seconds(layers[0]), self._seconds(layers[-1])
        slope = (last - first) / max(1, layers[-1] - layers[0])
        more = min(most, (self.target.max_positions or 1 + most) - 1)
        wide = max(0.0, self._seconds(layers[-1], 1 + more) - last) / max(1, more) / layers[-1]  # of one token more, per layer
        return ExitChoice(layers, most, last + slope * (count - layers[-1]), [first + slope * (layer - layers[0]) for layer in layers], [wide * (count - layer) for layer in layers])

    def _seconds(self, layer: int, tokens: int = 1, repeats: int = 5) -> float:
        """Of the early layers, and the head for the last token, the fastest of some."""
        state, fastest = self.target.new_state(1, 64), float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            self.target.early(state, [0], [[0] * tokens], [0], layer)
            fastest = min(fastest, time.perf_counter() - start)
        return fastest

    @property
    def judges_levels(self) -> bool:
        return self.adaptive

    @property
    def judges_nodes(self) -> bool:
        return self.adaptive and self.threshold is None

    def level_seconds(self) -> float:
        return 0.0 if self.adaptive else self._seconds(self.exit.layer)  # DEL weighs the length itself

    def begin(self, requests: Sequence) -> _State:
        self.watch.begin()
        return _State(requests)

    def attach(self, state: _State, cache: Any) -> None:
        """Tells the target's state of the batch, whose keys and values the early layers share."""
        state.cache = cache

    def propose(self, state: _State, rows: Sequence[int], budgets: Sequence[Budget]) -> list[Draft]:
        state.hidden = {r: [] for r in rows}
        if self.adaptive:
            self._choose(state)
        state.order, state.nodes, state.steps = list(rows), [1] * len(rows), 0
        self._keep_hidden(state, 0)
        begun = time.perf_counter()
        state.chains = {r: _Chain(min(b.nodes, b.depth, self._most)) for r, b in zip(rows, budgets)}
        feed = {r: state.requests[r].pending for r in rows if state.chains[r].most > 0}
        while feed:
            said = self._advance(state, feed)
            feed = {r: token for r, (token, confidence) in said.items() if token >= 0 and self._extend(state.chains[r], token, confidence)}
        state.drafted = time.perf_counter()
        state.seconds = state.drafted - begun
        return [Draft.chain(c.tokens, c.chances) for c in state.chains.values()]

    def _extend(self, chain: _Chain, token: int, confidence: float) -> bool:
        """Adds a token; returns whether the draft goes on behind it."""
        chance = (chain.chances[-1] if chain.chances else 1.0) * self.exit.chance(confidence)
        chain.tokens.append(token)
        chain.confidences.append(confidence)
        chain.chances.append(chance)
        return len(chain.tokens) < chain.most and (confidence >= self.threshold if self.threshold is not None else chance > self.exit.least)

    def stand_by(self, state: _State) -> None:
        """In the place of `propose`: another drafter's tree is verified in this round, and nothing is looked at."""
        state.hidden, state.chains, state.analysed, state.drafted, state.cache.taps = {}, {}, False, None, []

    @property
    def promise(self) -> float:
        """Tokens that the next draft is expected to give while plain decoding gives one; only for layer "auto"."""
        self._refresh()
        return self.exit.pace * self.choice.step_seconds

    def _choose(self, state: _State) -> None:
        """Layer and length of this round, by what the last one has cost; whether the round is analysed."""
        if state.drafted is not None and not state.analysed:
            self.choice.learn_costs(self.exit.layer, state.steps, state.seconds, time.perf_counter() - state.drafted)
        self.age += 1
        self._refresh()
        state.analysed = not self.exit.unbeaten and self.watch.due(self.exit.drafts > 0)

    def _refresh(self) -> None:
        if self.age >= STAY:
            self.exit, self.age = self.choice.best(), 0

    @property
    def _most(self) -> int:
        """Length of a draft: where something else ends it, the promised one is none but whether to draft at all."""
        return self.num_tokens if self.exit.drafts else 0

    def _candidates(self, low: int, high: int) -> list[int]:
        return [layer for layer in self.choice.layers if low <= layer < high] if self.adaptive else []

    def _keep_hidden(self, state: _State, begin: int) -> None:
        """Asks the target's next pass, from layer `begin` on, for the hidden states that will be looked at."""
        if self.adaptive:
            state.cache.taps = self._candidates(begin, self.target.layers) if state.analysed else []

    def _advance(self, state: _State, feed: dict[int, int]) -> dict[int, tuple[int, float]]:
        """Runs the early layers over one token of each row; returns their favourite and its probability."""
        state.steps += 1
        stats = self._run_early(state, {r: [token] for r, token in feed.items()}, True)
        return dict(zip(feed, zip(stats.argmax.tolist(), (stats.top1 - stats.logsumexp).exp().nan_to_num().tolist())))

    def _run_early(self, state: _State, texts: dict[int, list[int]], head: bool):
        taps = self._candidates(0, self.exit.layer) if state.analysed else []
        offsets = [sum(part.shape[1] for part in state.hidden[r]) for r in texts]
        hidden, stats = self.target.early(state.cache, list(texts), list(texts.values()), offsets, self.exit.layer, head, taps)
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
        self._keep_hidden(state, self.exit.layer)
        return self.exit.layer, torch.cat([state.hidden[r][0][-1] for r in rows])

    def observe(self, state: _State, row: int, tokens: Sequence[int]) -> None:
        """Looks at what every candidate layer would have said at the positions that turned out to be on the path."""
        if not state.analysed:
            return self._learn_draft(state.chains.get(row), tokens)
        at, count = state.order.index(row), len(tokens)
        begin = sum(state.nodes[:at])
        late = state.cache.hidden[:, begin : begin + count]  # [taps, n, width], of the layers that the last pass ran
        early = state.hidden[row][0][:-1, :count] if state.hidden[row] and len(state.cache.taps) < len(self.choice.layers) else late[:0]
        hidden = torch.cat([early, late])
        stats = self.target.exit_stats(hidden.flatten(0, 1))
        matches = stats.argmax.view(-1, count) == torch.tensor(tokens, dtype=torch.int32)
        self.choice.learn(matches.numpy(), (stats.top1 - stats.logsumexp).exp().nan_to_num().view(-1, count).numpy())
        self.age = STAY

    def _learn_draft(self, chain: _Chain | None, tokens: Sequence[int]) -> None:
        """What became of a draft in a round that is not analysed, up to the first wrong token."""
        if self.adaptive and chain and chain.tokens:
            self.choice.learn_draft(self.exit.layer, [a == b for a, b in zip(chain.tokens, tokens)], chain.confidences)

    def end(self, state: _State, row: int) -> None:
        state.hidden.pop(row, None)
