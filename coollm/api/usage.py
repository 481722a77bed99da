"""What requests used and cost, from the ledger: for the administrator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import cast, get_args

import orjson
from flask import Response, g, request

from coollm.api.answers import json_response
from coollm.api.body import parse_body, read_body
from coollm.api.fields import required_text
from coollm.api.routes import Access, Route
from coollm.core.clock import now_ms
from coollm.core.config.values import parse_instant
from coollm.core.errors import InvalidRequest
from coollm.core.registry import did_you_mean
from coollm.ledger import figures
from coollm.ledger.anomalies import find_anomalies
from coollm.ledger.book import DAY_MS, HOUR_MS, By
from coollm.ledger.figures import Slot
from coollm.ledger.threads import in_thread
from coollm.services import Services

FOREVER_MS = 2**53
LATELY_MS = 30 * DAY_MS


def stats(services: Services) -> Response:
    """Sums by client, provider, model or day: `group_by`, and `start` and `end` as dates and times. What ended within the last second may be missing."""
    by = request.args.get("group_by", "client")
    check_choice("group_by", by, get_args(By))
    start, end = instant("start", 0), instant("end", FOREVER_MS)
    return json_response(in_thread(lambda: services.ledger.report(cast("By", by), start, end)))


def trend(services: Services) -> Response:
    """Requests, errors, tokens and cost of each `slot` (hour or day) for those of `group_by` with the most; `start` and `end` as dates and times."""
    by, slot = request.args.get("group_by", "client"), request.args.get("slot", "day")
    check_choice("group_by", by, get_args(By))
    check_choice("slot", slot, get_args(Slot))
    start, end = instant("start", 0), instant("end", now_ms())
    return json_response(in_thread(lambda: figures.trend(services.ledger, cast("By", by), cast("Slot", slot), start, end)))


def latency(services: Services) -> Response:
    """Percentiles of how long the requests of each day took, of the last 30 days where `start` does not say."""
    start, end = instant("start", now_ms() - LATELY_MS), instant("end", FOREVER_MS)
    return json_response({"rows": in_thread(lambda: figures.latencies(services.ledger, start, end))})


def errors(services: Services) -> Response:
    """What requests failed of, of the last 30 days where `start` does not say."""
    start, end = instant("start", now_ms() - LATELY_MS), instant("end", FOREVER_MS)
    return json_response({"rows": in_thread(lambda: figures.errors(services.ledger, start, end))})


def anomalies(services: Services) -> Response:
    """Clients that are out of their ordinary in this hour or the one before."""
    found = in_thread(lambda: find_anomalies(services.ledger, time.time()))
    rows = [{**one._asdict(), "hour": one.hour * HOUR_MS // 1000, "ratio": round(one.ratio, 1)} for one in found]
    return json_response({"anomalies": rows})


def live(services: Services) -> Response:
    """The last quarter of an hour by the minute, how long answers took, and the last requests. What ended within the last seconds may be missing."""
    return json_response(services.live.now())


def export(services: Services) -> Response:
    """Every request of a time, one JSON line each."""
    start, end = instant("start", 0), instant("end", FOREVER_MS)
    rows = services.ledger.export(start, end)

    def lines() -> Iterator[bytes]:
        while (row := in_thread(lambda: next(rows, None))) is not None:
            yield orjson.dumps(row) + b"\n"

    return Response(lines(), mimetype="application/x-ndjson")


def verify(services: Services) -> Response:
    """Whether usage log, ledger and sums are the same."""
    return json_response(in_thread(services.shipper.verify))


def rebuild(services: Services) -> Response:
    """Makes the ledger anew from the usage logs that are there."""
    return json_response({"requests": in_thread(services.shipper.rebuild)})


def prune(services: Services) -> Response:
    """Deletes requests that ended before {"before"}; their sums stay."""
    asked = parse_body(read_body(services, g.exchange))
    before = _milliseconds(required_text(asked, "before"), "before")
    return json_response({"deleted": in_thread(lambda: services.ledger.prune(before))})


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises InvalidRequest for what is not one of the choices."""
    if value not in choices:
        raise InvalidRequest(f"'{name}' must be one of {', '.join(choices)}, not '{value[:60]}'{did_you_mean(value, choices)}", param=name)


def instant(name: str, default: int) -> int:
    """A time of the query, in milliseconds of the epoch. Raises InvalidRequest."""
    value = request.args.get(name)
    return default if value is None else _milliseconds(value, name)


def _milliseconds(text: str, name: str) -> int:
    try:
        found: datetime = parse_instant(text)
    except ValueError as error:
        raise InvalidRequest(f"'{name}': {error}", param=name) from None
    return int(found.timestamp() * 1000)


ROUTES = (
    Route("/admin/v1/stats", ("GET",), Access.VIEWER, stats, "admin_stats"),
    Route("/admin/v1/stats/trend", ("GET",), Access.VIEWER, trend, "admin_stats_trend"),
    Route("/admin/v1/stats/latency", ("GET",), Access.VIEWER, latency, "admin_stats_latency"),
    Route("/admin/v1/stats/errors", ("GET",), Access.VIEWER, errors, "admin_stats_errors"),
    Route("/admin/v1/live", ("GET",), Access.VIEWER, live, "admin_live"),
    Route("/admin/v1/anomalies", ("GET",), Access.VIEWER, anomalies, "admin_anomalies"),
    Route("/admin/v1/usage/export", ("GET",), Access.VIEWER, export, "admin_usage_export"),
    Route("/admin/v1/usage/verify", ("GET",), Access.VIEWER, verify, "admin_usage_verify"),
    Route("/admin/v1/usage/rebuild", ("POST",), Access.ADMIN, rebuild, "admin_usage_rebuild", changes=True),
    Route("/admin/v1/usage/prune", ("POST",), Access.ADMIN, prune, "admin_usage_prune", changes=True),
)
