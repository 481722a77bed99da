"""Clients: made, changed, given other keys, limited, shut out and removed. A key is shown once, on the page that makes it."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response

from coollm.console.ask import Refused
from coollm.console.page import Page, Visit, quoted
from coollm.core.types import Json

WHOLE = ("req_per_min", "tokens_per_min", "concurrent")
LISTS = ("allowed_models", "allowed_providers", "allowed_addresses")


def page(visit: Visit) -> Response:
    """All of them, and the form for another one."""
    return _all(visit)


def _all(visit: Visit, wrong: str = "", status: int = 200) -> Response:
    clients = visit.get("/admin/v1/clients")["clients"]
    budgets = {(one["scope"], one["id"]): one for one in visit.get("/admin/v1/budgets", counters=1)["budgets"]}
    return visit.render("clients.html", status, title="Clients", clients=clients, budgets=budgets, wrong=wrong, form=visit.request.form)


def create(visit: Visit) -> Response:
    """Another client; the page has its key."""
    try:
        made = visit.send("POST", "/admin/v1/clients", {"id": visit.field("id"), **_fields(visit, only_given=True)})
    except (Refused, ValueError) as error:
        return _all(visit, str(error), getattr(error, "status", 400))
    return visit.render("client_key.html", title="The key of the client", identity=made["id"], key=made["key"], ends_ms=None)


def one(visit: Visit, identity: str) -> Response:
    """One client."""
    return _one(visit, identity)


def _one(visit: Visit, identity: str, wrong: str = "", status: int = 200) -> Response:
    client = visit.get(f"/admin/v1/clients/{identity}")
    limits = visit.get(f"/admin/v1/limits/client/{identity}")
    budgets = [one for one in visit.get("/admin/v1/budgets", counters=1)["budgets"] if (one["scope"], one["id"]) == ("client", identity)]
    usage = visit.get(f"/admin/v1/metrics/clients/{identity}")
    return visit.render(
        "client.html", status, title=f"Client {identity}", client=client, limits=limits["limits"], budgets=budgets, usage=usage, wrong=wrong, lists=LISTS
    )


def change(visit: Visit, identity: str) -> Response:
    """What is said of a client."""
    return _changed(visit, identity, lambda: visit.send("PUT", _place(identity), _fields(visit, only_given=False)), "It is changed.")


def limit(visit: Visit, identity: str) -> Response:
    """Limits and budget, which hold in every worker within a second."""

    def send() -> None:
        wanted: Json = {name: _number(visit, name) for name in WHOLE}
        wanted["budget_usd"] = _money(visit, "budget_usd")
        if period := visit.field("budget_period"):
            wanted["budget_period"] = period
        visit.send("PUT", f"/admin/v1/limits/client/{identity}", {"set": wanted})

    return _changed(visit, identity, send, "The limits hold from now on.")


def rotate(visit: Visit, identity: str) -> Response:
    """Another key; the old ones go on for a while."""
    try:
        made = visit.send("POST", f"{_place(identity)}/rotate", {"overlap": visit.field("overlap") or "24h"})
    except Refused as error:
        return _one(visit, identity, error.message, error.status)
    return visit.render("client_key.html", title="The new key of the client", identity=identity, key=made["key"], ends_ms=made["old_keys_expire_ms"])


def revoke(visit: Visit, identity: str) -> Response:
    """Shuts a client out, or lets it in again."""
    is_out = visit.field("revoked") != "no"
    words = "It is shut out." if is_out else "It is let in again."
    return _changed(visit, identity, lambda: visit.send("PUT", _place(identity), {"revoked": is_out}), words)


def remove(visit: Visit, identity: str) -> Response:
    """Removes it with its keys, when its name was written again."""
    if visit.field("again") != identity:
        return _one(visit, identity, f"To remove the client, write its name: {identity}", 400)
    try:
        visit.send("DELETE", _place(identity), {})
    except Refused as error:
        return _one(visit, identity, error.message, error.status)
    return visit.go("/ui/clients", f"The client {identity} is removed. What it used and cost stays in the ledger.")


def _changed(visit: Visit, identity: str, send: Callable[[], object], words: str) -> Response:
    try:
        send()
    except (Refused, ValueError) as error:
        return _one(visit, identity, str(error), getattr(error, "status", 400))
    return visit.go(f"/ui/clients/{quoted(identity)}", words)


def _place(identity: str) -> str:
    return f"/admin/v1/clients/{identity}"


def _fields(visit: Visit, *, only_given: bool) -> Json:
    given: Json = {name: [one.strip() for one in visit.field(name).replace("\n", ",").split(",") if one.strip()] for name in LISTS}
    given.update({name: visit.field(name) or None for name in ("description", "team")})
    if only_given:
        limits: Json = {name: value for name in WHOLE if (value := _number(visit, name)) is not None}
        budget = _money(visit, "budget_usd")
        if budget is not None:
            limits |= {"budget_usd": budget, "budget_period": visit.field("budget_period") or "month"}
        given["limits"] = limits
        return {name: value for name, value in given.items() if value not in (None, [], {})}
    return {name: value or None for name, value in given.items()}  # nothing is what there is without a word of it


def _number(visit: Visit, name: str) -> int | None:
    text = visit.field(name)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) < 2**31:
        raise ValueError(f"'{name}' must be a whole number from 1 on, not '{text[:20]}'")
    return int(text)


def _money(visit: Visit, name: str) -> float | None:
    text = visit.field(name)
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e9:
        raise ValueError(f"'{name}' must be an amount of US dollars, not '{text[:20]}'")
    return found


PAGES = (
    Page("/ui/clients", ("GET",), "viewer", page, "clients", "Clients"),
    Page("/ui/clients", ("POST",), "admin", create, "clients_create"),
    Page("/ui/clients/<identity>", ("GET",), "viewer", one, "client"),
    Page("/ui/clients/<identity>", ("POST",), "admin", change, "client_change"),
    Page("/ui/clients/<identity>/limits", ("POST",), "operator", limit, "client_limits"),
    Page("/ui/clients/<identity>/rotate", ("POST",), "admin", rotate, "client_rotate", is_dangerous=True),
    Page("/ui/clients/<identity>/revoke", ("POST",), "admin", revoke, "client_revoke", is_dangerous=True),
    Page("/ui/clients/<identity>/remove", ("POST",), "admin", remove, "client_remove", is_dangerous=True),
)
