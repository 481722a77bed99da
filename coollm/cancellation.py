"""One way to stop a request's work: the client that left cancels what is done on its behalf."""

from __future__ import annotations

from collections.abc import Callable

from gevent.event import Event

from coollm.core.errors import ClientGone


class Cancellation:
    """Set once, when nobody waits for the answer any more. Whoever holds a resource registers how to let go of it."""

    __slots__ = ("_callbacks", "_event", "is_cancelled")

    def __init__(self) -> None:
        self.is_cancelled = False
        self._callbacks: list[Callable[[], None]] = []
        # Made by the first who waits: most requests never do.
        self._event: Event | None = None

    def cancel(self) -> None:
        """The client has left: every registered callback runs, once."""
        if self.is_cancelled:
            return
        self.is_cancelled = True
        if self._event is not None:
            self._event.set()
        for callback in self._callbacks:
            callback()

    def add(self, callback: Callable[[], None]) -> None:
        """Runs `callback` when the client leaves; at once if it has."""
        self._callbacks.append(callback)
        if self.is_cancelled:
            callback()

    def discard(self, callback: Callable[[], None]) -> None:
        """Forgets a callback whose resource is gone."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def check(self) -> None:
        """Raises ClientGone if the client has left."""
        if self.is_cancelled:
            raise ClientGone("the client closed its connection")

    def sleep(self, seconds: float) -> None:
        """Waits. Raises ClientGone as soon as the client leaves."""
        self.check()
        self._event = self._event or Event()
        self._event.wait(seconds)
        self.check()
