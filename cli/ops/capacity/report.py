"""Puts together what `coollm capacity` tells: load now and at its peak, room, limits that come nearer, and what would be needed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coollm_cli.ops.capacity import model
from coollm_cli.ops.capacity.guide import size_for
from coollm_cli.ops.gateway_client import GatewayClient, find_gateway
from coollm_cli.ops.load import Load, host_memory_bytes, measure

from coollm.core.config.generations import Generations
from coollm.core.config.load import load
from coollm.core.config.schema import Settings
from coollm.core.errors import ConfigurationError, UsageError
from coollm.core.paths import log_directory

DAYS = 28
HOUR_SECONDS, DAY_SECONDS = 3600, 86400
TIGHT = 0.8
LEDGER_FILE, USAGE_LOG = "ledger.sqlite", "usage.log"
WHAT_IF = ("rps", "streams")


def parse_what_if(text: str | None) -> dict[str, float] | None:
    """`rps=500,streams=300` as numbers. Raises UsageError."""
    if text is None:
        return None
    found = {}
    for part in text.split(","):
        name, separator, value = part.strip().partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name not in WHAT_IF or not separator or not 0 <= number < 1e7:
            raise UsageError(f"--what-if {part}: expected rps=NUMBER or streams=NUMBER, of at least 0", "coollm capacity --what-if rps=500,streams=300")
        found[name] = number
    return found


def examine(config: Path, state: Path, seconds: float, what_if: dict[str, float] | None) -> dict[str, Any]:
    """All of it. Raises Unreachable where no gateway runs, and ConfigurationError."""
    gateway = find_gateway(config)
    settings = _settings(config, state)
    now = measure(config, seconds)
    cost, cores = model.cost_of(now), os.cpu_count() or 1
    hourly = gateway.ask(f"/admin/v1/stats/trend?group_by=day&slot=hour&start={quote(_since(DAYS))}")
    peak = max((value / HOUR_SECONDS for row in hourly["rows"] for value in row["requests"]), default=0.0)
    daily = _daily(hourly)
    grows = model.growth(daily)
    workers = settings.server.workers
    busiest = max(now.requests, peak)
    most = model.most_requests(cost, now.workers, cores, now.streams)
    told: dict[str, Any] = {
        "now": _now(now, cores),
        "cost": {
            "cpu_us_per_request": round(cost.request_seconds * 1e6),
            "cpu_share_per_stream": round(cost.stream_share, 5),
            "measured": cost.is_measured,
        },
        "saturation_requests_per_second": round(most),
        "per_instance_requests_per_second": round(most / max(1, now.instances)),
        "headroom": round(1 - model.needed(cost, now.requests, now.streams) / (model.FULL * min(now.workers, cores)), 3) if now.workers else None,
        "peak_requests_per_second": round(peak, 2),
        "growth_per_day": None if grows is None else round(grows, 4),
        "days_to_saturation": _days(model.days_until(busiest, most, grows)),
        "guide": size_for(busiest).as_json(),
        "advice": _advice(cost, busiest, now.streams, workers, cores, settings),
        "limits": sorted(_limits(gateway, settings, grows), key=lambda row: -row["used"]),
        "disk": _disk(config, state, settings, daily),
    }
    if what_if is not None:
        wanted, streams = what_if.get("rps", busiest), what_if.get("streams", now.streams)
        told["what_if"] = {"rps": wanted, "streams": streams, "guide": size_for(wanted).as_json(), **_advice(cost, wanted, streams, workers, cores, settings)}
        told["what_if"]["saturation_requests_per_second"] = round(model.most_requests(cost, now.workers, cores, streams))
        told["what_if"]["holds_now"] = model.needed(cost, wanted, streams) <= model.FULL * min(now.workers, cores)
    return told


def _settings(config: Path, state: Path) -> Settings:
    effective = Generations(config, state).effective()
    loaded = load(config, content=effective.file if effective else None, state=state)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    return loaded.settings


def _now(now: Load, cores: int) -> dict[str, Any]:
    return {
        "requests_per_second": round(now.requests, 1),
        "streams": now.streams,
        "busy": round(now.busy, 3),
        "workers": now.workers,
        "instances": now.instances,
        "cores": cores,
        "memory_mb": round(now.memory_bytes / 1e6),
        "host_memory_mb": round(host_memory_bytes() / 1e6),
        "seconds": round(now.seconds, 1),
    }


def _advice(cost: model.Cost, requests: float, streams: float, workers: int, cores: int, settings: Settings) -> dict[str, Any]:
    advice = model.advise(cost, requests, streams, workers=workers, cores=cores, store=settings.storage.runtime.type)
    return {
        "processors": round(advice.processors, 2),
        "workers": advice.workers,
        "instances": advice.instances,
        "hosts": advice.hosts,
        "busy": round(advice.busy, 3),
        "memory_mb": round(advice.memory_bytes / 1e6),
        "store": advice.store,
        "fits": advice.fits,
    }


def _daily(hourly: dict[str, Any]) -> list[float]:
    """Requests of each whole day."""
    sums: dict[int, float] = {}
    for row in hourly["rows"]:
        for moment, requests in zip(hourly["slots"], row["requests"], strict=True):
            sums[moment // DAY_SECONDS] = sums.get(moment // DAY_SECONDS, 0.0) + requests
    days = sorted(sums)
    return [sums[day] for day in days[1:-1]]


def _limits(gateway: GatewayClient, settings: Settings, grows: float | None) -> Iterator[dict[str, Any]]:
    """Limits of vendors' keys and of clients, with what the busiest hour of the time took of them; and budgets, with when they will be spent."""
    since = quote(_since(DAYS))
    by_provider = gateway.ask(f"/admin/v1/stats/trend?group_by=provider&slot=hour&start={since}")["rows"]
    for provider in settings.llm_providers:
        row, keys = next((one for one in by_provider if one["provider"] == provider.id), None), max(1, len(provider.api_keys))
        for kind, limit in (("requests", provider.limits.req_per_min), ("tokens", provider.limits.tokens_per_min)):
            yield from _limit(f"provider {provider.id}", kind, row, limit * keys if limit else None, grows)
    by_client = gateway.ask(f"/admin/v1/stats/trend?group_by=client&slot=hour&start={since}")["rows"]
    for client in settings.api_keys:
        row = next((one for one in by_client if one["client"] == client.client_id), None)
        for kind, limit in (("requests", client.limits.req_per_min), ("tokens", client.limits.tokens_per_min)):
            yield from _limit(f"client {client.client_id}", kind, row, limit, grows)
    for budget in gateway.ask("/admin/v1/budgets")["budgets"]:
        if budget["limit_usd"]:
            yield _budget(budget)


def _limit(who: str, kind: str, row: dict[str, Any] | None, limit: float | None, grows: float | None) -> Iterator[dict[str, Any]]:
    if row is None or limit is None:
        return
    peak = max(row[kind], default=0) / 60
    yield {
        "who": who,
        "what": f"{kind} a minute",
        "peak": round(peak, 1),
        "limit": limit,
        "used": round(peak / limit, 6),
        "days": _days(model.days_until(peak, limit, grows)),
    }


def _budget(budget: dict[str, Any]) -> dict[str, Any]:
    used, limit, starts = budget["used_usd"], budget["limit_usd"], budget["starts"]
    passed = max(time.time() - starts, HOUR_SECONDS) / DAY_SECONDS if starts else None
    days = (limit - used) / (used / passed) if passed and used > 0 else None
    ends = (budget["ends"] - time.time()) / DAY_SECONDS if budget["ends"] else None
    return {
        "who": f"{budget['scope']} {budget['id']}",
        "what": f"dollars a {budget['period']}",
        "peak": round(used, 4),
        "limit": limit,
        "used": round(used / limit, 6),
        "days": _days(days if days is None or ends is None or days < ends else None),
    }


def _disk(config: Path, state: Path, settings: Settings, daily: Sequence[float]) -> dict[str, Any]:
    """How fast what is written grows: by the requests of a day, and what a request takes in usage log and ledger."""
    logs = log_directory(config, state)
    free = shutil.disk_usage(state).free
    size = sum(file.stat().st_size for file in (logs / USAGE_LOG, *state.glob(f"{LEDGER_FILE}*")) if file.exists())
    requests = sum(daily) or None
    each = size / requests if requests and requests >= 1000 else 900.0
    a_day = each * (sum(daily[-7:]) / max(1, len(daily[-7:])))
    kept = settings.compliance.data_retention_days
    return {
        "free_bytes": free,
        "bytes_per_day": round(a_day),
        "days_to_full": _days(free / a_day) if a_day > 0 and kept is None else None,
        "retention_days": kept,
    }


def _days(days: float | None) -> float | None:
    return None if days is None or days > 3650 else round(days, 1)


def _since(days: int) -> str:
    return time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(time.time() - days * DAY_SECONDS))


def lines(told: dict[str, Any]) -> list[Any]:
    """In words and tables."""
    now, cost, advice = told["now"], told["cost"], told["advice"]
    source = "measured now" if cost["measured"] else "of the machine that the model was made on: there is too little load to measure"
    found: list[Any] = [
        f"now: {now['requests_per_second']:g} requests/s and {now['streams']:g} streams on {now['workers']} workers, each {now['busy']:.0%} busy; "
        f"the busiest hour of {DAYS} days: {told['peak_requests_per_second']:g} requests/s",
        f"a request costs a full worker {cost['cpu_us_per_request']} µs ({source}): the workers are full at about {told['saturation_requests_per_second']:,} "
        f"requests/s, {told['per_instance_requests_per_second']:,} of each instance",
        _trend(told),
        f"wanted for that peak: {advice['instances']} x {advice['workers']} workers, {advice['memory_mb']} MB, store {advice['store']}"
        + ("" if advice["fits"] else f", on {advice['hosts']} hosts"),
        f"the guide's size for it: {told['guide']['cores']} cores, {told['guide']['memory']}, {told['guide']['storage']} of storage",
    ]
    if "what_if" in told:
        found += _what_if(told["what_if"], now)
    disk = told["disk"]
    if disk["days_to_full"] is not None:
        found.append(f"disk: {disk['bytes_per_day'] / 1e6:.1f} MB a day, full in {disk['days_to_full']:g} days; compliance.data_retention_days would bound it")
    return found


def limit_rows(told: dict[str, Any]) -> list[Sequence[Any]]:
    """Limits as a table has them."""
    return [(row["who"], row["what"], f"{row['peak']:,g}", f"{row['limit']:,g}", f"{row['used']:.0%}", row["days"]) for row in told["limits"]]


def _trend(told: dict[str, Any]) -> str:
    if told["growth_per_day"] is None:
        return "growth: not known yet (seven whole days of use are needed)"
    days = told["days_to_saturation"]
    return f"growth: {told['growth_per_day']:+.1%} a day" + (f"; full in about {days:g} days" if days is not None else "; not full within ten years")


def _what_if(told: dict[str, Any], now: dict[str, Any]) -> list[str]:
    holds = "hold it" if told["holds_now"] else "do not hold it"
    where = f"{told['instances']} x {told['workers']} workers" + ("" if told["fits"] else f" on {told['hosts']} hosts like this one")
    return [
        f"with {told['rps']:g} requests/s and {told['streams']:g} streams: {told['processors']:g} processors; the {now['workers']} workers that run {holds}",
        f"  wanted: {where}, {told['memory_mb']} MB, store {told['store']}; the guide says {told['guide']['cores']} cores, {told['guide']['memory']}",
    ]
