"""Notices that a client has left while its request is served, so that the vendor's call can be cancelled."""

from __future__ import annotations

import gevent

from coollm.cancellation import Cancellation
from coollm.core.errors import GatewayStopping
from coollm.wire import Wire

# Where the server puts the connection of a request.
WIRE_KEY = "coollm.wire"


class ClientWatch:
    """Watches a client's connection while a request of it is served, until it is stopped. What arrives is not touched: the next request of the connection stays
    where it is.
    """

    __slots__ = ("_cancellation", "_wire")

    def __init__(self, wire: Wire | None, cancellation: Cancellation) -> None:
        """`wire` is None where the server gives none: then nothing is seen."""
        self._wire = wire
        self._cancellation: Cancellation | None = cancellation
        if wire is not None:
            wire.on_end = self._ended
            wire.on_stop = self._stopped
            if wire.has_ended:
                self._ended()

    def stop(self) -> None:
        """The request is served."""
        self._cancellation = None
        if self._wire is not None:
            self._wire.on_end = self._wire.on_stop = None

    def _stopped(self) -> None:
        """The gateway stops, and has waited for this request as long as it may."""
        if self._cancellation is not None:
            self._cancellation.cancel(GatewayStopping("the gateway is being restarted: send the request again", retry_after_seconds=1.0))

    def _ended(self) -> None:
        if self._cancellation is not None:
            # In a greenlet of its own: what is cancelled must not run in the event loop.
            gevent.spawn(self._cancellation.cancel)
