"""The cheapest target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coollm.core.config.schema import Policy
from coollm.core.types import Target
from coollm.routing.base import Algorithm, Ranked, Reading, by_score, price, relative_to_best


def rank(targets: Sequence[Target], readings: Mapping[str, Reading], turn: int, policy: Policy) -> list[Ranked]:  # noqa: ARG001  the signature of all algorithms
    """By price. A price that is not known comes last: it may be any."""
    prices = [found for target in targets if (found := price(target)) is not None]
    best = min(prices, default=None)

    def component(target: Target) -> dict[str, float]:
        found = price(target)
        return {"cost_ratio": 0.0 if found is None and prices else relative_to_best(found, best)}

    return by_score(targets, turn, component, {"cost_ratio": 1.0})


ALGORITHM = Algorithm(rank=rank, repeats=True)
