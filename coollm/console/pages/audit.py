"""The audit log: who did what, and whether the chain holds."""

from __future__ import annotations

from flask import Response

from coollm.console.page import Page, Visit

SHOWN = 200
HIDDEN = ("time", "actor", "host", "action", "hash", "state", "address")


def page(visit: Visit) -> Response:
    """The last lines, all or some."""
    wanted = {name: visit.request.args.get(name, "").strip() for name in ("actor", "action", "text")}
    told = visit.get("/admin/v1/audit", limit=SHOWN, **wanted)
    chain, note = told.get("chain"), told.get("note")
    return visit.render("audit.html", title="Audit log", entries=told["entries"][::-1], chain=chain, note=note, wanted=wanted, hidden=HIDDEN)


PAGES = (Page("/ui/audit", ("GET",), "viewer", page, "audit", "Audit"),)
