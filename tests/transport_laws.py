"""Verification by optimal transport with chances in the place of coins, for tests that enumerate what can happen."""

from typing import Callable, Iterator

import numpy as np

from fastdecode.ops.reference import transport, transport_block

Prefix = tuple[int, ...]  # tokens from below the root down to a node


def chances_of(plan: transport.Plan, p: np.ndarray, q: np.ndarray, drawn: tuple[int, ...]) -> dict[int, float]:
    """Token -> chance that one of its drafts wins."""
    where = transport.split(p, q)
    tokens = list(dict.fromkeys(drawn))
    laws = np.stack([transport_block.score_law(plan, where, t) for t in tokens])
    return dict(zip(tokens, transport_block.chances(plan, laws, np.array([drawn.count(t) for t in tokens]))))


class Tree:
    """A drafted tree: target and draft laws float32 [V] by prefix, draws by prefix, and the prefixes of its nodes."""

    def __init__(self, node_laws: Callable[[Prefix], np.ndarray], draft_laws: Callable[[Prefix], np.ndarray], drawn: dict[Prefix, tuple[int, ...]], nodes: set[Prefix]):
        self.node_laws, self.draft_laws, self.drawn, self.nodes = node_laws, draft_laws, drawn, nodes

    def planned(self, prefix: Prefix, weight: float) -> tuple[transport.Plan, dict[int, float], np.ndarray]:
        """The plan of a node, how likely each drawn token wins, and the law [V] of what is emitted when none does."""
        p = self.node_laws(prefix)
        if prefix not in self.drawn:
            return transport.nothing(), {}, p / p.sum(dtype=float)
        q, drawn = self.draft_laws(prefix), self.drawn[prefix]
        plan = transport.plan(p, q, len(drawn), weight)
        rest = np.maximum(p.astype(float) - q.astype(float) * transport.kept_ratio(transport.split(p, q).ratio, plan.cap), 0)
        return plan, chances_of(plan, p, q, drawn), rest / rest.sum() if rest.any() else p / p.sum(dtype=float)

    def token_by_token(self, prefix: Prefix = ()) -> dict[Prefix, float]:
        """Law of what is emitted below a node: token tuples -> probability."""
        _, won, rest = self.planned(prefix, 1.0)
        chances = (1 - sum(won.values())) * rest
        for token, h in won.items():
            chances[token] += h
        result: dict[Prefix, float] = {}
        for token, chance in enumerate(chances):
            following = (*prefix, token)
            for emitted, part in (self.token_by_token(following) if following in self.nodes else {following: 1.0}).items():
                result[emitted] = result.get(emitted, 0.0) + chance * part
        return result

    def at_once(self, prefix: Prefix = (), weight: float = 1.0) -> tuple[dict[Prefix, float], float]:
        """The same for whole trees; and the chance that the node passes."""
        plan, won, rest = self.planned(prefix, weight)
        result: dict[Prefix, float] = {}

        def add(law: dict[Prefix, float], factor: float) -> None:
            for emitted, chance in law.items():
                result[emitted] = result.get(emitted, 0.0) + factor * chance

        open_chance, left = 1.0, 1.0
        for token, h in won.items():
            share = min(1.0, h / left) if left > 0 else 0.0
            left -= h
            if share <= 0:
                continue
            following = (*prefix, token)
            below, passed = self.at_once(following, share) if following in self.nodes else ({following: share}, share)
            add(below, open_chance)
            open_chance *= 1 - passed
        passes = 1.0 if weight >= 1 or plan.alpha >= 1 else (weight - plan.alpha) / (1 - plan.alpha)
        for token, chance in enumerate(rest):
            following = (*prefix, token)
            undrawn = following in self.nodes and token not in won  # verified like a root
            add(self.at_once(following)[0] if undrawn else {following: 1.0}, open_chance * passes * chance)
        return result, 1 - open_chance * (1 - passes)


class Choices:
    """Stands for random numbers: the choices of one run, with their chances."""

    def __init__(self, script: list[int]):
        self.script, self.log = script, []

    def choose(self, chances) -> int:
        possible = np.flatnonzero(np.asarray(chances) > 0)
        at = self.script[len(self.log)] if len(self.log) < len(self.script) else 0
        self.log.append((at, len(possible), float(chances[possible[at]])))
        return int(possible[at])

    @property
    def chance(self) -> float:
        return float(np.prod([chance for *_, chance in self.log]))


def every_outcome(run: Callable[[Choices], object]) -> Iterator[tuple[float, object]]:
    """Runs with every sequence of choices; their chances and results."""
    script: list[int] | None = []
    while script is not None:
        choices = Choices(script)
        result = run(choices)
        yield choices.chance, result
        taken = [at for at, *_ in choices.log]
        while taken and taken[-1] + 1 == choices.log[len(taken) - 1][1]:
            taken.pop()
        script = [*taken[:-1], taken[-1] + 1] if taken else None
