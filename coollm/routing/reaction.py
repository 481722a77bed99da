"""What a failed attempt means: for the key's health, and for what is tried next. By cause, never by a vendor's prose."""

from __future__ import annotations

import enum

from coollm.core.types import Value
from coollm.providers.verdict import Cause, Verdict


class Next(enum.StrEnum):
    """Where to go after a failure."""

    KEY = "next key"
    PROVIDER = "next provider"
    STOP = "stop"


class Reaction(Value, frozen=True):
    """`cooldown_seconds` takes the key out at once, for all workers. `is_failure` counts towards its breaker."""

    next: Next
    is_failure: bool
    cooldown_seconds: float = 0.0


BREAKER_THRESHOLD = 3
BREAKER_SECONDS = 5.0
LONGEST_BREAKER_SECONDS = 60.0

_REACTIONS: dict[Cause, Reaction] = {
    Cause.RATE_LIMITED: Reaction(next=Next.KEY, is_failure=False, cooldown_seconds=2.0),
    Cause.QUOTA_EXHAUSTED: Reaction(next=Next.KEY, is_failure=True, cooldown_seconds=900.0),
    Cause.KEY_REJECTED: Reaction(next=Next.KEY, is_failure=True, cooldown_seconds=300.0),
    Cause.OVERLOADED: Reaction(next=Next.KEY, is_failure=True),
    Cause.VENDOR_ERROR: Reaction(next=Next.KEY, is_failure=True),
    Cause.CONNECT_FAILED: Reaction(next=Next.KEY, is_failure=True),
    Cause.TIMEOUT: Reaction(next=Next.PROVIDER, is_failure=True),
    Cause.CUT: Reaction(next=Next.KEY, is_failure=True),
    Cause.BAD_ANSWER: Reaction(next=Next.KEY, is_failure=True),
    Cause.UNKNOWN_MODEL: Reaction(next=Next.PROVIDER, is_failure=False),
    Cause.UNSUPPORTED: Reaction(next=Next.PROVIDER, is_failure=False),
    Cause.CLIENT_FAULT: Reaction(next=Next.STOP, is_failure=False),
}


def react(verdict: Verdict, consecutive_failures: int) -> Reaction:
    """The reaction to a verdict on a key that had failed `consecutive_failures` times in a row before.

    A `Retry-After` sets the cooldown. Otherwise the breaker opens at the third failure in a row, for a time that doubles with each further one.
    """
    reaction = _REACTIONS[verdict.cause]
    cooldown = reaction.cooldown_seconds
    if verdict.retry_after_seconds is not None and verdict.cause in (Cause.RATE_LIMITED, Cause.OVERLOADED):
        cooldown = verdict.retry_after_seconds
    beyond = consecutive_failures + 1 - BREAKER_THRESHOLD
    if reaction.is_failure and beyond >= 0:
        cooldown = max(cooldown, min(LONGEST_BREAKER_SECONDS, BREAKER_SECONDS * 2 ** min(beyond, 10)))
    return Reaction(next=reaction.next, is_failure=reaction.is_failure, cooldown_seconds=cooldown)
