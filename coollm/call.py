"""A request on its way through the gateway, and what it is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from coollm.cancellation import Cancellation
from coollm.core.config.schema import Client
from coollm.core.errors import RequestError
from coollm.core.types import Content, ModelRequest, StreamEvent, Target, Usage
from coollm.credentials import Credential
from coollm.providers.base import Dialect
from coollm.telemetry.record import RequestRecord


class StreamRenderer(Protocol):
    """Writes stream events in the client's dialect."""

    def render(self, event: StreamEvent) -> bytes:
        """The frames for one event."""

    def finish(self, usage: Usage) -> bytes:
        """The frames that end a whole stream."""


class ClientDialect(Protocol):
    """How the client wants its stream."""

    wire: str
    end_of_stream: bytes

    def renderer(self, request: ModelRequest, target: Target, request_id: str) -> StreamRenderer:
        """A renderer for one stream of a vendor with another dialect."""

    def forwarder(self, target: Target) -> Callable[[bytes], bytes] | None:
        """What is changed in the bytes of a vendor with the same dialect; None if nothing is."""

    def error_frame(self, error: RequestError) -> bytes:
        """The event that tells of a failure after the first byte."""


class Account(msgspec.Struct, frozen=True):
    """A provider as requests see it: its dialect, address and keys by id."""

    dialect: Dialect
    base_url: str
    keys: Mapping[str, Credential]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request on its way, with who asks and how it is stopped. A client of None is the administrator of this host.

    `session` is the name that the client gave its session, if any. With `may_read_cache` a kept answer will do, with `may_keep` this one may be kept.
    """

    request: ModelRequest
    client: Client | None
    face: ClientDialect
    cancellation: Cancellation
    record: RequestRecord
    session: str | None = None
    may_read_cache: bool = True
    may_keep: bool = True


class Answer(msgspec.Struct, frozen=True):
    """A whole answer: `body` are the vendor's own bytes where it speaks the client's dialect, else None. Then nobody may have read them into `content`."""

    content: Content | None
    usage: Usage
    target: Target
    body: bytes | None
