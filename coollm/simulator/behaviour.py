"""How the simulated vendor behaves: set for the whole run, by the API key, by the model's name, or by a header; the later wins.

A key or a model carries its directives behind tildes: `sk-sim~status=429~retry_after=2`, `gpt-sim~tokens=40~rate=50`. The header is
`x-simulate: latency_ms=200 cut_after=3`.
"""

from __future__ import annotations

import re
import typing

import msgspec

from coollm.core.registry import did_you_mean


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """All directives, with what happens without them."""

    status: int = 200
    """HTTP status; an error of the vendor's own shape for anything but 200."""
    good: int = 0
    """So many requests of a key are answered well before its `status` holds."""
    retry_after: float = 0
    """Seconds in the `Retry-After` of an error; none if 0."""
    latency_ms: float = 0
    """Wait before the first byte of the answer."""
    first_token_ms: float = 0
    """Wait between the head of a stream and its first content."""
    rate: float = 0
    """Tokens a second; as fast as possible if 0."""
    tokens: int = 12
    """Tokens of output."""
    reasoning: int = 0
    """Tokens of reasoning before the answer."""
    cached: int = 0
    """Tokens of input that count as cached."""
    calls: int = 1
    """Tool calls in one answer, where tools are offered."""
    cut_after: int = -1
    """Close the connection after so many content events of a stream, or bytes of a whole answer."""
    malformed_after: int = -1
    """Send a broken event after so many content events."""
    error_after: int = -1
    """Send the vendor's error event after so many content events."""
    usage: int = 1
    """Whether usage is told."""
    echo: int = 0
    """Answer with the request as it was received, as JSON text."""
    hang: int = 0
    """Never answer."""


_KINDS = typing.get_type_hints(Behaviour)
_DIRECTIVE = re.compile(r"([a-z_]+)=(-?\d+(?:\.\d+)?)")


def parse_directives(text: str) -> dict[str, float]:
    """Directives from words such as `status=429`. Raises ValueError for one that does not exist."""
    found: dict[str, float] = {}
    for word in text.replace("~", " ").split():
        match = _DIRECTIVE.fullmatch(word)
        if match is None or match[1] not in _KINDS:
            name = word.partition("=")[0]
            raise ValueError(f"unknown directive '{word}'{did_you_mean(name, tuple(_KINDS))}; known, each with =NUMBER: {', '.join(_KINDS)}")
        found[match[1]] = _KINDS[match[1]](float(match[2]))
    return found


def behaviour(base: Behaviour, key: str, model: str, header: str) -> Behaviour:
    """The behaviour for one request. Raises ValueError."""
    changes: dict[str, float] = {}
    for text in (key.partition("~")[2], model.partition("~")[2], header):
        changes.update(parse_directives(text))
    return msgspec.structs.replace(base, **changes) if changes else base
