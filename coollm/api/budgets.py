"""What is spent of each budget: for the administrator."""

from __future__ import annotations

import time

import orjson
from flask import Response

from coollm.api.routes import Access, Route
from coollm.api.usage import in_thread_or_unavailable
from coollm.core.money import NANO_USD
from coollm.core.types import Json
from coollm.limits.limiter import budget_charge
from coollm.limits.scopes import Scope
from coollm.services import Services

FOREVER = 2**43


def budgets(services: Services) -> Response:
    """Every budget, what is spent or reserved of it by the counters, and what was spent by the ledger, in its present period."""
    in_thread_or_unavailable(services.shipper.ship)
    rows = [_row(services, scope) for scope in services.limiter.scopes.budgeted()]
    return Response(orjson.dumps({"budgets": rows}), mimetype="application/json")


def _row(services: Services, scope: Scope) -> Json:
    charge = budget_charge(scope, 0, time.time())
    assert charge is not None  # noqa: S101  it has a budget
    used = services.store.used([charge])[charge.counter]
    starts, ends = charge.span.starts, charge.span.ends
    spent = in_thread_or_unavailable(lambda: services.ledger.spent(scope.kind, scope.id, starts * 1000, (ends or FOREVER) * 1000))
    return {
        "scope": scope.kind,
        "id": scope.id,
        "period": scope.limits.budget_period,
        "starts": None if not ends else starts,
        "ends": ends or None,
        "limit_usd": charge.limit / NANO_USD,
        "used_usd": used / NANO_USD,
        "left_usd": max(0, charge.limit - used) / NANO_USD,
        "ledger_usd": spent / NANO_USD,
        "difference_nano_usd": used - spent,
    }


ROUTES = (Route("/admin/v1/budgets", ("GET",), Access.ADMIN, budgets, "admin_budgets"),)
