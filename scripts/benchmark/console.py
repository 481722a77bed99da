"""Administrators who look at the console while requests are served: each has the first page open, and gets the figures of now as they come."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlencode

from benchmark.servers import Server

NAME, PASSWORD = "admin", "a password for the benchmark"


def signed_in(server: Server, people: int) -> list[str]:
    """So many have signed in: what their browsers keep."""
    return [_sign_in(server) for _ in range(people)]


@contextlib.contextmanager
def watched(server: Server, cookies: list[str]) -> Iterator[None]:
    """They look."""
    connections = [_open(server, cookie) for cookie in cookies]
    threads = [threading.Thread(target=_read, args=(reply,), daemon=True) for _, reply in connections]
    for thread in threads:
        thread.start()
    try:
        yield
        if not all(thread.is_alive() for thread in threads):
            raise SystemExit("error: a page of the console was no longer fresh")
    finally:
        for connection, _ in connections:
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)


def _sign_in(server: Server) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
    connection.request("POST", "/ui/sign-in", urlencode({"name": NAME, "password": PASSWORD}), headers)
    reply = connection.getresponse()
    if reply.status != 303:
        raise SystemExit(f"error: the console answered {reply.status}")
    cookie = (reply.getheader("set-cookie") or "").partition(";")[0]
    reply.read()
    connection.close()
    return cookie


def _open(server: Server, cookie: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("GET", "/ui/live", headers={"cookie": cookie})
    return connection, connection.getresponse()


def _read(reply: http.client.HTTPResponse) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
        while reply.readline():
            pass
