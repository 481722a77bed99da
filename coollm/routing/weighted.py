"""Each target as often as its weight says, evenly spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coollm.core.config.schema import Policy
from coollm.core.types import Target
from coollm.routing.base import Algorithm, Ranked, Reading

# Multiples of the golden ratio, modulo 1, spread more evenly than chance and never repeat.
GOLDEN_RATIO = 0.6180339887498949


def rank(targets: Sequence[Target], readings: Mapping[str, Reading], turn: int, policy: Policy) -> list[Ranked]:  # noqa: ARG001  the signature of all algorithms
    """The target on whose share of the line from 0 to 1 the turn falls, then the others by weight. A weight of 0 is used only when nothing else is left."""
    total = sum(target.weight for target in targets)
    if total <= 0:
        return [Ranked(target=target, score=0.0, components={"weight": 0.0}) for target in targets]
    point = (turn * GOLDEN_RATIO) % 1 * total
    chosen = 0
    reached = 0.0
    for index, target in enumerate(targets):
        reached += target.weight
        if point < reached:
            chosen = index
            break
    ranked = [
        Ranked(target=target, score=round((target.weight / total + (index == chosen)) / 2, 6), components={"weight": target.weight / total})
        for index, target in enumerate(targets)
    ]
    return sorted(ranked, key=lambda one: -one.score)


ALGORITHM = Algorithm(rank=rank)
