"""A head that is known needs no parser: what is served then is what the parser would have let through, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coollm.server.heads import LONGEST_KNOWN_BYTES, MOST_KNOWN, Head, Heads, Known
from tests.server.test_connection import bodies, talk

BODIES = (b"a", b"0123456789", b"x" * 2000)


def post(body: bytes, *headers: bytes, path: bytes = b"/p") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"host: x", *headers, b"content-length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


class Counted(Heads):
    """Knows how often it had something to say."""

    taken = 0

    def take(self, data: bytes, last: Known | None = None) -> tuple[Known, bytes, bytes] | None:
        found = super().take(data, last)
        self.taken += found is not None
        return found


class Parsed(Heads):
    """Knows nothing."""

    def take(self, data: bytes, last: Known | None = None) -> None:
        return None


def test_the_same_head_with_other_lengths() -> None:
    heads = Counted()
    said = [talk(post(body, b"x-trace: 1"), heads=heads) for body in (*BODIES, *BODIES)]
    assert [bodies(one) for one in said] == [[b"POST /p? " + body] for body in (*BODIES, *BODIES)]
    assert heads.taken == 5, "all but the first"


def test_what_is_of_the_connection_is_its_own() -> None:
    heads, seen = Heads(), []

    def remembered(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append((environ["REMOTE_ADDR"], environ["CONTENT_LENGTH"], environ["HTTP_X_A"], environ["wsgi.input"].read(100)))
        environ["HTTP_X_A"] = "changed by the application"
        start_response("200 OK", [("content-length", "0")])
        return (b"",)

    for peer, body in (("192.0.2.1", b"one"), ("192.0.2.2", b"other")):
        talk(post(body, b"X-A: b"), application=remembered, heads=heads, peer=peer)
    assert seen == [("192.0.2.1", "3", "b", b"one"), ("192.0.2.2", "5", "b", b"other")]


@pytest.mark.parametrize(
    "unusual",
    [
        b"content-length: 1\r\n",
        b"transfer-encoding: chunked\r\n",
        b"expect: 100-continue\r\n",
        b"connection: upgrade\r\nupgrade: h2c\r\n",
        b"x-twice: 1\r\nx-twice: 2\r\n",
    ],
)
def test_of_an_unusual_head_nothing_is_remembered(unusual: bytes) -> None:
    heads = Counted()
    request = b"POST /p HTTP/1.1\r\nhost: x\r\n" + unusual + b"content-length: 1\r\n\r\na"
    for _ in range(2):
        talk(request, heads=heads)
    assert heads.taken == 0


def test_one_length_is_not_another() -> None:
    """The digits alone are left out: whatever else a head says of its length is compared, byte for byte."""
    heads = Counted()
    talk(post(b"abc"), heads=heads)
    for length in (b"+3", b"3 ", b" 3", b"3,3", b"0x3", b"3\r\n 3", b"-3", b"3\r\ntransfer-encoding: chunked", "٣".encode()):
        talk(b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: " + length + b"\r\n\r\nabc", heads=heads)
    assert heads.taken == 0


def test_a_request_that_is_not_whole_or_not_alone_is_parsed() -> None:
    heads, whole = Counted(), post(b"abc")
    talk(whole, heads=heads)
    assert bodies(talk(whole[:-1], whole[-1:], heads=heads, pause=0.02)) == [b"POST /p? abc"]
    assert bodies(talk(whole + whole, heads=heads)) == [b"POST /p? abc"] * 2
    assert heads.taken == 0
    assert bodies(talk(whole, whole, whole[:20], whole[20:], whole, heads=heads, pause=0.02)) == [b"POST /p? abc"] * 4
    assert heads.taken == 3


def test_a_known_head_that_ends_its_connection_ends_it() -> None:
    heads, last = Counted(), post(b"abc", b"connection: close")
    for _ in range(2):
        assert b"connection: close" in talk(last, last, heads=heads, pause=0.02)
    assert heads.taken == 1


def test_heads_do_not_fill_the_memory() -> None:
    heads = Heads()
    for number in range(MOST_KNOWN + 10):
        heads.learn(post(b"a", b"x-number: %d" % number), b"1", Head("POST", b"/p", "1.1", True, {}))
    assert len(heads._known) == 10
    heads.learn(post(b"a", b"x-long: " + b"x" * LONGEST_KNOWN_BYTES), b"1", Head("POST", b"/p", "1.1", True, {}))
    assert len(heads._known) == 10


_HEADS = st.lists(
    st.tuples(
        st.sampled_from([b"content-length", b"Content-Length", b"CONTENT-LENGTH", b"x-a", b"transfer-encoding", b"connection"]),
        st.sampled_from([b"3", b"03", b"3 ", b"4", b"", b"chunked", b"close", b"3\r\n", b"3\n"]),
    ),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(_HEADS, st.sampled_from([b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b""]))
def test_it_is_answered_as_the_parser_would(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Every request after others with nearly the same head, and by itself."""
    request = b"POST /p HTTP/1.1\r\nhost: x\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in headers) + b"\r\n" + body
    heads = Heads()
    for known in (b"abc", b"abcd"):
        talk(post(known), heads=heads)
        talk(post(known).replace(b"content-length", b"Content-Length"), heads=heads)
    talk(request, heads=heads)
    assert without_date(talk(request, heads=heads)) == without_date(talk(request, heads=Heads()))
    one_connection = post(b"abc"), request
    assert without_date(talk(*one_connection, heads=heads, pause=0.005)) == without_date(talk(*one_connection, heads=Parsed(), pause=0.005))


def without_date(said: bytes) -> bytes:
    return b"\r\n".join(line for line in said.split(b"\r\n") if not line.startswith(b"date: "))
