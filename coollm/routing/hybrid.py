"""A weighted mean of room, errors, latency and price, each brought to 0…1 before it is weighed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from coollm.core.config.schema import HybridWeights, Policy
from coollm.core.types import Target
from coollm.routing.base import Algorithm, Ranked, Reading, by_score, price, relative_to_best

PRIORITIES: dict[str, HybridWeights] = {
    "balanced": HybridWeights(),
    "cost": HybridWeights(token_ratio=0.1, req_ratio=0.1, error_score=0.2, latency=0.1, cost_ratio=0.5),
    "req": HybridWeights(token_ratio=0.1, req_ratio=0.5, error_score=0.2, latency=0.1, cost_ratio=0.1),
    "token": HybridWeights(token_ratio=0.5, req_ratio=0.1, error_score=0.2, latency=0.1, cost_ratio=0.1),
    "latency": HybridWeights(token_ratio=0.1, req_ratio=0.1, error_score=0.2, latency=0.5, cost_ratio=0.1),
}
"""`policy.priority` as weights; `policy.hybrid_weights` beats it."""


def rank(targets: Sequence[Target], readings: Mapping[str, Reading], turn: int, policy: Policy) -> list[Ranked]:
    """By the weighted mean. Latencies within a tenth of each other count as equal, so that equal keys take turns."""
    latencies = [found for target in targets if (found := readings[target.key].latency_seconds) is not None]
    prices = [found for target in targets if (found := price(target)) is not None]
    fastest, cheapest = min(latencies, default=None), min(prices, default=None)

    def components(target: Target) -> dict[str, float]:
        reading = readings[target.key]
        return {
            "token_ratio": round(1 - reading.token_fullness, 1),
            "req_ratio": round(1 - reading.request_fullness, 1),
            "error_score": round(1 - reading.error_rate, 2),
            "latency": round(relative_to_best(reading.latency_seconds, fastest), 1),
            "cost_ratio": 0.0 if price(target) is None and prices else relative_to_best(price(target), cheapest),
        }

    weights = policy.hybrid_weights or PRIORITIES[policy.priority]
    given = msgspec.structs.asdict(weights)
    return by_score(targets, turn, components, given if any(given.values()) else msgspec.structs.asdict(HybridWeights()))


ALGORITHM = Algorithm(rank=rank, repeats=True)
