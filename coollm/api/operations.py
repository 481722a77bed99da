"""This host for its administrator: its instances, backups and changes, and orders for what only root may do."""

from __future__ import annotations

import time

import msgspec
from flask import Response, g

from coollm.api.answers import json_response
from coollm.api.body import parse_body, read_body
from coollm.api.fields import required_text, typed
from coollm.api.routes import Access, Route
from coollm.core.backup_status import read_backup_status
from coollm.core.errors import GatewayFault, InvalidRequest, NotAllowed, OperationFailed
from coollm.core.instances import find_instances, is_alive, read_reports
from coollm.core.orders import ACTIONS, STALE_SECONDS, Order, Orders
from coollm.core.paths import find_config, run_directory
from coollm.core.registry import did_you_mean
from coollm.core.types import Json
from coollm.ledger.threads import in_thread
from coollm.services import Services

MOST_ORDERS = 20


def instances(services: Services) -> Response:  # noqa: ARG001
    """Every worker of this host that runs: its instance, release and generation, what it serves, and what it cannot serve."""

    def look() -> list[Json]:
        run = run_directory(find_config().absolute())
        rows: list[Json] = []
        for instance in sorted(find_instances(run), key=lambda one: one.name):
            if not is_alive(instance.pid):
                continue
            for report in read_reports(run / instance.name):
                if report.is_live:
                    rows.append(
                        {
                            "instance": instance.name,
                            "pid": report.pid,
                            "version": report.version,
                            "generation": report.generation,
                            "started": report.started,
                            "draining": report.is_draining,
                            "streams": report.streams,
                            "under_way": report.under_way,
                            "requests": report.requests,
                            "failed": report.failed,
                            "memory_bytes": report.memory_bytes,
                            "refused": report.refused or None,
                        }
                    )
        return rows

    return json_response({"workers": in_thread(look)})


def backups(services: Services) -> Response:
    """When this host was last backed up, and when a restore of it was last proven; times of the epoch in seconds, null for never."""
    known = read_backup_status(services.state)
    told = {name: value or None for name, value in msgspec.structs.asdict(known).items()}
    return json_response({**told, "now": time.time()})


def orders(services: Services) -> Response:
    """What was ordered here of the host: what waits, and what was carried out."""
    kept = Orders(services.state)
    waiting, done = in_thread(kept.waiting), in_thread(kept.done)
    return json_response({"waiting": [_told(one) for one in waiting], "done": [_told(one) for one in done[:MOST_ORDERS]], "actions": list(ACTIONS)})


def give(services: Services) -> Response:
    """Orders {"action", "instance"} of the host, which carries it out as `coollm` does when root says it."""
    asked = parse_body(read_body(services, g.exchange))
    action, principal = required_text(asked, "action"), g.exchange.principal
    known = ACTIONS.get(action)
    if known is None:
        raise InvalidRequest(f"there is no action '{action[:40]}'{did_you_mean(action, ACTIONS)}; known: {', '.join(ACTIONS)}", param="action")
    if not principal.may(known.role):
        raise NotAllowed(f"this needs the role {known.role}, and {principal.name} is {principal.role}", code="role_required")
    instance = typed(asked, "instance", str, "the number of an instance") or ""
    try:
        order = in_thread(lambda: Orders(services.state).give(action, instance, principal.name, principal.role or "", principal.address))
    except OperationFailed as error:
        raise InvalidRequest(error.message, param="instance") from None
    except OSError as error:
        raise GatewayFault(f"the order cannot be written: {error.strerror}", status=503, code="order_not_written") from error
    g.changed = {"order": order.id, "action": action, "instance": instance or None}
    return json_response(_told(order), 202)


def _told(order: Order) -> Json:
    is_stale = order.exit_code is None and time.time() - order.at > STALE_SECONDS
    return {**msgspec.structs.asdict(order), "command": " ".join(("coollm", *order.command())), "stale": is_stale}


ROUTES = (
    Route("/admin/v1/instances", ("GET",), Access.VIEWER, instances, "admin_instances"),
    Route("/admin/v1/backups", ("GET",), Access.VIEWER, backups, "admin_backups"),
    Route("/admin/v1/orders", ("GET",), Access.VIEWER, orders, "admin_orders"),
    Route("/admin/v1/orders", ("POST",), Access.OPERATOR, give, "admin_orders_give", changes=True),
)
