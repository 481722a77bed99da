"""Server-sent events, framed by bytes: a stream cut anywhere gives the same events.

Source: the HTML standard, "Server-sent events", 9.2.6 Interpreting an event stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

LARGEST_EVENT_BYTES = 16 * 1024 * 1024

_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r(?!\n)|\n\r\n|\r\n\n|\r\n\r(?!\n)|\r\r\n|\n\r(?!\n)")


class EventTooLarge(ValueError):
    """One event is larger than LARGEST_EVENT_BYTES."""


class SseEvent(NamedTuple):
    """One event. `raw` are its bytes as they came, with the blank line; `data` is empty for comments."""

    raw: bytes
    name: str
    data: bytes


class EventStream:
    """Cuts a byte stream into events."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    @property
    def is_between(self) -> bool:
        """Whether all that came so far were whole events."""
        return not self._buffer

    def feed(self, data: bytes) -> Iterator[SseEvent]:
        """The events that `data` completes. Raises EventTooLarge."""
        self._buffer += data
        while True:
            end = self._end_of_event()
            if end is None:
                break
            raw = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._searched = 0
            yield parse_event(raw)
        if len(self._buffer) > LARGEST_EVENT_BYTES:
            raise EventTooLarge(f"an event of more than {LARGEST_EVENT_BYTES} bytes")

    def _end_of_event(self) -> int | None:
        match = _END_OF_EVENT.search(self._buffer, self._searched)
        # A final CR may be the first half of CRLF: wait for the next byte.
        if match is not None and not (match.end() == len(self._buffer) and match[0].endswith(b"\r")):
            return match.end()
        self._searched = max(0, len(self._buffer) - 3)
        return None


def parse_event(raw: bytes) -> SseEvent:
    """Name and data of one event's bytes."""
    name = "message"
    data: list[bytes] = []
    for line in raw.removeprefix(b"\xef\xbb\xbf").splitlines():
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return SseEvent(raw, name, b"\n".join(data))
