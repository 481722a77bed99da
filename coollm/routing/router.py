"""The order in which targets are tried, and what is learnt from how they did."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from coollm.core.config.schema import Policy
from coollm.core.registry import ALGORITHMS
from coollm.core.types import Target
from coollm.limits.limiter import REQUESTS, TOKENS, Limiter, key_counter
from coollm.providers.verdict import Verdict
from coollm.routing.base import Rank, Ranked, Reading
from coollm.routing.reaction import Reaction, react
from coollm.routing.stats import Board
from coollm.routing.sticky import stick
from coollm.stores.base import Store, StoreError

_log = logging.getLogger("coollm.routing")


class Router:
    """Ranks with the configured algorithm and keeps the keys' health: figures on the board, cooldowns in the store for all."""

    def __init__(self, policy: Policy, board: Board, limiter: Limiter, store: Store) -> None:
        self._policy = policy
        self._rank: Rank = ALGORITHMS[policy.algorithm]
        self._limiter = limiter
        self._store = store
        self.board = board

    def rank(self, targets: Sequence[Target], belongs_to: str | None = None) -> list[Ranked]:
        """The targets in the order in which they are to be tried: those that serve the model by the algorithm, the one that the request belongs to before the
        others, then the stand-ins as configured.
        """
        serving = [target for target in targets if not target.fallback]
        stand_ins = [target for target in targets if target.fallback]
        readings = {target.key: self.reading(target) for target in targets}
        ranked = self._rank(serving, readings, self.board.turn(tuple(target.key for target in serving)), self._policy)
        if belongs_to is not None:
            ranked = stick(ranked, belongs_to)
        return ranked + [Ranked(target=target, score=0.0, components={"stand_in": 1.0}) for target in stand_ins]

    def reading(self, target: Target) -> Reading:
        """What is known of a target now."""
        stats = self.board.all_of(target.key)
        return Reading(
            in_flight=stats.in_flight,
            latency_seconds=stats.latency_seconds or None,
            peak_seconds=stats.peak_seconds or None,
            error_rate=stats.error_rate,
            request_fullness=self._limiter.fullness(key_counter(target.key, REQUESTS)),
            token_fullness=self._limiter.fullness(key_counter(target.key, TOKENS)),
        )

    def failed(self, target: Target, verdict: Verdict) -> Reaction:
        """Takes in a failure: a cooldown where its cause asks for one, for all workers."""
        reaction = react(verdict, self.board.of(target.key).consecutive_failures)
        if reaction.is_failure:
            self.board.record(target.key, failed=True)
        if reaction.cooldown_seconds > 0:
            try:
                self._store.cool(target.key, reaction.cooldown_seconds, verdict.cause)
            except StoreError as error:
                _log.warning("a cooldown could not be stored", extra={"key_id": target.key, "reason": str(error)})
        return reaction

    def succeeded(self, target: Target, latency_seconds: float) -> None:
        """Takes in an answer. `latency_seconds` is the time to its first byte of content."""
        self.board.record(target.key, failed=False, latency_seconds=latency_seconds)
