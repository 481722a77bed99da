"""Figures, keys and logs, for whoever watches the gateway."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

from flask import Response, request

from coollm.api.answers import json_response
from coollm.api.routes import Access, Route
from coollm.api.usage import FOREVER_MS, check_choice, instant
from coollm.core.audit_status import read_audit_status
from coollm.core.errors import InvalidRequest
from coollm.core.logs import log_file
from coollm.core.paths import find_config
from coollm.core.types import Json, Target
from coollm.core.vendor_keys import VendorKeys, read_vendor_keys
from coollm.ledger.book import By
from coollm.ledger.threads import in_thread
from coollm.limits.charges import KeyCharges
from coollm.limits.estimate import Estimate
from coollm.routing.catalog import key_ids
from coollm.services import Services
from coollm.stores.base import Charge, StoreError

FIGURES = {
    "latency": ("requests", "latency_ms"),
    "tokens": ("requests", "input_tokens", "cached_input_tokens", "output_tokens"),
    "cost": ("requests", "cost_usd", "saved_usd", "unpriced"),
}
MOST_LINES = 1000
TAIL_BYTES = 4 * 1024 * 1024
DAY_SECONDS = 86400


def metrics(services: Services) -> Response:
    """A figure from the ledger: `name` is latency, tokens or cost; `by` client, provider, model or day; `start` and `end` are dates and times."""
    name = request.args.get("name", "")
    check_choice("name", name, tuple(FIGURES))
    by = request.args.get("by", "day")
    check_choice("by", by, get_args(By))
    found = _report(services, cast("By", by), None)
    wanted = (by, *FIGURES[name])
    rows = [{one: row[one] for one in wanted} for row in found["rows"]]
    return json_response({"name": name, "by": by, "rows": rows, "total": {one: found["total"][one] for one in FIGURES[name]}})


def of_client(services: Services, identity: str) -> Response:
    """What one client used and cost, by the day."""
    return json_response(_report(services, "day", ("client", identity)))


def of_provider(services: Services, identity: str) -> Response:
    """What went to one provider, by the day."""
    return json_response(_report(services, "day", ("provider", identity)))


def of_all(services: Services) -> Response:
    """What all requests used and cost, by the day."""
    return json_response(_report(services, "day", None))


def _report(services: Services, by: By, of: tuple[str, str] | None) -> Json:
    start, end = instant("start", 0), instant("end", FOREVER_MS)
    return in_thread(lambda: services.ledger.report(by, start, end, of))


def keys(services: Services) -> Response:
    """Every vendor key by its id: its state, its share of the requests, and its age where that is known; with `?uses=1` how often it was used in the last day,
    and when last.
    """
    kept = in_thread(lambda: read_vendor_keys(services.state))
    cooling, limits = services.store.cooldowns(), _limits(services)
    since_ms = int((time.time() - DAY_SECONDS) * 1000)
    uses = None
    if request.args.get("uses") == "1":
        in_thread(services.shipper.ship)
        uses = in_thread(lambda: services.ledger.key_uses(since_ms))
    rows: list[Json] = []
    for provider in services.settings.llm_providers:
        for key_id in key_ids(provider):
            added = kept.find(provider.id, key_id)
            cooldown = cooling.get(f"{provider.id}/{key_id}")
            stats = services.gateway.router.board.all_of(f"{provider.id}/{key_id}")
            requests_24h, last_used_ms = (uses or {}).get((provider.id, key_id), (0, None))
            rows.append(
                {
                    "provider": provider.id,
                    "key": key_id,
                    "source": "store" if added else "configuration",
                    "state": _state(kept, provider.id, key_id, cooling=cooldown is not None),
                    "cause": cooldown.cause if cooldown else None,
                    "usable_in_seconds": round(cooldown.seconds, 1) if cooldown else 0,
                    "share": kept.shares().get(f"{provider.id}/{key_id}", 1.0),
                    "since": services.key_since.get(f"{provider.id}/{key_id}"),
                    "error_rate": round(stats.error_rate, 4),
                    "latency_ms": round(stats.latency_seconds * 1000, 1) if stats.latency_seconds else None,
                    "attempts": stats.attempts,
                    "failures": stats.failures,
                    "seconds": round(stats.seconds, 6),
                    "in_flight": stats.in_flight,
                    "limits": limits.get(f"{provider.id}/{key_id}", []),
                    **({"requests_24h": requests_24h, "last_used_ms": last_used_ms} if uses is not None else {}),
                }
            )
    retired = [{"provider": one.provider, "key": one.id, "retired": one.at, "by": one.by} for one in kept.retired]
    return json_response({"keys": rows, "retired": retired})


def _limits(services: Services) -> dict[str, list[Json]]:
    """What of each key's limits is used now, by the key's name in stores; nothing where the store does not answer."""
    charges: dict[str, list[Charge]] = {}
    for provider in services.settings.llm_providers:
        limits = provider.limits
        for key_id in key_ids(provider):
            target = Target(
                provider=provider.id,
                type=provider.type,
                key_id=key_id,
                model="",
                req_per_min=limits.req_per_min,
                tokens_per_min=limits.tokens_per_min,
                concurrent=limits.concurrent,
                session_tokens=limits.session_limit,
                session_seconds=int(limits.session_type),
            )
            charges[target.key] = KeyCharges(target).of(target, Estimate(reserved_input_tokens=0))
    asked = [charge for own in charges.values() for charge in own]
    try:
        used = services.store.used(asked) if asked else {}
    except StoreError:
        return {}
    return {key: [{"what": one.counter.rpartition(":")[2], "used": used[one.counter], "limit": one.limit} for one in own] for key, own in charges.items()}


def _state(kept: VendorKeys, provider: str, key_id: str, *, cooling: bool) -> str:
    added = kept.find(provider, key_id)
    if f"{provider}/{key_id}" in kept.held:
        return "held"
    if added is not None and added.state != "active":
        return added.state
    return "cooling" if cooling else "usable"


def key_users(services: Services, provider: str, key: str) -> Response:
    """Which clients have used a vendor key within the last `seconds`, how often, and when last."""
    try:
        seconds = float(request.args.get("seconds", "3600"))
    except ValueError:
        raise InvalidRequest("'seconds' is a number", param="seconds") from None
    in_thread(services.shipper.ship)
    since_ms = int((time.time() - max(0.0, min(seconds, 1e9))) * 1000)
    users = in_thread(lambda: services.ledger.used_by(provider, key, since_ms))
    return json_response({"users": [{"client": client, "requests": count, "last_used_ms": last} for client, count, last in users]})


def logs(services: Services) -> Response:
    """The last lines of app.log: `limit` of them. They hold neither prompts nor keys."""
    path = log_file(services.settings, find_config().absolute(), services.state)
    if path is None:
        return json_response({"lines": [], "note": "the log goes to standard error"})
    limit = _limit()
    return json_response({"lines": in_thread(lambda: _tail(path, limit))})


def audit(services: Services) -> Response:
    """The last lines of the audit log: `limit` of them, of those of an `actor`, of an `action`, or with a `text`. Of a long log the last part is looked through
    (`coollm audit search` looks through all).
    """
    log, limit = services.audit.log, _limit()
    if log is None:
        return json_response({"entries": [], "note": "logging.audit.enabled is false"})
    exact = {name: value for name in ("actor", "action") if (value := request.args.get(name))}
    text = request.args.get("text", "")

    def is_wanted(entry: Json) -> bool:
        return all(entry.get(name) == value for name, value in exact.items()) and (not text or text in json.dumps(entry, ensure_ascii=False))

    known = read_audit_status(services.state)
    chain = {"verified": known.verified or None, "lines": known.lines, "faults": known.faults, "trouble": services.audit.trouble() or None}
    return json_response({"entries": in_thread(lambda: _tail(log.path, limit, is_wanted)), "chain": chain})


def _limit() -> int:
    text = request.args.get("limit", "100")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MOST_LINES:
        raise InvalidRequest(f"'limit' must be a number from 1 to {MOST_LINES}", param="limit")
    return int(text)


def _tail(path: Path, limit: int, is_wanted: Callable[[Json], bool] = lambda _: True) -> list[Json]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    found: deque[Json] = deque(maxlen=limit)
    for line in reversed(lines):
        if len(found) == limit:
            break
        try:
            told = json.loads(line)
        except ValueError:
            continue  # cut by the beginning of what was read, or still being written
        if isinstance(told, dict) and is_wanted(told):
            found.appendleft(told)
    return list(found)


ROUTES = (
    Route("/admin/v1/metrics", ("GET",), Access.VIEWER, metrics, "admin_metrics"),
    Route("/admin/v1/metrics/clients/<identity>", ("GET",), Access.VIEWER, of_client, "admin_metrics_client"),
    Route("/admin/v1/metrics/providers/<identity>", ("GET",), Access.VIEWER, of_provider, "admin_metrics_provider"),
    Route("/admin/v1/metrics/global", ("GET",), Access.VIEWER, of_all, "admin_metrics_global"),
    Route("/admin/v1/keys", ("GET",), Access.VIEWER, keys, "admin_keys"),
    Route("/admin/v1/keys/<provider>/<key>/users", ("GET",), Access.VIEWER, key_users, "admin_key_users"),
    Route("/admin/v1/logs", ("GET",), Access.VIEWER, logs, "admin_logs"),
    Route("/admin/v1/audit", ("GET",), Access.VIEWER, audit, "admin_audit"),
)
