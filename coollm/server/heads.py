"""Heads of requests that were parsed before: a client sends the same one again and again, but for the length of its body.

A request that comes whole in one piece, after a head that is known, needs no parser. Nothing is taken that the parser has not taken byte for byte but for the
digits of that length, which it has seen in the same place as the only length that the message tells. So what ends where is as certain as with the parser.

Source: RFC 9112 (section 6.3).
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Longer ones are parsed each time, and beyond so many all are forgotten.
LONGEST_KNOWN_BYTES = 4096
MOST_KNOWN = 512

# As clients write it, and as HTTP's libraries do.
_NAMES = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")
_END = b"\r\n\r\n"

# A body of more digits than this never comes with its head.
MOST_DIGITS = 8


class Head(NamedTuple):
    """What a head comes to: how it is answered, and the environment of its requests, all but the body's length and what is of the connection."""

    method: str
    target: bytes
    version: str
    keeps_alive: bool
    environ: dict[str, Any]


NO_HEAD = Head("", b"", "1.1", keeps_alive=True, environ={})
"""Of a request that has not come yet."""


class Known(NamedTuple):
    """A head: its bytes before and after the digits of the length, and what it comes to."""

    before: bytes
    after: bytes
    head: Head


class Heads:
    """Those of one listener."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}

    def take(self, data: bytes, last: Known | None = None) -> tuple[Known, bytes, bytes] | None:
        """Of a whole request whose head is known: that, the digits of the body's length, and the body. None for anything else. It is most likely the `last`
        one of its connection.
        """
        if last is not None and data.startswith(last.before):
            begins = len(last.before)
            ends = data.find(b"\r", begins, begins + MOST_DIGITS + 1)
            if ends > begins and data.startswith(last.after, ends):
                length, body = data[begins:ends], data[ends + len(last.after) :]
                return (last, length, body) if length == b"%d" % len(body) else None
        found = _parts(data)
        if found is None:
            return None
        before, length, after, body_at = found
        known = self._known.get(before + after)
        return None if known is None else (known, length, data[body_at:])

    def learn(self, data: bytes, length: bytes, head: Head) -> None:
        """Remembers the head of a whole request, as the parser has taken it; `length` is the only one that it tells."""
        found = _parts(data)
        if found is None or found[1] != length:
            return
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        before, _, after, _ = found
        self._known[before + after] = Known(before, after, head)


def _parts(data: bytes) -> tuple[bytes, bytes, bytes, int] | None:
    """The head before the digits of the length, those, the head after them, and where the body begins; None for what is not one whole request with a body."""
    end = data.find(_END, 0, LONGEST_KNOWN_BYTES)
    if end < 0:
        return None
    for name in _NAMES:
        begins = data.find(name, 0, end)
        if begins >= 0:
            break
    else:
        return None
    begins += len(name)
    ends = data.find(b"\r", begins)
    length, body_at = data[begins:ends], end + len(_END)
    if not length.isdigit() or len(length) > MOST_DIGITS or len(data) - body_at != int(length):
        return None
    return data[:begins], length, data[ends:body_at], body_at
