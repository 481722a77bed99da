"""Greenlets that wait for their event loop, and what each loop has once.

Source: https://www.gevent.org/api/gevent.hub.html.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from gevent import getcurrent

T = TypeVar("T")

SWEEP_SECONDS = 0.05


class OfLoop(Generic[T]):
    """One of something for each event loop, by its hub: made when it is first asked for."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[Any, T] = WeakKeyDictionary()

    def of(self, hub: Any) -> T:
        """That of a hub."""
        found = self._made.get(hub)
        if found is None:
            found = self._made[hub] = self._make(hub)
        return found


class _Deadlines:
    """What is waited for in one event loop: looked through every SWEEP_SECONDS, which is cheaper than a timer for each wait. What is waited for no more is
    found out then, too.
    """

    def __init__(self, hub: Any) -> None:
        self.waiting: set[Waits] = set()
        self._timer = hub.loop.timer(SWEEP_SECONDS, SWEEP_SECONDS)
        self.is_running = False

    def start(self) -> None:
        """Begins to look."""
        self.is_running = True
        self._timer.start(self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        for one in list(self.waiting):
            if not one.is_waited_for:
                self.waiting.discard(one)
            elif one.until <= now:
                one.expire()
        if not self.waiting:
            self.is_running = False
            self._timer.stop()


_deadlines = OfLoop(_Deadlines)


class Waits:
    """One greenlet that waits for the loop. Only the loop may switch to it: of any other who does, nobody would know how to go on."""

    __slots__ = ("_deadlines", "_hub", "_waiter", "until")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._deadlines = _deadlines.of(hub)
        self._waiter: Any = None
        self.until = 0.0

    @property
    def is_waited_for(self) -> bool:
        """Whether a greenlet waits now."""
        return self._waiter is not None

    def expire(self) -> None:
        """The time of whoever waits is over. Called by the loop."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.throw(TimeoutError("timed out"))

    def _pause(self) -> Any:
        """Waits to be woken; what it is given with that, mostly nothing. Raises TimeoutError at `until`."""
        self._waiter = getcurrent()
        deadlines = self._deadlines
        deadlines.waiting.add(self)
        if not deadlines.is_running:
            deadlines.start()
        try:
            return self._hub.switch()
        except BaseException:
            self._waiter = None
            raise

    def _wake(self) -> None:
        """Called by the loop."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.switch()


class Waiter(Waits):
    """A greenlet that waits for something that is given to it once."""

    __slots__ = ("_error", "_given", "_is_given")

    def __init__(self, hub: Any, until: float) -> None:
        super().__init__(hub)
        self._given: Any = None
        self._is_given = False
        self._error: Exception | None = None
        self.until = until

    def wait(self) -> Any:
        """What is given. Raises TimeoutError at `until`, and what it failed by."""
        if not self._is_given:
            self._pause()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # which holds this one by its traceback
        return self._given

    def give(self, value: Any) -> None:
        """Called by the loop: it goes on at once."""
        self._given, self._is_given = value, True
        self._wake()

    def fail(self, error: Exception) -> None:
        """It goes on, with an error, in the loop's next turn."""
        self._error, self._is_given = error, True
        self._hub.loop.run_callback(self._wake)
