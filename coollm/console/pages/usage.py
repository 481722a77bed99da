"""What was used and what it cost: by client, team, provider, model or day, over a time; and as a file."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta

from flask import Response

from coollm.console.page import Page, Visit
from coollm.core.types import Json

GROUPS = ("client", "team", "provider", "model", "day")
COLUMNS = ("requests", "errors", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd", "saved_usd", "latency_ms")
SUMMED = COLUMNS[:-1]
NO_TEAM = "(no team)"
MOST_ROWS = 200
DEFAULT_DAYS = 30
LONGEST_DAYS = 731
HOUR_SECONDS, DAY_SECONDS = 3600, 86400


def page(visit: Visit) -> Response:
    """The sums, and how they came about over time."""
    by, start, end, wrong = _asked(visit)
    found = _sums(visit, by, start, end)
    slot = "hour" if (end - start).days <= 2 else "day"
    told = visit.get("/admin/v1/stats/trend", group_by="day", slot=slot, start=_begin(start), end=_begin(end + timedelta(days=1)))
    slots, values = _filled(told, start, end)
    return visit.render(
        "usage.html",
        400 if wrong else 200,
        title="Usage",
        groups=GROUPS,
        by=by,
        start=start,
        end=end,
        rows=found["rows"][:MOST_ROWS],
        more=max(0, len(found["rows"]) - MOST_ROWS),
        total=found["total"],
        slot=slot,
        slots=slots,
        values=values,
        wrong=wrong,
    )


def export(visit: Visit) -> Response:
    """The same sums as CSV. What begins like a formula does not stay one (OWASP, CSV injection)."""
    by, start, end, _ = _asked(visit)
    found = _sums(visit, by, start, end)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow((by, *COLUMNS))
    for row in found["rows"]:
        writer.writerow((_harmless(str(row[by])), *(row[name] for name in COLUMNS)))
    name = f"usage-by-{by}-{start}-{end}.csv"
    return Response(text.getvalue(), mimetype="text/csv", headers={"content-disposition": f'attachment; filename="{name}"'})


def _filled(told: Json, start: date, end: date) -> tuple[list[int], list[float]]:
    """The cost of every hour or day of the time, also of those in which nothing was used."""
    length = HOUR_SECONDS if told["slot"] == "hour" else DAY_SECONDS
    known = dict(zip(told["slots"], told["rows"][0]["cost_usd"], strict=True)) if told["rows"] else {}
    first = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp())
    slots = list(range(first, first + ((end - start).days + 1) * DAY_SECONDS, length))
    return slots, [known.get(one, 0.0) for one in slots]


def _sums(visit: Visit, by: str, start: date, end: date) -> Json:
    """As the ledger adds them up; those of a team are those of the clients that are in it now."""
    span = {"start": _begin(start), "end": _begin(end + timedelta(days=1))}
    if by != "team":
        found: Json = visit.get("/admin/v1/stats", group_by=by, **span)
        return found
    teams = {one["id"]: one["team"] for one in visit.get("/admin/v1/clients")["clients"]}
    by_client = visit.get("/admin/v1/stats", group_by="client", **span)
    rows: dict[str, Json] = {}
    for row in by_client["rows"]:
        name = teams.get(row["client"]) or NO_TEAM
        sums = rows.setdefault(name, {"team": name, **dict.fromkeys(SUMMED, 0), "latency_ms": None})
        before = sums["requests"]
        if row["requests"]:
            sums["latency_ms"] = round(((sums["latency_ms"] or 0) * before + (row["latency_ms"] or 0) * row["requests"]) / (before + row["requests"]))
        for one in SUMMED:
            sums[one] += row[one]
    return {"by": by, "rows": sorted(rows.values(), key=lambda row: -row["cost_usd"]), "total": by_client["total"]}


def _harmless(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _asked(visit: Visit) -> tuple[str, date, date, str]:
    given, today, wrong = visit.request.args, datetime.now(UTC).date(), ""
    by = given.get("by", "client")
    if by not in GROUPS:
        by, wrong = "client", "There is no such grouping."
    end = _day(given.get("end", "")) or today
    start = _day(given.get("start", "")) or end - timedelta(days=DEFAULT_DAYS - 1)
    if start > end or (end - start).days > LONGEST_DAYS:
        wrong = f"The first day has to be before the last one, and not more than {LONGEST_DAYS} days."
        start = end - timedelta(days=DEFAULT_DAYS - 1)
    return by, start, end, wrong


def _day(text: str) -> date | None:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if 2000 <= found.year <= 2200 else None


def _begin(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


PAGES = (
    Page("/ui/usage", ("GET",), "viewer", page, "usage", "Usage"),
    Page("/ui/usage.csv", ("GET",), "viewer", export, "usage_export"),
)
