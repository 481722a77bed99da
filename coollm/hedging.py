"""A race of two attempts: when the first is slow, a second key is asked too, and what comes first is the answer.

Each attempt is a greenlet that is cancelled by itself, or with the request. The loser's call is closed, and what the vendor has read of it is settled.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn

import gevent
from gevent.event import Event

from coollm.cancellation import Cancellation
from coollm.core.errors import Cancelled
from coollm.limits.limiter import Grant
from coollm.run import Failed, Run
from coollm.streaming import StreamAnswer

if TYPE_CHECKING:
    from coollm.gateway import Gateway, Sent


class _Attempt:
    """One of the two. Over, it has an `outcome` or has broken on an `error`."""

    def __init__(self, gateway: Gateway, run: Run, grant: Grant, changed: Event) -> None:
        self.grant = grant
        self.started = time.monotonic()
        self.outcome: Sent | Failed | None = None
        self.error: BaseException | None = None
        self._changed = changed
        self._cancellation = Cancellation()
        run.call.cancellation.add(self._cancellation.cancel)
        self._greenlet = gevent.spawn(self._run, gateway, run)

    def is_over(self) -> bool:
        """Whether something came of it."""
        return self.outcome is not None or self.error is not None

    def has_answered(self) -> bool:
        """Whether that is an answer."""
        return self.outcome is not None and not isinstance(self.outcome, Failed)

    def _run(self, gateway: Gateway, run: Run) -> None:
        try:
            self.outcome = gateway.attempt(run, self.grant, self._cancellation)
        except BaseException as error:  # noqa: BLE001  it is raised again in the greenlet of the request
            self.error = error
        self._changed.set()

    def fail(self) -> NoReturn:
        """Raises what it broke on, and forgets it."""
        assert self.error is not None  # noqa: S101  asked of one that broke alone
        try:
            raise self.error
        finally:
            self.error = None

    def stop(self) -> None:
        """Ends it, and waits until it has let go of the vendor."""
        self._cancellation.cancel()
        self._greenlet.join()
        if isinstance(self.outcome, StreamAnswer):
            self.outcome.abandon()


def race(gateway: Gateway, run: Run, grant: Grant, after: float) -> Sent | Failed:
    """The first answer; the failure of the last attempt if none has one. Raises Cancelled, and whatever an attempt broke on."""
    changed = Event()
    first = _Attempt(gateway, run, grant, changed)
    changed.wait(after)
    if first.is_over():
        return _outcome(first)
    beside = gateway.lease_beside(run, grant)
    if beside is None:
        changed.wait()
        return _outcome(first)
    second = _Attempt(gateway, run, beside, changed)
    while True:
        changed.clear()
        for one, other in ((first, second), (second, first)):
            if one.has_answered():
                _settle_loser(gateway, run, other)
                return _outcome(one)
        if first.is_over() and second.is_over():
            if isinstance(first.outcome, Failed):
                gateway.failed(run, first.outcome)
            return _outcome(second if first.error is None else first)
        changed.wait()


def _settle_loser(gateway: Gateway, run: Run, loser: _Attempt) -> None:
    """A vendor that had failed is told of as ever; one that was still at work has read its input."""
    if not loser.is_over():
        loser.stop()
    if isinstance(loser.outcome, Failed):
        gateway.failed(run, loser.outcome)
    elif loser.error is None or isinstance(loser.error, Cancelled):
        gateway.outpaced(run, loser.grant, loser.started)
    else:
        loser.fail()


def _outcome(attempt: _Attempt) -> Sent | Failed:
    if attempt.error is not None:
        attempt.fail()
    assert attempt.outcome is not None  # noqa: S101  it is over
    return attempt.outcome
