"""What is left of the rates of a client, in the headers that its dialect has for them."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from coollm.core.types import Used
from coollm.limits.charges import REQUESTS, TOKENS
from coollm.limits.limiter import meaning
from coollm.limits.scopes import CLIENT, TEAM
from coollm.providers.rate_limits import HEADERS
from coollm.stores.base import WINDOW_SECONDS

# Whose rates are told, and which.
WHOSE = (CLIENT, TEAM)
RATES = (REQUESTS, TOKENS)

OPENAI, CLAUDE = "openai", "claude"

MOST_REMEMBERED = 10_000


class _Told(NamedTuple):
    """The names of a rate's headers, and their values where every request has the same; `reset_text` is empty where it is the time of day."""

    limit: str
    limit_text: str
    remaining: str
    reset: str
    reset_text: str


def add_rates(headers: dict[str, str], dialect: str, used: Iterable[Used], now: float | None = None) -> None:
    """Adds the headers of `used` as a decision of the store has told it: of the client, or of its team where less is left of that. All of it is there again
    when the window has passed without another request. A dialect that has no names of its own has OpenAI's.
    """
    for one in used:
        told = _told(dialect, one.counter, one.limit)
        if told is not None:
            limit, limit_text, remaining, reset, reset_text = told
            left = max(0, one.limit - one.used)
            if remaining not in headers or left < int(headers[remaining]):
                headers[limit] = limit_text
                headers[remaining] = str(left)
                headers[reset] = reset_text or _instant((time.time() if now is None else now) + WINDOW_SECONDS)


@functools.lru_cache(maxsize=MOST_REMEMBERED)
def _told(dialect: str, counter: str, limit: int) -> _Told | None:
    """None of a counter whose rate clients are not told."""
    kind, _, what = meaning(counter)
    if kind not in WHOSE or what not in RATES:
        return None
    names = HEADERS.get(dialect, HEADERS[OPENAI])[what]
    return _Told(names[0], str(limit), names[1], names[2], "" if dialect == CLAUDE else f"{WINDOW_SECONDS}s")


def _instant(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
