from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coollm.providers.sse import LARGEST_EVENT_BYTES, EventStream, EventTooLarge

STREAM = 'event: a\r\ndata: {"t": "žluťoučký 🐎"}\r\n\r\n: comment\n\ndata: one\ndata: two\n\ndata:x\r\rid: 7\ndata: last\n\r\n'.encode()
EVENTS = [("a", '{"t": "žluťoučký 🐎"}'.encode()), ("message", b""), ("message", b"one\ntwo"), ("message", b"x"), ("message", b"last")]


def decode(pieces: list[bytes]) -> list[tuple[str, bytes]]:
    stream = EventStream()
    found = [event for piece in pieces for event in stream.feed(piece)]
    assert b"".join(event.raw for event in found) + bytes(stream._buffer) == b"".join(pieces), "every byte is kept"
    return [(event.name, event.data) for event in found]


def test_events() -> None:
    assert decode([STREAM]) == EVENTS


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
def test_a_stream_cut_at_any_byte_gives_the_same_events(cut: int) -> None:
    assert decode([STREAM[:cut], STREAM[cut:]]) == EVENTS


def test_byte_by_byte() -> None:
    assert decode([bytes([byte]) for byte in STREAM]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_chunking(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    assert decode([STREAM[start:end] for start, end in zip(places, places[1:], strict=False)]) == EVENTS


def test_an_endless_event_is_refused() -> None:
    stream = EventStream()
    with pytest.raises(EventTooLarge):
        list(stream.feed(b"data: " + b"x" * LARGEST_EVENT_BYTES))
