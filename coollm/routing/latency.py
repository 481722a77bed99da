"""The target that answers fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coollm.core.config.schema import Policy
from coollm.core.types import Target
from coollm.routing.base import Algorithm, Ranked, Reading, by_score, relative_to_best


def rank(targets: Sequence[Target], readings: Mapping[str, Reading], turn: int, policy: Policy) -> list[Ranked]:  # noqa: ARG001  the signature of all algorithms
    """By expected latency: the peak EWMA times the calls in flight, so that the fastest target is not flooded. An untried target
    is tried by one request first.
    """
    loads = {target.key: _load(readings[target.key]) for target in targets}
    best = min((load for load in loads.values() if load is not None), default=None)

    def component(target: Target) -> dict[str, float]:
        is_untried = loads[target.key] is None and readings[target.key].in_flight == 0
        return {"latency": 1.0 if is_untried else 0.99 * relative_to_best(loads[target.key], best)}

    return by_score(targets, turn, component, {"latency": 1.0})


def _load(reading: Reading) -> float | None:
    return None if reading.peak_seconds is None else reading.peak_seconds * (1 + reading.in_flight)


ALGORITHM = Algorithm(rank=rank)
