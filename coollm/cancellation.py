"""One way to stop a request's work: the client that left cancels what is done on its behalf."""

from __future__ import annotations

from collections.abc import Callable

from gevent.event import Event

from coollm.core.errors import ClientGone


class Cancellation:
    """Set once, when nobody waits for the answer any more. Whoever holds a resource registers how to let go of it."""

    def __init__(self) -> None:
        self._event = Event()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has left."""
        return self._event.is_set()

    def cancel(self) -> None:
        """The client has left: every registered callback runs, once."""
        if self._event.is_set():
            return
        self._event.set()
        for callback in self._callbacks:
            callback()

    def add(self, callback: Callable[[], None]) -> None:
        """Runs `callback` when the client leaves; at once if it has."""
        self._callbacks.append(callback)
        if self._event.is_set():
            callback()

    def discard(self, callback: Callable[[], None]) -> None:
        """Forgets a callback whose resource is gone."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def check(self) -> None:
        """Raises ClientGone if the client has left."""
        if self._event.is_set():
            raise ClientGone("the client closed its connection")

    def sleep(self, seconds: float) -> None:
        """Waits. Raises ClientGone as soon as the client leaves."""
        self._event.wait(seconds)
        self.check()
