"""Answers for identical requests: kept for a time, fetched by one request while the others wait for it, replayed as they are asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import gevent
import msgspec
from gevent.event import Event

from coollm.cache.base import CLAIM_SECONDS, Absent, AnswerStore
from coollm.cache.place import place_of
from coollm.cancellation import Cancellation
from coollm.core.config.schema import Cache
from coollm.core.types import Completion, Embeddings, ModelRequest, Ranking, Target, Usage, Value
from coollm.stores.base import StoreError

T = TypeVar("T")

# An answer larger than this part of the cache would push out too much else.
LARGEST_PART = 8
MEBIBYTE = 1024 * 1024

POLL_SECONDS = 0.05
RENEW_SECONDS = CLAIM_SECONDS / 3

# A cache that fails or dawdles is not asked for a while: it is there to save time.
BAD_ANSWERS = 3
SLOW_SECONDS = 0.25
PAUSE_SECONDS = 5.0

_log = logging.getLogger("coollm.cache")


class Kept(Value, frozen=True):
    """An answer: what a vendor said, its very bytes where they go to the client as they are, who said it, and what it cost."""

    provider: str
    type: str
    key_id: str
    model: str
    content: Completion | Embeddings | Ranking
    usage: Usage
    body: bytes | None = None
    cost_usd: float = 0.0


class Flight:
    """An answer on its way into the cache. Whoever fetches it lands it or gives it up, once; the second time nothing happens."""

    def __init__(self, cache: AnswerCache, place: str) -> None:
        self._cache = cache
        self.place = place
        self.landed = Event()

    def land(self, kept: Kept | None) -> None:
        """The answer, or None if there is none to keep."""
        if not self.landed.is_set():
            self._cache.end(self, kept)
            self.landed.set()


class AnswerCache:
    """One for each worker; what it keeps is shared as its store is."""

    def __init__(self, settings: Cache, store: AnswerStore, owner: str) -> None:
        self._settings = settings
        self._store = store
        self._owner = owner
        self._flights: dict[str, Flight] = {}
        self._bad = 0
        self._paused_until = 0.0
        self._decoder = msgspec.msgpack.Decoder(Kept)

    def place(self, request: ModelRequest, wire: str, tenant: str, targets: tuple[Target, ...]) -> str | None:
        """Where the answer to a request is kept; None if it may not be, or the cache does not work now."""
        if time.monotonic() < self._paused_until:
            return None
        return place_of(request, wire, None if self._settings.shared else tenant, targets, self._settings)

    def find(self, place: str, cancellation: Cancellation) -> Kept | Flight | None:
        """The kept answer, waited for where another fetches it; a Flight if the caller is to fetch it; None if the cache does not answer. Raises Cancelled."""
        while True:
            flight = self._flights.get(place)
            if flight is not None:
                flight.landed.wait(POLL_SECONDS)
                cancellation.check()
                continue
            # From now on nobody else of this worker asks: to the store all its requests are one owner.
            flight = self.begin(place)
            found = self._ask(lambda: self._store.look(place, self._owner))
            if found is Absent.YOURS:
                return flight
            del self._flights[place]
            flight.landed.set()
            if not isinstance(found, Absent):
                return None if found is None else self._decoder.decode(found)
            cancellation.sleep(POLL_SECONDS)

    def begin(self, place: str) -> Flight:
        """A flight of the caller's."""
        if not self._flights:
            gevent.spawn(self._renew)
        flight = self._flights[place] = Flight(self, place)
        return flight

    def end(self, flight: Flight, kept: Kept | None) -> None:
        """Keeps what a flight has fetched, or lets another try."""
        if self._flights.get(flight.place) is flight:
            del self._flights[flight.place]
        value = msgspec.msgpack.encode(kept) if kept is not None else b""
        if value and len(value) <= self._settings.max_size_mb * MEBIBYTE // LARGEST_PART:
            self._ask(lambda: self._store.keep(flight.place, value, self._settings.ttl_seconds, self._owner))
        else:
            self._ask(lambda: self._store.give_up(flight.place, self._owner))

    def close(self) -> None:
        """Lets go of connections and files."""
        self._store.close()

    def _renew(self) -> None:
        """While something is on its way, others wait for it."""
        while True:
            gevent.sleep(RENEW_SECONDS)
            if not self._flights:
                return
            self._ask(lambda: self._store.renew(list(self._flights), self._owner))

    def _ask(self, work: Callable[[], T]) -> T | None:
        """What the store says; None where it does not."""
        started = time.monotonic()
        try:
            answer = work()
        except StoreError as error:
            self._judge(str(error))
            return None
        took = time.monotonic() - started
        self._judge(f"it answers in {took * 1000:.0f} ms" if took > SLOW_SECONDS else "")
        return answer

    def _judge(self, fault: str) -> None:
        self._bad = self._bad + 1 if fault else 0
        if self._bad >= BAD_ANSWERS:
            self._bad = 0
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            _log.warning("the cache is not asked for a while", extra={"reason": fault})
