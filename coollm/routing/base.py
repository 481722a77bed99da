"""What a routing algorithm is: a pure function that orders targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from coollm.core.config.schema import Policy
from coollm.core.types import Target, Value


class Reading(Value, frozen=True):
    """What is known of one target when it is ranked, by all workers. `fullness` are shares of limits used, 0 to 1. The latency is a mean, the peak one that
    takes a slow answer at once.
    """

    in_flight: int = 0
    latency_seconds: float | None = None
    peak_seconds: float | None = None
    error_rate: float = 0.0
    request_fullness: float = 0.0
    token_fullness: float = 0.0


class Ranked(Value, frozen=True):
    """A target and why it stands where it does: a higher score comes first. Each component is between 0 and 1, 1 being best."""

    target: Target
    score: float
    components: Mapping[str, float]


Rank = Callable[[Sequence[Target], Mapping[str, Reading], int, Policy], list[Ranked]]
"""rank(targets, readings by key, turn, policy) → the targets in order. `turn` goes up by one with each request."""


class Algorithm(Value, frozen=True):
    """A way to rank. With `repeats` its order is the same again after as many turns as there are targets, as long as the readings are, and does not look at
    calls in flight: then it need not be made for each request.
    """

    rank: Rank
    repeats: bool = False


def rotate(targets: Sequence[Target], turn: int) -> list[Target]:
    """The targets from number `turn` on, so that equals take turns."""
    start = turn % len(targets) if targets else 0
    return [*targets[start:], *targets[:start]]


def by_score(targets: Sequence[Target], turn: int, components: Callable[[Target], Mapping[str, float]], weights: Mapping[str, float]) -> list[Ranked]:
    """Orders by the weighted mean of the components; equals take turns."""
    total = sum(weights.values())
    ranked = []
    for target in rotate(targets, turn):
        found = components(target)
        score = sum(found[name] * weight for name, weight in weights.items()) / total
        ranked.append(Ranked(target=target, score=round(score, 6), components=found))
    return sorted(ranked, key=lambda one: -one.score)


def relative_to_best(value: float | None, best: float | None) -> float:
    """How near a value, of which less is better, is to the best of all: 1 is the best, 0 infinitely worse.

    What is unknown counts as the best, so that it gets tried.
    """
    if value is None or best is None or value <= best:
        return 1.0
    return best / value


def price(target: Target) -> float | None:
    """One figure to compare prices by; None where the price is not known."""
    return None if target.price is None else target.price.comparable
