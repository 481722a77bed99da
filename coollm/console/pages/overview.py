"""The first page: how things are at a glance; and the stream that keeps it so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import gevent
import orjson
from flask import Response

from coollm.api.health import LEAVING_KEY
from coollm.console.ask import Refused
from coollm.console.attention import attention, unusual, used_share
from coollm.console.page import Page, Visit
from coollm.core.types import Json

TICK_SECONDS = 0.5
EVERY_SECONDS = 3.0
LONGEST_SECONDS = 600.0
"""A stream ends after so long: its page asks for another one, and with it whether its session goes on."""


def page(visit: Visit) -> Response:
    """Traffic, errors, times, cost against budgets, instances, and what needs somebody."""
    today = datetime.now(UTC).date().isoformat()
    figures = visit.get("/admin/v1/live")
    budgets = visit.get("/admin/v1/budgets", counters=1)["budgets"]
    workers = visit.get("/admin/v1/instances")["workers"]
    backups = visit.get("/admin/v1/backups")
    status = visit.get("/admin/v1/status")
    total = visit.get("/admin/v1/stats", group_by="day", start=f"{today}T00:00:00Z")["total"]
    sums = summed(figures)
    history = visit.get("/admin/v1/config/history")
    return visit.render(
        "overview.html",
        title="Overview",
        live=figures,
        summed=sums,
        today=total,
        budgets=sorted(budgets, key=lambda one: -used_share(one))[:8],
        workers=workers,
        backups=backups,
        gateway=status,
        attention=attention(sums, status, budgets, workers, backups, history),
    )


def summed(figures: Json) -> Json:
    """The last five minutes: requests, how many each second, and the share of errors."""
    last = figures["minutes"][-6:]
    seconds = figures["at"] - last[0]["minute"]
    requests, errors = sum(one["requests"] for one in last), sum(one["errors"] for one in last)
    return {"requests": requests, "per_second": requests / seconds if seconds > 0 else 0.0, "errors": errors / requests if requests else 0.0}


def remarks(visit: Visit) -> Response:
    """Clients that are out of their ordinary. A large ledger takes half a second to say so: the first page does not wait for it."""
    return visit.render("remarks.html", remarks=list(unusual(visit.get("/admin/v1/anomalies")["anomalies"])))


def live(visit: Visit) -> Response:
    """Server-sent events: the figures of now every few seconds (https://html.spec.whatwg.org/multipage/server-sent-events.html). It holds up no restart."""
    is_leaving = visit.request.environ.get(LEAVING_KEY, bool)
    stopped = visit.services.stopped

    def events() -> Iterator[bytes]:
        yield b"retry: 2000\n\n"
        ends = time.monotonic() + LONGEST_SECONDS
        due = 0.0
        while time.monotonic() < ends and not is_leaving() and not stopped.is_set():
            if time.monotonic() >= due:
                due = time.monotonic() + EVERY_SECONDS
                try:
                    figures = visit.get("/admin/v1/live")
                except Refused:
                    return
                yield b"data: " + orjson.dumps({**figures, "summed": summed(figures)}) + b"\n\n"
            gevent.sleep(TICK_SECONDS)

    return Response(events(), mimetype="text/event-stream", headers={"x-accel-buffering": "no"})


PAGES = (
    Page("/ui/", ("GET",), "viewer", page, "overview", "Overview"),
    Page("/ui/unusual", ("GET",), "viewer", remarks, "unusual"),
    Page("/ui/live", ("GET",), "viewer", live, "live", is_stream=True),
)
