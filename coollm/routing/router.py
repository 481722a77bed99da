"""The order in which targets are tried, and what is learnt from how they did."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence

from coollm.core.config.schema import Policy
from coollm.core.registry import ALGORITHMS
from coollm.core.types import Target
from coollm.limits.charges import REQUESTS, TOKENS
from coollm.limits.limiter import Limiter
from coollm.providers.verdict import Cause, Verdict
from coollm.routing.base import Algorithm, Ranked, Reading
from coollm.routing.reaction import Reaction, react
from coollm.routing.stats import Board
from coollm.routing.sticky import stick
from coollm.stores.base import Store, StoreError

# How long a ranking holds: figures that are a mean of seconds do not change much in it.
SNAPSHOT_SECONDS = 0.05
MOST_GROUPS = 10_000

KEY_FAULTS = (Cause.KEY_REJECTED, Cause.QUOTA_EXHAUSTED)
"""What an administrator has to do something about: the vendor has revoked the key, or its credit is spent."""

_log = logging.getLogger("coollm.routing")


class _Group:
    """The targets of a request: whose turn it is, and their orders for each turn, as they were ranked when the snapshot was taken."""

    __slots__ = ("failures", "orders", "serving", "stand_ins", "targets", "turn", "until")

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.serving = [target for target in targets if not target.fallback]
        self.stand_ins = [target for target in targets if target.fallback]
        self.turn = 0
        self.until = 0.0
        self.failures = 0
        self.orders: dict[int, list[Target]] = {}


class Router:
    """Ranks with the configured algorithm and keeps the keys' health: figures on the board, cooldowns in the store for all."""

    def __init__(self, policy: Policy, board: Board, limiter: Limiter, store: Store, shares: Mapping[str, float] | None = None) -> None:
        self._policy = policy
        self._algorithm: Algorithm = ALGORITHMS[policy.algorithm]
        self._limiter = limiter
        self._store = store
        self._groups: dict[tuple[tuple[str, str], ...], _Group] = {}
        # The catalog gives the same tuple for the same name; as long as it is held here, its identity names it.
        self._known: dict[int, tuple[Sequence[Target], _Group]] = {}
        self.shares = shares or {}
        self.board = board

    def order(self, targets: Sequence[Target], belongs_to: str | None = None) -> list[Target]:
        """The targets in the order in which a request tries them. A new key that has a share of the requests comes first in that part of them, and is not tried
        in the others.
        """
        order = self._order(targets, belongs_to)
        return self._with_shares(order) if self.shares else order

    def _with_shares(self, order: list[Target]) -> list[Target]:
        new = [target for target in order if target.key in self.shares]
        if not new:
            return order
        others = [target for target in order if target.key not in self.shares]
        drawn = random.random()
        for target in new:
            drawn -= self.shares[target.key]
            if drawn < 0:
                return [target, *others]
        return others

    def _order(self, targets: Sequence[Target], belongs_to: str | None) -> list[Target]:
        """As `rank` has it. Where the algorithm allows it, ranked anew only when SNAPSHOT_SECONDS are over or an attempt has failed: in between the targets
        take their turns.
        """
        if belongs_to is not None or not self._algorithm.repeats:
            return [ranked.target for ranked in self.rank(targets, belongs_to)]
        known, now, failures = self._known.get(id(targets)), time.monotonic(), self.board.failures
        group = known[1] if known is not None and known[0] is targets else self._group(targets)
        if now >= group.until or group.failures != failures:
            group.until, group.failures = now + SNAPSHOT_SECONDS, failures
            group.orders.clear()
        group.turn += 1
        turn = group.turn % (len(group.serving) or 1)
        order = group.orders.get(turn)
        if order is None:
            order = group.orders[turn] = [ranked.target for ranked in self._ranked(group, turn, None)]
        return order

    def rank(self, targets: Sequence[Target], belongs_to: str | None = None) -> list[Ranked]:
        """The targets in the order in which they are to be tried: those that serve the model by the algorithm, the one that the request belongs to before the
        others, then the stand-ins as configured.
        """
        group = self._group(targets)
        group.turn += 1
        return self._ranked(group, group.turn, belongs_to)

    def _group(self, targets: Sequence[Target]) -> _Group:
        if len(self._groups) > MOST_GROUPS or len(self._known) > MOST_GROUPS:
            self._groups.clear()
            self._known.clear()
        name = tuple((target.key, target.model) for target in targets)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(targets)
        if isinstance(targets, tuple):
            self._known[id(targets)] = (targets, group)
        return group

    def _ranked(self, group: _Group, turn: int, belongs_to: str | None) -> list[Ranked]:
        readings = {target.key: self.reading(target) for target in group.targets}
        ranked = self._algorithm.rank(group.serving, readings, turn, self._policy)
        if belongs_to is not None:
            ranked = stick(ranked, belongs_to)
        return ranked + [Ranked(target=target, score=0.0, components={"stand_in": 1.0}) for target in group.stand_ins]

    def reading(self, target: Target) -> Reading:
        """What is known of a target now."""
        stats = self.board.all_of(target.key)
        return Reading(
            in_flight=stats.in_flight,
            latency_seconds=stats.latency_seconds or None,
            peak_seconds=stats.peak_seconds or None,
            error_rate=stats.error_rate,
            request_fullness=self._limiter.fullness(target.key, REQUESTS),
            token_fullness=self._limiter.fullness(target.key, TOKENS),
        )

    def failed(self, target: Target, verdict: Verdict) -> Reaction:
        """Takes in a failure: a cooldown where its cause asks for one, for all workers."""
        reaction = react(verdict, self.board.of(target.key).consecutive_failures)
        if verdict.cause in KEY_FAULTS:
            _log.error("a vendor key is out of use", extra={"key_id": target.key, "cause": verdict.cause, "seconds": reaction.cooldown_seconds})
        if reaction.is_failure:
            self.board.failed(target.key)
        if reaction.cooldown_seconds > 0:
            try:
                self._store.cool(target.key, reaction.cooldown_seconds, verdict.cause)
            except StoreError as error:
                _log.warning("a cooldown could not be stored", extra={"key_id": target.key, "reason": str(error)})
        return reaction
