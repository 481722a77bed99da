"""The periods of a budget: a day, week or month of the calendar in a time zone, or all time."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from coollm.stores.base import Span

ALL_TIME = Span(kind="period", starts=1, ends=0)


def period_span(period: str, timezone: str, now: float) -> Span:
    """The period in which `now` (seconds of the epoch) lies. Days that a change of the clocks makes longer or shorter are what they are."""
    if period == "total":
        return ALL_TIME
    here = datetime.fromtimestamp(now, ZoneInfo(timezone))
    first = here.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        after = first + timedelta(days=1)
    elif period == "week":
        first -= timedelta(days=first.weekday())
        after = first + timedelta(days=7)
    else:
        first = first.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    return Span(kind="period", starts=int(first.timestamp()), ends=int(after.timestamp()))
