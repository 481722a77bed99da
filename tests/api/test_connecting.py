"""From a vendor's address to a connection: names, addresses, proxies, TLS."""

from __future__ import annotations

import base64
import contextlib
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer
from hypothesis import given, settings
from hypothesis import strategies as st

from coollm.cancellation import Cancellation
from coollm.connecting import Address, Connector, Names, Origin, Refused, proxy_headers
from coollm.core.config.schema import Timeouts
from coollm.core.config.values import Duration
from coollm.core.errors import ClientGone
from coollm.providers.base import VendorRequest
from coollm.providers.openai_chat import CHAT
from coollm.providers.verdict import Cause, VendorError
from coollm.upstream import Upstream
from coollm.wire import TlsWire

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
V4 = int(socket.AF_INET)


def until() -> float:
    return time.monotonic() + 2


def answering(seen: list[bytes], answer: bytes = ANSWER) -> Callable[[Any, object], None]:
    """A handler that answers each request that comes in one piece."""

    def serve(connection: Any, _: object) -> None:
        try:
            while data := connection.recv(65536):
                seen.append(data)
                connection.sendall(answer)
        except OSError:
            return

    return serve


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    started: list[StreamServer] = []

    def one(handler: Callable[[Any, object], None], **more: Any) -> int:
        server = StreamServer(("127.0.0.1", 0), handler, **more)
        server.start()
        started.append(server)
        return int(server.address[1])

    yield one
    for server in started:
        server.stop()


def names_of(*addresses: tuple[str, int]) -> Names:
    return Names(lambda host, port: [(V4, address) for address in addresses])


def fetch(upstream: Upstream, url: str) -> bytes:
    asked = VendorRequest(method="POST", url=url, headers=(("authorization", "Bearer k"),), body=b"{}", answer=CHAT)
    exchange = upstream.send(asked, Cancellation())
    try:
        return exchange.read()
    finally:
        exchange.close()


def test_a_name_is_asked_for_once_in_a_while_and_an_old_answer_is_better_than_none() -> None:
    now, asked, answers = [0.0], [0], [[(V4, ("127.0.0.1", 1))]]

    def ask(host: str, port: int) -> Sequence[Address]:
        asked[0] += 1
        if not answers:
            raise OSError("the resolver does not answer")
        return answers[0]

    names = Names(ask, clock=lambda: now[0])
    for moment, times in ((1, 1), (20, 1), (32, 2)):
        now[0] = moment
        assert names.addresses("vendor", 1) == [(V4, ("127.0.0.1", 1))]
        assert asked[0] == times
    answers.clear()
    now[0] = 500.0
    assert names.addresses("vendor", 1), "what it said before still holds"
    now[0] = 2000.0
    with pytest.raises(OSError, match="does not answer"):
        names.addresses("vendor", 1)


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1%eth0", "::ffff:169.254.169.254", "fd00:ec2::254", "::"])
def test_a_name_does_not_lead_to_what_no_vendor_has(address: str) -> None:
    with pytest.raises(Refused, match="no address that a vendor can have"):
        Names(lambda host, port: [(V4, (address, port))]).addresses("vendor.example", 80)
    both = Names(lambda host, port: [(V4, (address, port)), (V4, ("10.0.0.1", port))])
    assert [place[0] for _, place in both.addresses("vendor.example", 80)] == ["10.0.0.1"], "a private link is a vendor's"


def test_an_address_that_is_configured_is_meant() -> None:
    assert Names(lambda host, port: [(V4, (host, port))]).addresses("169.254.169.254", 80)


def test_addresses_are_tried_in_turns_of_their_families() -> None:
    six, four = int(socket.AF_INET6), V4
    given_by_resolver = [(six, ("2001:db8::1", 1)), (six, ("2001:db8::2", 1)), (four, ("192.0.2.1", 1))]
    assert [family for family, _ in Names(lambda host, port: given_by_resolver).addresses("vendor", 1)] == [six, four, six]


def test_the_next_address_is_tried_where_one_refuses(start: Callable[..., int]) -> None:
    port = start(answering([]))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
    connector = Connector(names=names_of(("127.0.0.1", closed), ("127.0.0.1", port)))
    connector.open(Origin(is_tls=False, host="vendor", port=port), until()).close()
    with pytest.raises(OSError, match="refused"):
        Connector(names=names_of(("127.0.0.1", closed), ("127.0.0.1", closed))).open(Origin(is_tls=False, host="vendor", port=port), until())


def test_an_address_that_dawdles_is_not_waited_for(start: Callable[..., int]) -> None:
    port = start(answering([]))
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):  # its queue is full: it neither accepts nor refuses
            one = socket.socket()
            one.settimeout(0.05)
            with contextlib.suppress(OSError):
                one.connect(full.getsockname())
            waiting.append(one)
        connector = Connector(names=names_of(full.getsockname(), ("127.0.0.1", port)))
        began = time.monotonic()
        connector.open(Origin(is_tls=False, host="vendor", port=port), until()).close()
        assert 0.2 < time.monotonic() - began < 2
        with pytest.raises(TimeoutError):
            Connector(names=names_of(full.getsockname(), full.getsockname())).open(Origin(is_tls=False, host="vendor", port=port), time.monotonic() + 0.6)
        for one in waiting:
            one.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tls")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, "-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem")], check=True, capture_output=True, timeout=60)
    return home


def tls(certificate: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[Any, ssl.SSLContext]:
    from gevent.ssl import SSLContext

    server = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.maximum_version = version
    client = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    return server, client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_next_connection_goes_on_from_the_session_of_the_last(certificate: Path, start: Callable[..., int], version: ssl.TLSVersion) -> None:
    server, client = tls(certificate, version)
    port = start(answering([], ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")), ssl_context=server)
    connector = Connector(tls=client)
    upstream = Upstream(Timeouts(), connector)
    resumed: list[bool] = []
    plain = connector.open

    def opened(origin: Origin, until: float) -> Any:
        wire = plain(origin, until)
        assert isinstance(wire, TlsWire)
        resumed.append(wire.is_resumed)
        return wire

    connector.open = opened  # type: ignore[method-assign]
    for _ in range(3):
        assert fetch(upstream, f"https://localhost:{port}/v1") == b"ok"
    assert resumed == [False, True, True]


def test_a_certificate_of_another_or_of_nobody_is_refused(certificate: Path, start: Callable[..., int]) -> None:
    server, client = tls(certificate)
    port = start(answering([]), ssl_context=server)
    for context, host in ((ssl.create_default_context(), "localhost"), (client, "127.0.0.1")):
        with pytest.raises(VendorError) as caught:
            fetch(Upstream(Timeouts(), Connector(tls=context)), f"https://{host}:{port}/")
        assert caught.value.verdict.cause is Cause.CONNECT_FAILED
        assert "certificate" in caught.value.verdict.message


def test_large_bodies_through_tls(certificate: Path, start: Callable[..., int]) -> None:
    server, client = tls(certificate)
    body = bytes(range(256)) * 8192

    def serve(connection: Any, _: object) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
        connection.sendall(body)
        gevent.sleep(1)

    port = start(serve, ssl_context=server)
    assert fetch(Upstream(Timeouts(), Connector(tls=client)), f"https://localhost:{port}/") == body


def test_a_handshake_that_never_ends(start: Callable[..., int], certificate: Path) -> None:
    port = start(lambda connection, _: gevent.sleep(5))
    upstream = Upstream(Timeouts(connect=Duration(0.2)), Connector(tls=tls(certificate)[1]))
    with pytest.raises(VendorError) as caught:
        fetch(upstream, f"https://localhost:{port}/")
    assert caught.value.verdict.cause is Cause.TIMEOUT


def test_a_proxy_is_asked_for_the_whole_address(start: Callable[..., int]) -> None:
    seen: list[bytes] = []
    proxy = start(answering(seen))
    upstream = Upstream(Timeouts(), Connector(proxies={"http": f"http://us%65r:p%40ss@127.0.0.1:{proxy}", "no": "inside.example"}))
    assert fetch(upstream, "http://vendor.example:81/v1?a=b") == b"ok"
    assert seen[0].startswith(b"POST http://vendor.example:81/v1?a=b HTTP/1.1\r\nhost: vendor.example:81\r\n")
    assert b"proxy-authorization: Basic " + base64.b64encode(b"user:p@ss") in seen[0]
    connector = Connector(proxies={"https": "127.0.0.1:3128", "no": ".inside.example,10.0.0.1"})
    assert connector.proxy_of(Origin(is_tls=True, host="a.inside.example", port=443)) is None
    assert connector.proxy_of(Origin(is_tls=False, host="vendor.example", port=80)) is None
    found = connector.proxy_of(Origin(is_tls=True, host="vendor.example", port=443))
    assert found is not None
    assert (found.hostname, found.port) == ("127.0.0.1", 3128)
    assert proxy_headers(urlsplit("http://proxy:1")) == []


def tunnel_to(port: int, answer: bytes, seen: list[bytes]) -> Callable[[Any, object], None]:
    def serve(connection: Any, _: object) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(answer)
        if not answer.startswith(b"HTTP/1.1 2"):
            return
        there = socket.create_connection(("127.0.0.1", port))

        def pump(source: Any, target: Any) -> None:
            try:
                while data := source.recv(65536):
                    target.sendall(data)
            except OSError:
                return

        gevent.joinall([gevent.spawn(pump, connection, there), gevent.spawn(pump, there, connection)], count=1)

    return serve


def test_tls_goes_through_a_proxy_by_a_tunnel(certificate: Path, start: Callable[..., int]) -> None:
    server, client = tls(certificate)
    port = start(answering([]), ssl_context=server)
    seen: list[bytes] = []
    proxy = start(tunnel_to(port, b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n", seen))
    upstream = Upstream(Timeouts(), Connector(tls=client, proxies={"https": f"http://127.0.0.1:{proxy}"}))
    assert fetch(upstream, f"https://localhost:{port}/") == b"ok"
    assert seen[0].startswith(f"CONNECT localhost:{port} HTTP/1.1\r\n".encode())
    assert b"Bearer" not in seen[0], "the vendor's key is not the proxy's to see"


@pytest.mark.parametrize(("answer", "said"), [(b"HTTP/1.1 407 No\r\n\r\n", "status 407"), (b"SSH-2.0 hello\r\n", "no HTTP"), (b"", "no answer")])
def test_a_proxy_that_does_not_let_through(start: Callable[..., int], answer: bytes, said: str) -> None:
    proxy = start(tunnel_to(1, answer, []))
    with pytest.raises(VendorError) as caught:
        fetch(Upstream(Timeouts(), Connector(proxies={"https": f"http://127.0.0.1:{proxy}"})), "https://vendor.example/")
    assert caught.value.verdict.cause is Cause.CONNECT_FAILED
    assert said in caught.value.verdict.message


@settings(max_examples=150, deadline=None)
@given(nonsense=st.binary(max_size=200), valid=st.booleans(), place=st.integers(0, 60))
def test_no_answer_of_a_vendor_breaks_more_than_its_request(nonsense: bytes, valid: bool, place: int) -> None:
    """Bytes of any kind, or a good answer with bytes of any kind somewhere in it: an answer or a verdict, never another error, and no wait."""
    answer = ANSWER[:place] + nonsense + ANSWER[place:] if valid else nonsense

    def serve(connection: Any, _: object) -> None:
        try:
            connection.recv(65536)
            connection.sendall(answer)
        except OSError:
            return

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    try:
        upstream = Upstream(Timeouts(first_byte=Duration(1.0), idle=Duration(1.0), total=Duration(2.0)))
        body = fetch(upstream, f"http://127.0.0.1:{server.address[1]}/")
        assert isinstance(body, bytes)
    except VendorError as error:
        assert error.verdict.cause in (Cause.BAD_ANSWER, Cause.CUT)  # noqa: PT017
    except ClientGone:
        pytest.fail("nobody left")
    finally:
        server.stop()
