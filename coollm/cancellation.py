"""One way to stop a request's work: the client that left, or the gateway that stops, cancels what is done on its behalf."""

from __future__ import annotations

from collections.abc import Callable

from gevent.event import Event

from coollm.core.errors import Cancelled, ClientGone


class Cancellation:
    """Set once, when nobody waits for the answer any more. Whoever holds a resource registers how to let go of it."""

    __slots__ = ("_callbacks", "_event", "is_cancelled", "reason")

    def __init__(self) -> None:
        self.is_cancelled = False
        self.reason: Cancelled | None = None
        self._callbacks: list[Callable[[], None]] = []
        # Made by the first who waits: most requests never do.
        self._event: Event | None = None

    def cancel(self, reason: Cancelled | None = None) -> None:
        """The client has left, if no other reason is given: every registered callback runs, once."""
        if self.is_cancelled:
            return
        self.reason = reason
        self.is_cancelled = True
        if self._event is not None:
            self._event.set()
        for callback in self._callbacks:
            callback()

    def add(self, callback: Callable[[], None]) -> None:
        """Runs `callback` when this is cancelled; at once if it is."""
        self._callbacks.append(callback)
        if self.is_cancelled:
            callback()

    def discard(self, callback: Callable[[], None]) -> None:
        """Forgets a callback whose resource is gone."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def check(self) -> None:
        """Raises Cancelled if it is."""
        if self.is_cancelled:
            raise self.error()

    def error(self) -> Cancelled:
        """Why the work is stopped."""
        return self.reason or ClientGone("the client closed its connection")

    def sleep(self, seconds: float) -> None:
        """Waits. Raises Cancelled as soon as it is."""
        self.check()
        self._event = self._event or Event()
        self._event.wait(seconds)
        self.check()
