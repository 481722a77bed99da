"""This host: its instances, changes, backups and drills, and orders for what root does."""

from __future__ import annotations

from flask import Response

from coollm.console.ask import Refused
from coollm.console.page import Page, Visit
from coollm.core.types import Json

CHANGES = ("upgrade", "rollback", "restart", "scale", "drain", "undrain", "config-apply", "config-confirm", "undo", "restore", "install")
"""Changes whose receipts are shown, by their kinds in the audit log."""

MOST_RECEIPTS = 15


def page(visit: Visit) -> Response:
    """How the host is."""
    return _shown(visit)


def _shown(visit: Visit, wrong: str = "", status: int = 200) -> Response:
    told = visit.get("/admin/v1/audit", limit=1000)
    receipts = [one for one in told["entries"] if one.get("action") in CHANGES and one.get("state") in ("done", "failed", "taken back")]
    return visit.render(
        "operations.html",
        status,
        title="Operations",
        workers=visit.get("/admin/v1/instances")["workers"],
        backups=visit.get("/admin/v1/backups"),
        orders=visit.get("/admin/v1/orders"),
        receipts=receipts[::-1][:MOST_RECEIPTS],
        wrong=wrong,
    )


def order(visit: Visit) -> Response:
    """Orders something of the host."""
    asked: Json = {name: value for name in ("action", "instance") if (value := visit.field(name))}
    try:
        made = visit.send("POST", "/admin/v1/orders", asked)
    except Refused as error:
        return _shown(visit, error.message, error.status)
    return visit.go("/ui/operations", f"Ordered: {made['command']}. The host takes it up within seconds.")


def orders(visit: Visit) -> Response:
    """What waits and what was carried out, asked for again and again while the page is open."""
    return visit.render("orders.html", orders=visit.get("/admin/v1/orders"))


PAGES = (
    Page("/ui/operations", ("GET",), "viewer", page, "operations", "Operations"),
    Page("/ui/operations", ("POST",), "operator", order, "operations_order", is_dangerous=True),
    Page("/ui/operations/orders", ("GET",), "viewer", orders, "orders"),
)
