"""Budgets and other limits, for the administrator: what is spent, and what is set while the gateway runs."""

from __future__ import annotations

import time
from zoneinfo import available_timezones

import gevent
import msgspec
from flask import Response, g, request

from coollm.api.answers import json_response
from coollm.api.body import parse_body, read_body
from coollm.api.fields import typed
from coollm.api.routes import Access, Route
from coollm.budgets import PATIENCE_SECONDS, BudgetState
from coollm.core.config.schema import Limits
from coollm.core.errors import InvalidRequest, UnknownRoute
from coollm.core.money import NANO_USD
from coollm.core.registry import did_you_mean
from coollm.core.types import Json
from coollm.ledger.threads import in_thread
from coollm.limits.overrides import FIELDS, Override, merged
from coollm.limits.scopes import Scope
from coollm.limits.watcher import LOOK_SECONDS
from coollm.services import Services
from coollm.stores.base import Charge

# By then every worker has taken in what was set.
ADOPTED_SECONDS = 2 * LOOK_SECONDS

KINDS = ("client", "team", "model")


def budgets(services: Services) -> Response:
    """Every budget: what is used of it by the counters, what of that is reserved by what runs, and what was spent by the ledger, in its present period. With
    `?counters=1` the ledger, which may be large, is not asked.
    """
    if request.args.get("counters") == "1":
        found = services.budgets.counted(services.store)
        return json_response({"budgets": [_counted(scope, charge, standing.used, sum(standing.held.values())) for scope, charge, standing in found]})
    return json_response({"budgets": [_row(one) for one in _states(services, 0.0)]})


def verify(services: Services) -> Response:
    """The same, once counters and ledger agree, or as they are after some seconds."""
    found = _states(services, PATIENCE_SECONDS)
    return json_response({"ok": all(one.agrees for one in found), "budgets": [_row(one) for one in found]})


def _states(services: Services, patience: float) -> list[BudgetState]:
    return services.budgets.states(services.store, patience=patience)


def _row(state: BudgetState) -> Json:
    proven = {"ledger_usd": state.spent / NANO_USD, "difference_nano_usd": state.difference, "exact": state.is_exact}
    return {**_counted(state.scope, state.charge, state.used, state.held), **proven}


def _counted(scope: Scope, charge: Charge, used: int, held: int) -> Json:
    span, limit = charge.span, charge.limit
    return {
        "scope": scope.kind,
        "id": scope.id,
        "period": scope.limits.budget_period,
        "starts": span.starts if span.ends or scope.budget_since else None,
        "ends": span.ends or None,
        "limit_usd": limit / NANO_USD,
        "used_usd": used / NANO_USD,
        "reserved_usd": held / NANO_USD,
        "left_usd": max(0, limit - used) / NANO_USD,
    }


def limits(services: Services, kind: str, identity: str) -> Response:
    """GET: the limits that hold for a client, a team or a model. PUT: {"set": {field: value, or null to lift it}, "configured": [fields that are to be as
    configured again], "reset_budget": true, "dry_run": true}: they hold in every worker within a second. {"replace": the "override" of an earlier answer} takes
    what was set since then back.
    """
    services.watcher.look()  # what another worker has just set is not lost
    scope = _scope(services, kind, identity)
    if request.method == "GET":
        return json_response(_told(scope))
    asked = parse_body(read_body(services, g.exchange))
    before = _override(services, kind, identity)
    after = _changed(before, asked)
    try:
        limits_after = merged(_configured(services, kind, identity), after)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{error}", param="set") from None
    zone = limits_after.budget_timezone
    if zone not in available_timezones():
        raise InvalidRequest(f"no time zone '{zone[:60]}'{did_you_mean(zone, available_timezones())}", param="set.budget_timezone")
    made = Scope(kind=kind, id=identity, limits=limits_after, budget_since=after.budget_since)
    if not typed(asked, "dry_run", bool, "true or false") and after != before:
        in_thread(lambda: services.overrides.write(after))
        services.watcher.look()
        if _budget_differs(scope, made):
            gevent.sleep(ADOPTED_SECONDS)
            services.budgets.recount(services.store)
    override = {"fields": before.fields, "budget_since": before.budget_since}
    return json_response({"before": _told(scope), "after": _told(made), "changed": _told(scope) != _told(made), "override": override})


def _budget_differs(before: Scope, after: Scope) -> bool:
    """Whether money is counted in another way: what was spent already is then to be counted again."""
    names = ("budget_usd", "budget_period", "budget_timezone")
    return before.budget_since != after.budget_since or any(getattr(before.limits, name) != getattr(after.limits, name) for name in names)


def _scope(services: Services, kind: str, identity: str) -> Scope:
    if kind not in KINDS:
        raise UnknownRoute(f"limits are of a client, a team or a model, not of a '{kind[:40]}'")
    scopes = services.limiter.scopes
    known = scopes.known(kind)
    found = scopes.find(kind, identity)
    if found is None and known is not None:
        raise UnknownRoute(f"no {kind} '{identity[:80]}' is configured{did_you_mean(identity, known)}")
    return found or Scope(kind=kind, id=identity, limits=Limits())


def _override(services: Services, kind: str, identity: str) -> Override:
    rows = services.limiter.scopes.overrides.rows
    return next((one for one in rows if (one.kind, one.id) == (kind, identity)), Override(kind=kind, id=identity))


def _configured(services: Services, kind: str, identity: str) -> Limits:
    settings = services.settings
    rows = {
        "client": {one.client_id: one.limits for one in services.watcher.roster.clients()},
        "team": {one.id: one.limits for one in settings.teams},
        "model": {one.model: one.limits for one in settings.model_limits},
    }
    return rows[kind].get(identity, Limits())


def _changed(before: Override, asked: Json) -> Override:
    replace = typed(asked, "replace", dict, "an object")
    given = (typed(replace, "fields", dict, "an object") if replace is not None else typed(asked, "set", dict, "an object")) or {}
    forgotten = typed(asked, "configured", list, "a list") or []
    for name in (*given, *forgotten):
        if name not in FIELDS:
            raise InvalidRequest(f"there is no limit '{name}'{did_you_mean(str(name), FIELDS)}; known: {', '.join(FIELDS)}", param="set")
    if replace is not None:
        return Override(kind=before.kind, id=before.id, fields=given, budget_since=typed(replace, "budget_since", int, "a time") or 0, set_ms=before.set_ms)
    fields = {name: value for name, value in {**before.fields, **given}.items() if name not in forgotten}
    since = int(time.time()) if typed(asked, "reset_budget", bool, "true or false") else before.budget_since
    return Override(kind=before.kind, id=before.id, fields=fields, budget_since=since, set_ms=before.set_ms)


def _told(scope: Scope) -> Json:
    return {"scope": scope.kind, "id": scope.id, "limits": msgspec.structs.asdict(scope.limits), "budget_since": scope.budget_since or None}


ROUTES = (
    Route("/admin/v1/budgets", ("GET",), Access.VIEWER, budgets, "admin_budgets"),
    Route("/admin/v1/budgets/verify", ("GET",), Access.VIEWER, verify, "admin_budgets_verify"),
    Route("/admin/v1/limits/<kind>/<path:identity>", ("GET",), Access.VIEWER, limits, "admin_limits"),
    Route("/admin/v1/limits/<kind>/<path:identity>", ("PUT",), Access.OPERATOR, limits, "admin_limits_set", changes=True),
)
