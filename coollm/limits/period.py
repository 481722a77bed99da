"""The periods of a budget: a day, week or month of the calendar in a time zone, or all time; none begins before the budget was reset."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from coollm.stores.base import Span

# A bucket of 0 is that of what runs.
FIRST_SECOND = 1


def period_span(period: str, timezone: str, now: float, since: int = 0) -> Span:
    """The period in which `now` (seconds of the epoch) lies. Days that a change of the clocks makes longer or shorter are what they are."""
    if period == "total":
        return Span(kind="period", starts=max(FIRST_SECOND, since), ends=0)
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
    return Span(kind="period", starts=max(int(first.timestamp()), since), ends=int(after.timestamp()))
