"""The target with the fewest calls in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coollm.core.config.schema import Policy
from coollm.core.types import Target
from coollm.routing.base import Algorithm, Ranked, Reading, by_score


def rank(targets: Sequence[Target], readings: Mapping[str, Reading], turn: int, policy: Policy) -> list[Ranked]:  # noqa: ARG001  the signature of all algorithms
    """By calls in flight, relative to the weight."""
    return by_score(targets, turn, lambda target: {"idle": 1 / (1 + readings[target.key].in_flight / (target.weight or 1e-9))}, {"idle": 1.0})


ALGORITHM = Algorithm(rank=rank)
