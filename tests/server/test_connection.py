"""Connections of clients: what is a request and what is none, bodies in any pieces, and how answers are written."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gunicorn
import pytest
from gevent import socket as gevent_socket
from hypothesis import given, settings
from hypothesis import strategies as st

from coollm.core.errors import ClientGone, RequestError
from coollm.server import connection as module
from coollm.server.connection import Connection
from coollm.server.heads import Heads
from coollm.server.traffic import Traffic
from tests.conftest import ROOT
from tests.wires import plain_wire

GET = b"GET /a?b=c HTTP/1.1\r\nhost: x\r\n\r\n"


# What one client has sent is known when others send it, as in a worker.
HEADS = Heads()


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Says what it has heard."""
    try:
        body = environ["wsgi.input"].read()
    except RequestError as error:
        start_response("400 Bad Request", [("content-length", "4")])
        return (b"gone" if isinstance(error, ClientGone) else b"what",)
    text = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']} {body.decode('latin-1')}".encode("latin-1")
    start_response("200 OK", [("content-length", str(len(text)))])
    return (text,)


def talk(*pieces: bytes, application: Any = echo, stopping: bool = False, pause: float = 0.0, heads: Heads | None = None, peer: str = "") -> bytes:
    """Everything that the server says to a client that sends these pieces and then no more."""
    ours, theirs = gevent_socket.socketpair()

    def serve() -> None:
        wire = plain_wire(ours)
        try:
            Connection(wire, application, {}, heads or HEADS, lambda: stopping, Traffic(), peer).serve()
        finally:
            wire.close()

    def send() -> None:
        try:
            for piece in pieces:
                theirs.sendall(piece)
                gevent.sleep(pause)
            theirs.shutdown(socket.SHUT_WR)
        except OSError:
            return

    gevent.spawn(serve)
    gevent.spawn(send)
    theirs.settimeout(10)
    said = b""
    try:
        while data := theirs.recv(65536):
            said += data
    except ConnectionResetError:
        pass
    theirs.close()
    return said


def bodies(said: bytes) -> list[bytes]:
    """The bodies of answers with a content-length."""
    found = []
    while said:
        head, _, rest = said.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        size = int(length[1]) if length else 0
        found.append(rest[:size])
        said = rest[size:]
    return found


def test_requests_follow_each_other() -> None:
    said = talk(GET, GET)
    assert bodies(said) == [b"GET /a?b=c ", b"GET /a?b=c "]
    assert said.count(b"date: ") == 2
    assert b"connection: close" not in said


def test_a_connection_that_has_lived_long_ends_with_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that clients with few connections spread over instances that have come since."""
    monkeypatch.setattr(module, "LIFE_SECONDS", (0.0, 0.0))
    said = talk(GET, GET, pause=0.1)
    assert bodies(said) == [b"GET /a?b=c "]
    assert b"connection: close" in said


def test_requests_in_one_piece_are_served_in_their_order() -> None:
    post = b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
    assert bodies(talk(GET + post + GET)) == [b"GET /a?b=c ", b"POST /p? abc", b"GET /a?b=c "]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pieces_may_end_anywhere(data: st.DataObject) -> None:
    chunked = b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    whole = GET + chunked + b"POST /p%20q HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nabcd" + GET
    cuts = sorted(data.draw(st.lists(st.integers(1, len(whole) - 1), max_size=12)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if start < end]
    assert bodies(talk(*pieces)) == [b"GET /a?b=c ", b"POST /c? abcde", b"POST /p q? abcd", b"GET /a?b=c "]


def test_a_client_that_waits_for_the_word_to_go_on() -> None:
    said = talk(b"POST /p HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n", b"abc", pause=0.1)
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert said.endswith(b"POST /p? abc")


def test_another_protocol_is_not_taken_up() -> None:
    """As Java's client offers HTTP/2 to every server."""
    head = b"POST /p HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n"
    assert bodies(talk(head + b"content-length: 5\r\n\r\nab", b"cde" + GET, pause=0.05)) == [b"POST /p? abcde", b"GET /a?b=c "]
    chunked = head + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n"
    assert bodies(talk(chunked, b"1\r\nc\r\n0\r\n\r\n" + GET, pause=0.05)) == [b"POST /p? abc", b"GET /a?b=c "]


def test_a_stopping_server_says_that_it_closes() -> None:
    said = talk(GET + GET, stopping=True)
    assert said.count(b"HTTP/1.1 200 OK") == 1
    assert b"connection: close" in said


def test_old_clients() -> None:
    assert b"connection: close" in talk(b"GET / HTTP/1.0\r\n\r\n" + GET)
    said = talk(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + GET)
    assert said.count(b"200 OK") == 2
    assert b"connection: keep-alive" in said


def streaming(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    yield b"one"
    yield b""
    yield b"two"


def test_answers_without_a_length() -> None:
    said = talk(GET + GET, application=streaming)
    assert said.count(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n") == 2
    said = talk(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", application=streaming)
    assert said.endswith(b"\r\n\r\nonetwo")
    assert b"connection: close" in said
    assert talk(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", application=streaming).endswith(b"\r\n\r\n")


def test_an_answer_before_the_body_has_come_closes_the_connection_and_is_read() -> None:
    def refuse(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("413 Content Too Large", [("content-length", "3")])
        return (b"no!",)

    said = talk(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n", *[b"x" * 100_000] * 5, application=refuse)
    assert said.endswith(b"no!")
    assert b"connection: close" in said


def test_a_client_that_leaves_in_its_body() -> None:
    assert talk(b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 30\r\n\r\nabc").endswith(b"gone")


def test_a_header_that_would_end_the_head_is_not_written() -> None:
    def split(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with pytest.raises(ValueError, match="line break"):
            start_response("200 OK", [("x-name", "a\r\nset-cookie: b"), ("content-length", "0")])
        start_response("200 OK", [("content-length", "0")])
        return (b"",)

    assert b"set-cookie" not in talk(GET, application=split)


def test_names_with_underscores_are_not_taken_for_others() -> None:
    seen: list[dict[str, Any]] = []

    def look(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append(environ)
        return echo(environ, start_response)

    talk(b"GET / HTTP/1.1\r\nhost: x\r\nx_api_key: a\r\nx-other: 1\r\nx-other: 2\r\n\r\n", application=look)
    assert "HTTP_X_API_KEY" not in seen[0]
    assert seen[0]["HTTP_X_OTHER"] == "1,2"


BAD = {
    "both lengths": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "the same length twice": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "a signed length": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +3\r\n\r\nabc",
    "a length in words": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3, 3\r\n\r\nabc",
    "an unknown coding": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding that looks known": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "a coding in HTTP/1.0": b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length : 3\r\n\r\nabc",
    "a folded header": b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nhost: x\n\n",
    "a bare carriage return": b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\rc\r\n\r\n",
    "a null": b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\x00c\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "another version": b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "an unknown expectation": b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 200-ok\r\ncontent-length: 1\r\n\r\na",
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "another scheme": b"GET ftp://x/y HTTP/1.1\r\nhost: x\r\n\r\n",
    "no address": b"GET x HTTP/1.1\r\nhost: x\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\nhost: x\r\n: y\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "many headers": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: 1\r\n" % number for number in range(200)) + b"\r\n",
    "a long header": b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"y" * 100_000 + b"\r\n\r\n",
    "a long address": b"GET /" + b"y" * 10_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_is_refused_and_ends_the_connection(name: str) -> None:
    said = talk(BAD[name] + GET)
    assert re.match(rb"HTTP/1\.1 (400|408|414|417|431|501|505) ", said), said[:80]
    assert said.count(b"HTTP/1.1 ") == 1, "what follows is not taken for a request"
    assert b"connection: close" in said


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("pause", [0.0, 0.01])
def test_what_was_asked_before_it_is_answered(name: str, pause: float) -> None:
    """In whatever pieces it comes."""
    post = b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
    pieces = (GET + post + BAD[name] + GET,) if not pause else (GET, post[:-2], post[-2:] + BAD[name] + GET)
    said = talk(*pieces, pause=pause)
    assert bodies(said)[:2] == [b"GET /a?b=c ", b"POST /p? abc"]
    assert said.count(b"HTTP/1.1 200 OK") == 2
    assert re.search(rb"HTTP/1\.1 (400|408|414|417|431|501|505) ", said), "and it is refused in its turn"


@pytest.mark.parametrize("broken", [b"5\r\nabc\r\n0\r\n\r\n", b"x\r\nabc\r\n0\r\n\r\n", b"3\nabc\n0\n\n", b"-3\r\nabc\r\n", b"3\r\nabcd\r\n0\r\n\r\n"])
def test_a_broken_chunk_ends_the_connection(broken: bytes) -> None:
    said = talk(b"POST /p HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + broken + GET)
    assert b"GET /a" not in said
    said = talk(GET + b"POST /p HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + broken + GET)
    assert said.count(b"GET /a?b=c ") == 1, "the one before it"
    assert b"200 OK\r\n" not in said.partition(b"GET /a?b=c ")[2]


def test_a_head_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.5)
    started = time.monotonic()
    said = talk(b"GET / HTTP/1.1\r\n", *[b"x-%d: 1\r\n" % number for number in range(20)], pause=0.1)
    assert time.monotonic() - started < 8
    assert b"200 OK" not in said


def test_a_body_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_SECONDS", 0.3)
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2000\r\n\r\n"
    began = time.monotonic()
    assert bodies(talk(head, *[b"x"] * 60, pause=0.02)) == [b"gone"], "each piece comes in time, and all of it never would"
    assert time.monotonic() - began < 3
    assert bodies(talk(head, *[b"x" * 50] * 40, pause=0.02))[0].endswith(b"x" * 2000), "a slow network may take its time"


def test_many_bytes_of_nonsense_break_nothing() -> None:
    for seed in range(50):
        noise = bytes((seed * 31 + place * 7 * (seed + 1)) % 256 for place in range(300))
        assert b"200 OK" not in talk(noise)


@pytest.fixture(scope="session")
def gunicorns_corpus() -> list[tuple[str, bytes]]:
    """The requests that gunicorn's own tests hold to be invalid, from its source distribution."""
    folder = ROOT / "build" / "gunicorn"
    archive = folder / f"gunicorn-{gunicorn.__version__}.tar.gz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"gunicorn=={gunicorn.__version__}", "--no-binary", "gunicorn", "--no-deps", "--no-build-isolation", "-d", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *wanted], check=True, timeout=110)
    found = []
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            if "/tests/requests/invalid/" in member.name and member.name.endswith(".http"):
                file = packed.extractfile(member)
                assert file is not None
                # Their files are written for people: line ends are words.
                text = file.read().replace(b"\n", b"").replace(b"\\r\\n", b"\r\n").replace(b"\\n", b"\n").replace(b"\\0", b"\x00")
                text = re.sub(rb"\\x([0-9a-fA-F]{2})", lambda match: bytes([int(match[1], 16)]), text)
                found.append((Path(member.name).name, text))
    return found


# These need a setting of gunicorn's which is not its default.
NOT_OURS = {
    "010.http": "limit_request_field_size of 10",
    "011.http": "limit_request_fields of 2",
    "012.http": "limit_request_field_size of 98",
    "019.http": "forwarded_allow_ips of all: these headers are not read here",
    "040.http": "header_map of refuse: names with underscores are dropped, as by default",
    "chunked_07.http": "the same",
}


def test_what_gunicorn_refuses_is_refused(gunicorns_corpus: list[tuple[str, bytes]]) -> None:
    assert len(gunicorns_corpus) > 30
    served = [name for name, request in gunicorns_corpus if name not in NOT_OURS and b"HTTP/1.1 200" in talk(request)]
    assert served == []
