"""Figures and times as people read them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
NOTHING = "\N{EN DASH}"


def money(value: float | None) -> str:
    """US dollars: cents, or what is left of smaller amounts."""
    if value is None:
        return NOTHING
    return f"${value:,.2f}" if abs(value) >= 1 or value == 0 else f"${value:.4f}" if abs(value) >= 0.001 else f"${value:.6f}"


def count(value: float | None) -> str:
    """A number, in thousands."""
    return NOTHING if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A part of a whole."""
    return NOTHING if value is None else f"{value * 100:.1f} %"


def milliseconds(value: float | None) -> str:
    """A short time."""
    if value is None:
        return NOTHING
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


def size(value: float) -> str:
    """Bytes."""
    return f"{value / 1024 / 1024:,.0f} MiB"


def moment(value: float | None) -> str:
    """A time of the epoch in seconds, UTC."""
    return NOTHING if not value else datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")


def moment_ms(value: float | None) -> str:
    """The same of milliseconds."""
    return moment(value / 1000) if value else NOTHING


def ago(value: float | None) -> str:
    """How long ago a time of the epoch in seconds is."""
    return "never" if not value else f"{span(max(0.0, time.time() - value))} ago"


def span(seconds: float) -> str:
    """A length of time, in its largest unit."""
    for length, name in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {name}"
    return "0 s"


def value(found: Any) -> str:
    """A value of the configuration."""
    if found is None:
        return "not set"
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, list | tuple):
        return ", ".join(map(str, found)) or "none"
    return str(found) if found != {} else "none"


FILTERS: dict[str, Callable[..., str]] = {one.__name__: one for one in (money, count, share, milliseconds, size, moment, moment_ms, ago, span, value)}
