"""The contract of every store.

Limits are sliding windows of 60 seconds, kept in buckets of one second. A charge made within the last 60 seconds always counts, and so may one that is up to
a second older: in no 60 seconds is more admitted than the limit, and a saturating client gets at least 60/61 = 98 % of it.

Reserve → settle: `decide` charges the estimate in the present bucket; `settle` later corrects that bucket by the difference to what was used. A worker that
dies in between leaves its estimate standing, which is the safe side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from coollm.core.types import Value

WINDOW_SECONDS = 60


class Charge(Value, frozen=True):
    """`amount` more on `counter`, of which at most `limit` may be used in any 60 seconds."""

    counter: str
    amount: int
    limit: int


class Candidate(Value, frozen=True):
    """A vendor key that could serve, and what it would be charged."""

    key: str
    charges: tuple[Charge, ...] = ()


class Skipped(Value, frozen=True):
    """Why a candidate was passed over: it cools down, or `counter` has no room. `retry_after_seconds` is None if waiting does not help."""

    key: str
    reason: str
    retry_after_seconds: float | None


class Used(Value, frozen=True):
    """How full a counter is after a decision."""

    counter: str
    used: int
    limit: int


class Decision(Value, frozen=True):
    """The answer to `decide`.

    Granted: `chosen` is the index of the candidate, and `bucket` the second that everything was charged to.
    Refused: `chosen` is None; `refused` is the client's charge that had no room, or None if it was the candidates that had none.
    """

    chosen: int | None = None
    bucket: int = 0
    refused: Charge | None = None
    retry_after_seconds: float | None = None
    skipped: tuple[Skipped, ...] = ()
    used: tuple[Used, ...] = ()


class Correction(Value, frozen=True):
    """`difference` (actual minus reserved, may be negative) on `counter` in `bucket`."""

    counter: str
    bucket: int
    difference: int


class Cooldown(Value, frozen=True):
    """A key that is not to be used for `seconds` more, and why."""

    seconds: float
    cause: str


class StoreError(Exception):
    """The store does not answer, or answers nonsense."""


class Store(Protocol):
    """Counters and cooldowns. Every method may raise StoreError and nothing else. Safe for any number of greenlets."""

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate]) -> Decision:
        """Atomically: if all of `charges` fit, the first candidate that does not cool and whose charges fit is chosen, and all is charged. Else nothing is."""

    def settle(self, corrections: Iterable[Correction]) -> None:
        """Replaces estimates by what was used. A bucket that has left the window is let be."""

    def cool(self, key: str, seconds: float, cause: str) -> None:
        """Takes `key` out for `seconds`. A cooldown never gets shorter by another."""

    def cooldowns(self) -> Mapping[str, Cooldown]:
        """The keys that cool now."""

    def used(self, counters: Sequence[str]) -> Mapping[str, int]:
        """What is charged on each counter in the present window."""

    def ping(self) -> None:
        """Raises StoreError if the store cannot decide."""

    def close(self) -> None:
        """Lets go of connections and files."""


def oldest_counted(now: float) -> int:
    """The oldest bucket that still counts at `now`."""
    return int(now) - WINDOW_SECONDS


def seconds_until_room(buckets: Iterable[tuple[int, int]], charge: Charge, now: float) -> float | None:
    """Seconds until `charge` would fit, if nothing else were charged; None if it never fits. `buckets` are (second, amount) within the window."""
    if charge.amount > charge.limit:
        return None
    ordered = sorted(buckets)
    used = sum(amount for _, amount in ordered)
    for bucket, amount in ordered:
        if used + charge.amount <= charge.limit:
            break
        used -= amount
        free_at = bucket + WINDOW_SECONDS + 1
        if used + charge.amount <= charge.limit:
            return max(0.001, free_at - now)
    return 0.0


def shortest_wait(skipped: Iterable[Skipped]) -> float | None:
    """Seconds until the first of the candidates may have room."""
    waits = [one.retry_after_seconds for one in skipped if one.retry_after_seconds is not None]
    return min(waits) if waits else None
