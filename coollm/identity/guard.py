"""Keeps the admin API from being worn down: so many requests a minute from an address, and ever longer waits for one that fails to say who it is."""

from __future__ import annotations

import ipaddress
import math
import time

from coollm.core.errors import LimitReached
from coollm.stores.base import MINUTE, Candidate, Charge, Span, Store, StoreError

# Failures count for so long; the first ones cost nothing.
FAILURES = Span(seconds=900, width=15)
FREE_FAILURES = 5
LONGEST_LOCK_SECONDS = 900.0
NO_LIMIT = 2**31

CAUSE = "too many failed attempts"


class AdminGuard:
    """Counts for all workers and hosts that share the store; while that does not answer, for this worker alone."""

    def __init__(self, store: Store, per_minute: int) -> None:
        self._store = store
        self._per_minute = per_minute
        self._own: dict[str, list[float]] = {}

    def admit(self, address: str) -> None:
        """Counts a request. Raises LimitReached."""
        self.check_lock(address)
        address = _whose(address)
        charge = Charge(counter=f"admin:{address}:requests", amount=1, limit=self._per_minute)
        try:
            decision = self._store.decide([charge], [Candidate(key="admin")])
        except StoreError:
            self._admit_alone(address)
            return
        if decision.refused is not None:
            wait = decision.retry_after_seconds or 1.0
            message = f"more than {self._per_minute} requests a minute to the admin API from this address; try again in {wait:.0f} s"
            raise LimitReached(message, code="admin_rate_limit", retry_after_seconds=wait)

    def check_lock(self, name: str) -> None:
        """Raises LimitReached while an address, or a user, has to wait."""
        try:
            cooldown = self._store.cooldowns().get(_lock(name))
        except StoreError:
            return
        if cooldown is not None:
            message = f"{CAUSE} from here; try again in {cooldown.seconds:.0f} s"
            raise LimitReached(message, code="locked_out", retry_after_seconds=cooldown.seconds)

    def failed(self, name: str) -> int:
        """Takes in a failed attempt of an address or for a user. Returns how many there were in the last quarter of an hour."""
        charge = Charge(counter=f"admin:{_whose(name)}:failures", amount=1, limit=NO_LIMIT, span=FAILURES)
        try:
            self._store.charge([charge])
            count = self._store.used([charge])[charge.counter]
            if count >= FREE_FAILURES:
                self._store.cool(_lock(name), min(LONGEST_LOCK_SECONDS, math.exp2(count - FREE_FAILURES)), CAUSE)
        except StoreError:
            return 0
        return count

    def _admit_alone(self, address: str) -> None:
        now = time.monotonic()
        recent = [moment for moment in self._own.get(address, []) if now - moment < MINUTE.seconds]
        if len(recent) >= self._per_minute:
            raise LimitReached("too many requests to the admin API from this address", code="admin_rate_limit", retry_after_seconds=MINUTE.seconds)
        self._own = {name: moments for name, moments in self._own.items() if now - moments[-1] < MINUTE.seconds}
        self._own[address] = [*recent, now]


def _lock(name: str) -> str:
    return f"admin-lock/{_whose(name)}"


def _whose(name: str) -> str:
    """An address as it counts: of IPv6 the network of 64 bits, in which one host has as many addresses as it likes (RFC 4291, 2.5.4)."""
    if ":" not in name:
        return name
    try:
        return str(ipaddress.ip_network((name.partition("%")[0], 64), strict=False))
    except ValueError:
        return name
