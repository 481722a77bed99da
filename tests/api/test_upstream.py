"""The client side of HTTP, against servers that behave in every way they should not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from coollm.api.client_watch import ClientWatch
from coollm.cancellation import Cancellation
from coollm.core.config.schema import Timeouts
from coollm.core.config.values import Duration
from coollm.core.errors import ClientGone
from coollm.providers.base import VendorRequest
from coollm.providers.openai_chat import CHAT
from coollm.providers.verdict import Cause, VendorError
from coollm.upstream import Upstream
from tests.wires import plain_wire

Handler = Callable[[socket.socket, int], None]
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@pytest.fixture
def server() -> Iterator[Callable[[Handler], str]]:
    started: list[StreamServer] = []

    def start(handler: Handler) -> str:
        connections = [0]

        def serve(connection: socket.socket, address: object) -> None:
            connections[0] += 1
            try:
                handler(connection, connections[0])
            except OSError:
                pass
            finally:
                connection.close()

        one = StreamServer(("127.0.0.1", 0), serve)
        one.start()
        started.append(one)
        return f"http://127.0.0.1:{one.address[1]}"

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    one = Upstream(Timeouts(connect=Duration(0.5), first_byte=Duration(0.4), idle=Duration(0.3), total=Duration(1.0)))
    yield one
    one.close()


def ask(url: str) -> VendorRequest:
    return VendorRequest(method="POST", url=f"{url}/v1/x?y=1", headers=(("content-type", "application/json"),), body=b'{"a": 1}', answer=CHAT)


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b'{"a": 1}'):
        more = connection.recv(65536)
        if not more:
            raise OSError("the client closed")
        data += more
    return data


def fetch(upstream: Upstream, url: str) -> bytes:
    exchange = upstream.send(ask(url), Cancellation())
    try:
        return exchange.read()
    finally:
        exchange.close()


def failure(upstream: Upstream, url: str) -> Cause:
    with pytest.raises(VendorError) as raised:
        fetch(upstream, url)
    return raised.value.verdict.cause


def test_a_request_is_written_as_it_should_be(server: Callable[[Handler], str], upstream: Upstream) -> None:
    seen = []

    def handler(connection: socket.socket, number: int) -> None:
        seen.append(read_request(connection))
        connection.sendall(WHOLE)

    url = server(handler)
    assert fetch(upstream, url) == b"hello"
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /v1/x?y=1 HTTP/1.1"
    assert f"host: {url.removeprefix('http://')}".encode() in head
    assert (b"content-length: 8" in head, body) == (True, b'{"a": 1}')


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + WHOLE,
    ],
    ids=["length", "chunked", "until the end", "http 1.0", "continue", "hints"],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_every_framing_of_a_body(server: Callable[[Handler], str], upstream: Upstream, answer: bytes, step: int) -> None:
    def handler(connection: socket.socket, number: int) -> None:
        read_request(connection)
        for start in range(0, len(answer), step):
            connection.sendall(answer[start : start + step])
            gevent.sleep(0)

    assert fetch(upstream, server(handler)) == b"hello"


def test_connections_are_kept_and_used_again(server: Callable[[Handler], str], upstream: Upstream) -> None:
    connections = []

    def handler(connection: socket.socket, number: int) -> None:
        connections.append(number)
        while True:
            read_request(connection)
            connection.sendall(WHOLE)

    url = server(handler)
    assert [fetch(upstream, url) for _ in range(5)] == [b"hello"] * 5
    assert connections == [1]


def test_a_connection_that_the_vendor_closed_meanwhile_is_replaced(server: Callable[[Handler], str], upstream: Upstream) -> None:
    served = []

    def handler(connection: socket.socket, number: int) -> None:
        read_request(connection)
        served.append(number)
        connection.sendall(WHOLE)
        if number == 1:
            read_request(connection)  # the second request arrives, and is dropped without a byte of an answer

    url = server(handler)
    assert [fetch(upstream, url), fetch(upstream, url)] == [b"hello", b"hello"]
    assert served == [1, 2]


def test_a_request_that_was_answered_in_part_is_not_sent_again(server: Callable[[Handler], str], upstream: Upstream) -> None:
    seen = []

    def handler(connection: socket.socket, number: int) -> None:
        while True:
            read_request(connection)
            seen.append(number)
            if len(seen) == 1:
                connection.sendall(WHOLE)
            else:
                connection.sendall(b"HTTP/1.1 200")
                return

    url = server(handler)
    fetch(upstream, url)
    assert failure(upstream, url) is Cause.CUT
    assert seen == [1, 1]


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"", Cause.CUT),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Cause.CUT),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello", Cause.CUT),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", Cause.CUT),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Cause.BAD_ANSWER),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Cause.BAD_ANSWER),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 500_000, Cause.BAD_ANSWER),
    ],
)
def test_answers_that_are_none(server: Callable[[Handler], str], upstream: Upstream, answer: bytes, cause: Cause) -> None:
    def handler(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(answer)
        gevent.sleep(0.05)

    assert failure(upstream, server(handler)) is cause


@pytest.mark.parametrize(
    ("pieces", "pause", "within"),
    [
        ([], 5, 0.4),  # no first byte
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhel"], 5, 0.3),  # then idle
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n", *[b"x"] * 20], 0.1, 1.0),  # a trickle, beyond the total
    ],
    ids=["first byte", "idle", "total"],
)
def test_timeouts(server: Callable[[Handler], str], upstream: Upstream, pieces: list[bytes], pause: float, within: float) -> None:
    def handler(connection: socket.socket, number: int) -> None:
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece)
            gevent.sleep(pause)
        gevent.sleep(pause)

    url = server(handler)
    started = time.monotonic()
    assert failure(upstream, url) is Cause.TIMEOUT
    assert within * 0.9 < time.monotonic() - started < within + 1


def test_nobody_listens(upstream: Upstream) -> None:
    assert failure(upstream, "http://127.0.0.1:1") is Cause.CONNECT_FAILED
    assert failure(upstream, "http://name.invalid:80") is Cause.CONNECT_FAILED


def test_a_certificate_that_nobody_vouches_for_is_refused(server: Callable[[Handler], str], upstream: Upstream) -> None:
    url = server(lambda connection, number: connection.sendall(b"not tls"))
    assert failure(upstream, url.replace("http:", "https:")) is Cause.CONNECT_FAILED


def test_a_redirect_is_not_followed(server: Callable[[Handler], str], upstream: Upstream) -> None:
    def handler(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n")

    exchange = upstream.send(ask(server(handler)), Cancellation())
    assert (exchange.status, exchange.read()) == (307, b"")
    exchange.close()


def test_a_header_cannot_smuggle_another(upstream: Upstream) -> None:
    evil = VendorRequest(method="POST", url="http://127.0.0.1:1/", headers=(("x", "a\r\ny: b"),), body=b"", answer=CHAT)
    with pytest.raises(VendorError, match="line break"):
        upstream.send(evil, Cancellation())


@pytest.mark.parametrize("has_head", [False, True])
def test_cancelling_closes_the_connection_at_once(server: Callable[[Handler], str], upstream: Upstream, has_head: bool) -> None:
    closed = []

    def handler(connection: socket.socket, number: int) -> None:
        read_request(connection)
        if has_head:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhel")
            gevent.sleep(0.05)
        started.append(time.monotonic())
        cancellation.cancel()
        assert connection.recv(10) == b""
        closed.append(time.monotonic())

    cancellation = Cancellation()
    started: list[float] = []
    with pytest.raises(ClientGone):
        upstream.send(ask(server(handler)), cancellation).read()
    gevent.sleep(0.3)
    assert closed
    assert closed[0] - started[0] < 0.3


def test_a_cancelled_request_is_not_sent(upstream: Upstream) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(ClientGone):
        upstream.send(ask("http://127.0.0.1:1"), cancellation)
    with pytest.raises(ClientGone):
        cancellation.sleep(10)


def test_the_watch_tells_a_client_that_left_from_one_that_sends_more() -> None:
    for leaves in (True, False):
        ours, theirs = socket.socketpair()
        cancellation = Cancellation()
        wire = plain_wire(ours)
        watch = ClientWatch(wire, cancellation)
        gevent.sleep(0.01)
        assert not cancellation.is_cancelled
        if leaves:
            theirs.close()
        else:
            theirs.sendall(b"GET / HTTP/1.1")
        gevent.sleep(0.02)
        assert cancellation.is_cancelled is leaves
        if not leaves:
            assert wire.receive(time.monotonic() + 1) == b"GET / HTTP/1.1", "what came is still there"
        watch.stop()
        wire.close()


def test_a_watch_without_a_socket_is_harmless() -> None:
    ClientWatch(None, Cancellation()).stop()


def test_a_relayed_answer_may_pause_and_not_stop(server: Callable[[Handler], str], upstream: Upstream) -> None:
    def pauses(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
        for _ in range(3):
            gevent.sleep(0.15)
            connection.sendall(b"x")
        gevent.sleep(2)

    came: list[float] = []

    def accept(piece: bytes) -> bool:
        came.append(time.monotonic())
        return piece == b"x"

    exchange = upstream.send(ask(server(pauses)), Cancellation())
    with pytest.raises(VendorError, match="no further piece") as raised:
        exchange.relay(accept)
    waited = time.monotonic() - came[-1]
    exchange.close()
    assert raised.value.verdict.cause is Cause.TIMEOUT
    assert len(came) == 3, "together they took longer than one may take"
    assert waited >= 0.3, "the last piece is what it counts from"
