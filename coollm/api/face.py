"""A client's dialect, as the HTTP face needs it: parsing, rendering, and how errors look."""

from __future__ import annotations

from typing import Protocol

from coollm.api.http import Exchange
from coollm.call import ClientDialect
from coollm.core.errors import RequestError
from coollm.core.types import Content, Json, ModelRequest, Usage


class Face(ClientDialect, Protocol):
    """One client dialect: how it streams (ClientDialect) and, beside that, how it asks, is answered and is refused."""

    def parse(self, body: Json, exchange: Exchange) -> ModelRequest:
        """The request. Raises InvalidRequest naming the field at fault."""

    def render(self, request: ModelRequest, content: Content, usage: Usage) -> Json:
        """A whole answer of a vendor with another dialect."""

    def error_body(self, error: RequestError, message: str, request_id: str) -> Json:
        """An error; `message` is what the client may read."""
