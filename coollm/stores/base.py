"""The contract of every store.

A charge counts for a span: a sliding window, a period of the calendar, or as long as the request runs. A sliding window is kept in buckets, for a minute of one
second: a charge made within the last 60 seconds always counts, and so may one that is up to a second older. In no 60 seconds is more admitted than the limit,
and a saturating client gets at least 60/61 = 98 % of it.

Reserve → settle: `decide` charges the estimate in the present bucket and remembers who holds it; `settle` later corrects that bucket by the difference to what
was used. What a dead worker held is found among `orphans`, and settled by another. Every change is tied to a hold, so that what is asked for twice is done
once: an answer may have been lost.

A store has an identity that it keeps as long as it keeps its counters. Whoever has asked for it is answered StoreForgot when it has become another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from coollm.core.types import Used, Value

WINDOW_SECONDS = 60

# Nobody knows when a request that runs will end: the client is asked to try again soon.
LIVE_RETRY_SECONDS = 1.0

# How long the sum of a period is kept after its end, to be looked at.
KEPT_AFTER_SECONDS = 2 * 86400

# News of a worker that has not been heard of for so long is no news.
NEWS_SECONDS = 15.0
FOREVER = 2**53


class Span(Value, frozen=True):
    """How long a charge counts.

    A `window` slides: the last `seconds`, in buckets of `width` seconds. A `period` is the time from `starts` to `ends`, in seconds of the epoch; `ends` is 0
    if it has no end. A `live` charge counts until it is settled.
    """

    kind: Literal["window", "period", "live"] = "window"
    seconds: int = WINDOW_SECONDS
    width: int = 1
    starts: int = 0
    ends: int = 0

    def bucket(self, now: float) -> int:
        """The bucket of a charge made at `now`."""
        if self.kind == "window":
            return int(now) if self.width == 1 else int(now // self.width) * self.width
        return self.starts if self.kind == "period" else 0

    def oldest(self, now: float) -> int:
        """The oldest bucket that still counts at `now`."""
        return self.bucket(now) - self.seconds if self.kind == "window" else self.bucket(now)

    def expires(self, now: float) -> int:
        """When a charge made at `now` may be forgotten."""
        if self.kind == "window":
            return self.bucket(now) + self.seconds + self.width + 1
        return self.ends + KEPT_AFTER_SECONDS if self.kind == "period" and self.ends else FOREVER


MINUTE = Span()
LIVE = Span(kind="live")


class Charge(Value, frozen=True):
    """`amount` more on `counter`, of which at most `limit` may be used in its span. One that `is_estimated` is corrected when it is known what was used."""

    counter: str
    amount: int
    limit: int
    span: Span = MINUTE
    is_estimated: bool = False


class Candidate(Value, frozen=True):
    """A vendor key that could serve, and what it would be charged."""

    key: str
    charges: tuple[Charge, ...] = ()


class Hold(Value, frozen=True):
    """Who holds what a decision charges, until it is settled. What `note` writes is told again if the owner dies; a store that dies with it never asks."""

    id: str
    owner: str
    note: Callable[[], str] = str


class Part(Value, frozen=True):
    """What a hold holds of one counter: an `amount` in a `bucket`. A live part is let go when the hold ends."""

    counter: str
    bucket: int
    amount: int
    is_live: bool


class Orphan(Value, frozen=True):
    """A hold whose owner has died. `key` is the candidate that was chosen; `periods` are its parts of periods, which stand at their estimates."""

    id: str
    note: str
    key: str
    periods: tuple[Part, ...] = ()


class Standing(Value, frozen=True):
    """A counter of a period at one moment: what is charged, and how much of that is held by requests that run, by the ids of their holds."""

    used: int
    held: Mapping[str, int]


class Skipped(Value, frozen=True):
    """Why a candidate was passed over: it cools down, or `counter` has no room. `retry_after_seconds` is None if waiting does not help."""

    key: str
    reason: str
    retry_after_seconds: float | None


class Decision(Value, frozen=True):
    """The answer to `decide`.

    Granted: `chosen` is the index of the candidate, and `now` the store's time, by which every charge has its bucket.
    Refused: `chosen` is None; `refused` is the client's charge that had no room, or None if it was the candidates that had none. `used` then has the client's
    charges, of which nothing was charged. Where it was granted, the candidate's follow these.
    """

    chosen: int | None = None
    now: float = 0.0
    refused: Charge | None = None
    retry_after_seconds: float | None = None
    skipped: tuple[Skipped, ...] = ()
    used: tuple[Used, ...] = ()


class Correction(Value, frozen=True):
    """`difference` (actual minus reserved, may be negative) on `counter` in `bucket`."""

    counter: str
    bucket: int
    difference: int


class Settlement(Value, frozen=True):
    """The end of a hold, and what its charges are to be corrected by."""

    hold: str
    corrections: tuple[Correction, ...] = ()


class Cooldown(Value, frozen=True):
    """A key that is not to be used for `seconds` more, and why."""

    seconds: float
    cause: str


class StoreError(Exception):
    """The store does not answer, or answers nonsense."""


class StoreForgot(StoreError):
    """The store has lost its counters: it is not the one that was asked for its identity."""


class Store(Protocol):
    """Counters and cooldowns. Every method may raise StoreError and nothing else. Safe for any number of greenlets.

    `epoch` goes up when the store is used again after it had forgotten what it was told. `took` is how long, in seconds, it took for the answer that was given
    last, without the time in which this worker had other things to do; None where that is all the time that the call took.
    """

    epoch: int

    @property
    def took(self) -> float | None:
        """See above."""

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None = None, leased: Hold | None = None) -> Decision:
        """Atomically: if all of `charges` fit, the first candidate that does not cool and whose charges fit is chosen, and all is charged. Else nothing is.

        `own` then holds `charges`, and `leased` those of the candidate; a hold of nothing is not kept. Asked again with the same holds, it first takes back
        what these hold.
        """

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Ends holds: lets their live charges go, and replaces estimates by what was used. A bucket that is forgotten is let be.

        Of a hold that is not there any more nothing is changed: it was settled already, and may be again when an answer was lost.
        """

    def cancel(self, holds: Sequence[str]) -> None:
        """Takes back what is held, but for windows: of a decision whose answer was lost nobody knows whether it was made, and nothing came of it."""

    def beat(self, owner: str, news: bytes) -> Sequence[bytes]:
        """The owner lives. It leaves its news for the others, and gets theirs, of those that have beaten within NEWS_SECONDS."""

    def orphans(self, seconds: float) -> Sequence[Orphan]:
        """The holds whose owners have not been heard of for `seconds`. Whoever settles them first ends them."""

    def cool(self, key: str, seconds: float, cause: str) -> None:
        """Takes `key` out for `seconds`. A cooldown never gets shorter by another."""

    def cooldowns(self) -> Mapping[str, Cooldown]:
        """The keys that cool now."""

    def used(self, charges: Sequence[Charge]) -> Mapping[str, int]:
        """What is charged on the counter of each of `charges` in its present span."""

    def standing(self, charges: Sequence[Charge]) -> Mapping[str, Standing]:
        """What is charged and what is held on the counter of each of `charges`, which are of periods, all at the same moment."""

    def charge(self, charges: Sequence[Charge]) -> None:
        """Adds to counters, whether there is room or not; a negative amount takes off, and never below zero."""

    def claim(self, name: str, owner: str, seconds: float) -> str:
        """Who has `name` to himself now: `owner`, for `seconds`, unless another has claimed it and his time is not over. Claiming again prolongs it."""

    def release(self, name: str, owner: str) -> None:
        """Gives up a claim of the owner's."""

    def identity(self) -> str:
        """The store's identity, made if it has none. From now on `decide` and `settle` raise StoreForgot if it is another."""

    def ping(self) -> None:
        """Raises StoreError if the store cannot decide."""

    def close(self) -> None:
        """Lets go of connections and files."""


def seconds_until_room(buckets: Iterable[tuple[int, int]], charge: Charge, now: float) -> float | None:
    """Seconds until `charge` would fit, if nothing else were charged; None if it never fits. `buckets` are (bucket, amount) within the span."""
    ordered = sorted(buckets)
    used = sum(amount for _, amount in ordered)
    if used + charge.amount <= charge.limit:
        return 0.0
    span = charge.span
    if charge.amount > charge.limit or (span.kind == "period" and not span.ends):
        return None
    if span.kind == "period":
        return max(0.001, span.ends - now)
    if span.kind == "live":
        return LIVE_RETRY_SECONDS
    for bucket, amount in ordered:
        used -= amount
        if used + charge.amount <= charge.limit:
            return max(0.001, bucket + span.seconds + span.width - now)
    return 0.0


def held_parts(charges: Iterable[Charge], now: float) -> tuple[Part, ...]:
    """What a hold remembers of its charges: what must be let go when it ends, and what a period is to be corrected by. Windows forget by themselves."""
    found: list[Part] | None = None
    for charge in charges:
        if charge.span is not MINUTE and charge.span.kind != "window":
            found = found or []
            found.append(Part(counter=charge.counter, bucket=charge.span.bucket(now), amount=charge.amount, is_live=charge.span.kind == "live"))
    return tuple(found) if found else ()


def written_notes(own: Hold | None, leased: Hold | None) -> tuple[str, str]:
    """The notes of two holds of one request, which mostly have the same."""
    first = "" if own is None else own.note()
    if leased is None:
        return first, ""
    return first, first if own is not None and own.note == leased.note else leased.note()


def periods_of(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts of periods."""
    return tuple(part for part in parts if not part.is_live)


def shortest_wait(skipped: Iterable[Skipped]) -> float | None:
    """Seconds until the first of the candidates may have room."""
    waits = [one.retry_after_seconds for one in skipped if one.retry_after_seconds is not None]
    return min(waits) if waits else None
