"""Requests one by one: the last ones as they end, and the story of one. Never a prompt, never an answer: they are kept nowhere."""

from __future__ import annotations

from flask import Response

from coollm.app import LOCAL_CLIENT, UNKNOWN_CLIENT
from coollm.console.ask import Refused
from coollm.console.page import Page, Visit, quoted
from coollm.core.types import Json

NO_CLIENTS = (LOCAL_CLIENT, UNKNOWN_CLIENT)
NARROWED = ("client", "team", "provider", "model")


def page(visit: Visit) -> Response:
    """The last requests, all or some; with an id the way to its story."""
    given = visit.request.args
    identity = given.get("id", "").strip()
    if identity:
        return visit.go(f"/ui/requests/{quoted(identity)}")
    wanted = {name: given.get(name, "").strip() for name in NARROWED}
    failed = given.get("failed") == "1"
    rows = visit.get("/admin/v1/requests", limit=100, failed=1 if failed else None, **wanted)["requests"]
    is_tail = not failed and not any(wanted.values())
    return visit.render("requests.html", title="Requests", rows=rows, wanted=wanted, failed=failed, is_tail=is_tail)


def one(visit: Visit, identity: str) -> Response:
    """What was tried for one request, in which order, and why it moved on."""
    found = visit.get(f"/admin/v1/requests/{identity}")
    return visit.render("request.html", title="Request", found=found, route=_route(visit, found["line"]))


def _route(visit: Visit, line: Json | None) -> Json | None:
    """Where such a request would go now; None where nobody knows what was asked for, or it would go nowhere."""
    if line is None or not line["requested_model"]:
        return None
    asked = {"model": line["requested_model"], **({} if line["client"] in NO_CLIENTS else {"client": line["client"]})}
    try:
        told: Json = visit.send("POST", "/admin/v1/route/explain", asked)
    except Refused:
        return None
    return told


PAGES = (
    Page("/ui/requests", ("GET",), "viewer", page, "requests", "Requests"),
    Page("/ui/requests/<identity>", ("GET",), "viewer", one, "request"),
)
