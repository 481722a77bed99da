"""One call of a vendor: one exchange, or several where the answer comes in steps."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from coollm.cancellation import Cancellation
from coollm.core.types import ModelRequest, Target
from coollm.providers.base import AnswerFormat, Dialect, Losses, VendorRequest
from coollm.providers.verdict import VendorError
from coollm.upstream import Exchange, Upstream

SUCCESSES = range(200, 300)

_log = logging.getLogger("coollm.vendor_call")


class VendorCall:
    """A call under way. After `open`, its answer is in `exchange`, or known already and given by `read`, and written in the format `form`. Whoever opens it
    calls `close`.
    """

    __slots__ = ("_abandon", "_answer", "_cancellation", "_dialect", "_has_exchange", "_upstream", "exchange", "form")

    form: AnswerFormat
    exchange: Exchange

    def __init__(self, upstream: Upstream, dialect: Dialect, cancellation: Cancellation) -> None:
        self._upstream = upstream
        self._dialect = dialect
        self._cancellation = cancellation
        self._has_exchange = False
        self._abandon: VendorRequest | None = None
        self._answer: bytes | None = None

    def open(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> None:
        """Sends the request, and goes on until the last step of its answer has begun. Raises VendorError or Cancelled."""
        sent = self._dialect.encode(request, target, base_url, key, losses)
        while True:
            self.form, self._abandon = sent.answer, sent.abandon
            exchange = self.exchange = self._upstream.send(sent, self._cancellation)
            self._has_exchange = True
            if exchange.status not in SUCCESSES:
                raise VendorError(self._dialect.verdict(exchange.status, exchange.headers, exchange.read()))
            if sent.follow is None:
                return
            answer = exchange.read()
            exchange.close()
            following = sent.follow(answer)
            if following is None:
                self._answer = answer
                return
            sent = following.request
            self._cancellation.sleep(following.wait_seconds)

    @property
    def is_stream(self) -> bool:
        """Whether the answer comes as a stream. A vendor that cannot stream answers whole, whatever was asked."""
        return self._answer is None and not self.exchange.headers.get("content-type", "").startswith("application/json")

    def read(self) -> bytes:
        """The whole answer. Raises VendorError or Cancelled."""
        return self.exchange.read() if self._answer is None else self._answer

    def close(self, *, is_wanted: bool) -> None:
        """Lets go of the vendor; where nobody wants the answer any more and the vendor would work on, it is told."""
        if self._has_exchange:
            self.exchange.close()
        if not is_wanted and self._abandon is not None:
            gevent.spawn(_tell, self._upstream.send, self._abandon)


def _tell(send: Callable[[VendorRequest, Cancellation], Exchange], request: VendorRequest) -> None:
    try:
        exchange = send(request, Cancellation())
        exchange.drain()
        exchange.close()
    except VendorError as error:
        _log.warning("a vendor could not be told that its work is not wanted any more", extra={"reason": str(error.verdict.cause)})
