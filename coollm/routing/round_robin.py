"""Each target in its turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coollm.core.config.schema import Policy
from coollm.core.types import Target
from coollm.routing.base import Algorithm, Ranked, Reading, rotate


def rank(targets: Sequence[Target], readings: Mapping[str, Reading], turn: int, policy: Policy) -> list[Ranked]:  # noqa: ARG001  the signature of all algorithms
    """The list, beginning one further with each request."""
    count = len(targets)
    return [Ranked(target=target, score=1 - place / count, components={"turn": 1 - place / count}) for place, target in enumerate(rotate(targets, turn))]


ALGORITHM = Algorithm(rank=rank, repeats=True)
