"""What a running gateway's ledger tells of usage, for the report and its page."""

from __future__ import annotations

import time
from typing import Any, NamedTuple
from urllib.parse import urlencode

from coollm_cli.ops.gateway_client import GatewayClient

DAY_SECONDS = 86400
TREND_DAYS = 24


class Figures(NamedTuple):
    """Reports of the ledger by day, client, model and provider; requests and cost of each day by client; percentiles of each day; causes of errors; and what
    time they are of, in words.
    """

    days: dict[str, Any]
    clients: dict[str, Any]
    models: dict[str, Any]
    providers: dict[str, Any]
    trend: dict[str, Any]
    latencies: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    span: str


def query(**values: str | None) -> str:
    """A query without what is not given."""
    return urlencode({name: value for name, value in values.items() if value is not None})


def read_figures(gateway: GatewayClient, start: str | None, end: str | None) -> Figures:
    """All of a time. Raises OperationFailed and Unreachable."""
    days, clients, models, providers = (
        gateway.ask("/admin/v1/stats?" + query(group_by=one, start=start, end=end)) for one in ("day", "client", "model", "provider")
    )
    trend = gateway.ask("/admin/v1/stats/trend?" + query(group_by="client", slot="day", start=start, end=end))
    latencies = gateway.ask("/admin/v1/stats/latency?" + query(start=start, end=end))["rows"]
    errors = gateway.ask("/admin/v1/stats/errors?" + query(start=start, end=end))["rows"]
    return Figures(days, clients, models, providers, trend, latencies, errors, f"from {start or 'the beginning'} until {end or 'now'}")


def trends_of(gateway: GatewayClient, by: str, start: str | None, end: str | None) -> dict[str, list[int]]:
    """Requests of each of the last days, for each row of a report; those of all under "". Of a report by the day there is that one alone."""
    begins = start or time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(time.time() - TREND_DAYS * DAY_SECONDS))
    found = gateway.ask("/admin/v1/stats/trend?" + query(group_by="day", slot="day", start=begins, end=end))
    trends: dict[str, list[int]] = {"": found["rows"][0]["requests"] if found["rows"] else []}
    if by != "day":
        own = gateway.ask("/admin/v1/stats/trend?" + query(group_by=by, slot="day", start=begins, end=end))
        trends |= {row[by]: row["requests"] for row in own["rows"]}
    return trends
