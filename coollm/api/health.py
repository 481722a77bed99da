"""GET /health: how the gateway is. GET /ready: whether it should be sent requests."""

from __future__ import annotations

import os
import time

import orjson
from flask import Response, request

from coollm import __version__
from coollm.api.routes import Access, Route
from coollm.core.types import Json
from coollm.services import Services
from coollm.stores.base import StoreError

# Where the server puts what tells whether this worker is on its way out.
LEAVING_KEY = "coollm.is_leaving"

OK, DEGRADED, DOWN = "ok", "degraded", "down"


_WITHOUT_STORE = {
    "deny": "no request is admitted",
    "local": "each worker keeps its share of the limits, and spends no budget",
    "allow": "every request is admitted, and none is counted",
}


def assess(services: Services) -> Json:
    """Every check, and the worst of them as the status. Names and numbers only: this route is public."""
    checks = [_store(services), _keys(services), _ledger(services), _audit(services)]
    worst = DOWN if any(check["status"] == DOWN for check in checks) else DEGRADED if any(check["status"] == DEGRADED for check in checks) else OK
    return {
        "status": worst,
        "version": __version__,
        "pid": os.getpid(),
        "uptime_seconds": round(time.time() - services.started),
        "checks": checks,
    }


def _store(services: Services) -> Json:
    kind = services.settings.storage.runtime.type
    try:
        services.store.ping()
    except StoreError:
        services.metrics.store_up.set(0)
        rule = services.settings.storage.runtime.on_failure
        seconds = services.store.seconds_until_trusted
        why = "does not answer" if seconds is None else "is another one than before, or has lost its counters, until a minute has passed"
        told: Json = {"name": "store", "status": DOWN if rule == "deny" else DEGRADED, "detail": f"{kind} {why}: {_WITHOUT_STORE[rule]}"}
        return told if seconds is None else {**told, "seconds": round(seconds, 1)}
    services.metrics.store_up.set(1)
    return {"name": "store", "status": OK, "detail": f"{kind} answers"}


def _ledger(services: Services) -> Json:
    """The worker that ships says how it goes; the others know nothing against it."""
    log = services.usage_log
    if log.is_behind:
        status = DOWN if log.is_full else DEGRADED
        return {"name": "ledger", "status": status, "detail": "the usage log cannot be written (is its disk full?): its lines wait in memory"}
    if services.shipping.is_behind:
        return {"name": "ledger", "status": DEGRADED, "detail": "the ledger does not answer: the usage log keeps what it has not got"}
    return {"name": "ledger", "status": OK, "detail": "the usage log is shipped"}


def _audit(services: Services) -> Json:
    """Administrators can change nothing that is not told of; clients are served, unless each use has to be proved."""
    trouble = services.audit.trouble()
    if not trouble:
        return {"name": "audit", "status": OK, "detail": "the audit log is written"}
    detail = "the audit log cannot be written, or soon not any more: no administrator can change anything"
    return {"name": "audit", "status": DOWN if services.audit.is_required else DEGRADED, "detail": detail}


def _keys(services: Services) -> Json:
    keys = [f"{provider}/{key}" for provider, account in services.accounts.items() for key in account.keys]
    if not keys:
        return {"name": "providers", "status": DOWN, "detail": "no provider is configured: no request can be served"}
    try:
        cooling = services.store.cooldowns()
    except StoreError:
        cooling = {}
    for key in keys:
        provider, _, key_id = key.rpartition("/")
        services.metrics.key_health.labels(provider, key_id).set(0 if key in cooling else 1)
    usable = sum(key not in cooling for key in keys)
    status = OK if usable == len(keys) else DEGRADED if usable else DOWN
    return {"name": "providers", "status": status, "detail": f"{usable} of {len(keys)} vendor keys are usable"}


def health(services: Services) -> Response:
    """200 with the status in the body, 503 if it is down."""
    assessed = assess(services)
    return Response(orjson.dumps(assessed), status=503 if assessed["status"] == DOWN else 200, mimetype="application/json")


def ready(services: Services) -> Response:
    """200 if requests can be served, 404 while the instance is drained or stops, else 503 with the reasons."""
    if request.environ.get(LEAVING_KEY, bool)():
        body = {"ready": False, "reasons": ["the instance is drained"]}
        return Response(orjson.dumps(body), status=404, mimetype="application/json")
    assessed = assess(services)
    reasons = [check["detail"] for check in assessed["checks"] if check["status"] == DOWN]
    body = {"ready": not reasons, "reasons": reasons}
    return Response(orjson.dumps(body), status=503 if reasons else 200, mimetype="application/json")


ROUTES = (
    Route("/health", ("GET",), Access.PUBLIC, health, "health"),
    Route("/ready", ("GET",), Access.PUBLIC, ready, "ready"),
)
