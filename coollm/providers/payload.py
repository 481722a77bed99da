"""The body of a vendor's request: bytes, or pieces where it holds a text of megabytes that is written only while it is sent.

A base64 image of 20 MB would else be in memory three times (parsed, written, joined with the head) and hold up the worker while it is copied.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Protocol

import gevent
import orjson

from coollm.core.types import Base64, Json
from coollm.providers.verdict import Cause, VendorError, Verdict

PIECE_CHARACTERS = 256 * 1024

# From this size on a text is written while it is sent.
LONG_TEXT_CHARACTERS = 64 * 1024


class Body(Protocol):
    """What can be sent piece by piece, more than once."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def pieces(self) -> Iterator[bytes]:
        """The bytes."""


class LongText:
    """A text that `write_json` writes while it is sent. Where one stands in parsed JSON, it means the text itself."""

    def __init__(self, text: str, start: int = 0, prefix: str = "") -> None:
        self._text = text
        self._start = start
        self._prefix = prefix

    @property
    def is_long(self) -> bool:
        """Whether it is worth the trouble."""
        return len(self._text) - self._start >= LONG_TEXT_CHARACTERS

    def whole(self) -> str:
        """The text."""
        return self._prefix + (self._text[self._start :] if self._start else self._text)

    def pieces(self) -> Iterator[bytes]:
        """The text as JSON writes it, without its quotes. Between two pieces others may run."""
        if self._prefix:
            yield orjson.dumps(self._prefix)[1:-1]
        for place in range(self._start, len(self._text), PIECE_CHARACTERS):
            yield orjson.dumps(self._text[place : place + PIECE_CHARACTERS])[1:-1]
            gevent.sleep(0)


class JsonPieces:
    """JSON in which long texts are still to be written."""

    def __init__(self, segments: list[bytes | LongText]) -> None:
        self._segments = segments
        self._size: int | None = None

    @property
    def size(self) -> int:
        """Bytes in all."""
        if self._size is None:
            self._size = sum(len(piece) for piece in self.pieces())
        return self._size

    def pieces(self) -> Iterator[bytes]:
        """The bytes."""
        for segment in self._segments:
            if isinstance(segment, bytes):
                yield segment
            else:
                yield from segment.pieces()


def write_json(value: Json) -> bytes | JsonPieces:
    """`value` as JSON; in pieces where it holds long texts."""
    try:
        return orjson.dumps(value)  # most hold no long text
    except orjson.JSONEncodeError:
        return _write_with_long_texts(value)


def _write_with_long_texts(value: Json) -> bytes | JsonPieces:
    token = ""
    found: list[LongText] = []

    def stand_in(long: Any) -> str:
        nonlocal token
        if isinstance(long, Base64):
            long = LongText(long.text, long.start)
        if not isinstance(long, LongText):
            raise TypeError(f"{type(long).__name__} is no JSON")
        if not long.is_long:
            return long.whole()
        token = token or secrets.token_hex(16)
        found.append(long)
        return f"{token}-{len(found) - 1}-"

    try:
        written = orjson.dumps(value, default=stand_in)
    except orjson.JSONEncodeError as error:
        raise VendorError(Verdict(cause=Cause.CLIENT_FAULT, message=f"the body cannot be written as JSON again: {error}", status=400)) from error
    if not found:
        return written
    segments: list[bytes | LongText] = []
    for number, long in enumerate(found):
        before, _, written = written.partition(f"{token}-{number}-".encode())
        segments += [before, long]
    return JsonPieces([*segments, written])


def set_long_texts_aside(value: Any) -> None:
    """Puts a LongText in the place of every long text in parsed JSON, so that writing it again costs no copy."""
    waiting = [value]
    while waiting:
        container = waiting.pop()
        for place, inner in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(inner, dict | list):
                waiting.append(inner)
            elif isinstance(inner, str) and len(inner) >= LONG_TEXT_CHARACTERS:
                container[place] = LongText(inner)


def joined(body: bytes | Body) -> bytes:
    """The whole body in memory, for what must be signed."""
    return body if isinstance(body, bytes) else b"".join(body.pieces())
