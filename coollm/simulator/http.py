"""A small HTTP/1.1 server on gevent for the simulated vendors. It sees a client leave at once, and can cut an answer anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httptools
from gevent import socket
from gevent.server import StreamServer

RECEIVE_BYTES = 65536

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}


class ClientLeft(Exception):
    """The client closed its connection before the answer was complete."""


class CutHere(Exception):
    """The simulated vendor drops the connection."""


class Incoming:
    """A request; also the callbacks of the parser."""

    def __init__(self) -> None:
        self.method = ""
        self.url = b""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_complete = False
        self._pieces: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self.body = b"".join(self._pieces)
        self.is_complete = True


class Outgoing:
    """Writes one answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def whole(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut_after: int = -1) -> None:
        """An answer in one piece; `cut_after` bytes of the body if that is not negative."""
        lines = [f"content-length: {len(body)}", *self._lines({"content-type": "application/json", **(headers or {})})]
        head = self._head(status, lines)
        if cut_after >= 0:
            self._send(head + body[:cut_after])
            raise CutHere
        self._send(head + body)

    def begin_stream(self, content_type: str = "text/event-stream") -> None:
        """The head of a stream."""
        self._send(self._head(200, ["transfer-encoding: chunked", *self._lines({"content-type": content_type})]))

    def send(self, data: bytes) -> None:
        """A piece of a stream."""
        self._send(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        """The end of a stream."""
        self._send(b"0\r\n\r\n")

    def pause(self, seconds: float) -> None:
        """Waits. Raises ClientLeft the moment the client closes."""
        deadline = time.monotonic() + seconds
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            self._connection.settimeout(remaining)
            try:
                if not self._connection.recv(1, socket.MSG_PEEK):
                    raise ClientLeft
            except TimeoutError:
                return
            except OSError as error:
                raise ClientLeft from error
            finally:
                self._connection.settimeout(None)
            return  # the next request is waiting already: the client is still there

    def _send(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise ClientLeft from error

    @staticmethod
    def _lines(headers: dict[str, str]) -> list[str]:
        return [f"{name}: {value}" for name, value in headers.items()]

    @staticmethod
    def _head(status: int, lines: list[str]) -> bytes:
        return "\r\n".join([f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}", *lines, "", ""]).encode("latin-1")


class HttpServer(StreamServer):
    """Accepts connections and hands requests to `handler(incoming, outgoing)`."""

    def __init__(self, address: tuple[str, int], handler: Callable[[Incoming, Outgoing], None]) -> None:
        super().__init__(address, self._serve, backlog=4096)
        self._handler = handler

    def _serve(self, connection: socket.socket, address: Any) -> None:  # noqa: ARG002
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while self._serve_one(connection):
                pass
        except (OSError, httptools.HttpParserError, ClientLeft, CutHere):
            pass
        finally:
            connection.close()

    def _serve_one(self, connection: socket.socket) -> bool:
        incoming = Incoming()
        parser = httptools.HttpRequestParser(incoming)
        while not incoming.is_complete:
            data = connection.recv(RECEIVE_BYTES)
            if not data:
                return False
            parser.feed_data(data)
        incoming.method = parser.get_method().decode()
        self._handler(incoming, Outgoing(connection))
        return bool(parser.should_keep_alive())
