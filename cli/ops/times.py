"""Durations as options give them, and moments as people read them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from coollm.core.config.values import Duration
from coollm.core.errors import UsageError


def duration(option: str, text: str, least: float = 0.0) -> float:
    """The seconds of an option. Raises UsageError."""
    try:
        seconds = float(Duration.parse(text))
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from error
    if seconds < least:
        raise UsageError(f"{option} {text}: at least {Duration(least)}")
    return seconds


def moment(seconds: float | None) -> str | None:
    """A time of the epoch; None for one that is not known."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds else None


def day(seconds: float) -> str:
    """The day of a time of the epoch."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def instant(seconds: float) -> str | None:
    """A time of the epoch as scripts read it, ISO 8601; None for 0, which is never."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def seconds_of(text: object) -> float:
    """The time of the epoch of an ISO 8601 text, as logs have it; 0 for what is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def ago(seconds: float) -> str:
    """How long ago a time of the epoch was."""
    return str(Duration(max(0, round(time.time() - seconds))))
