"""The configuration: what is in force and where it comes from; edited, checked line by line, compared, applied for a while, and taken back."""

from __future__ import annotations

from flask import Response

from coollm.console.ask import Refused
from coollm.console.page import Page, Visit
from coollm.core.types import Json

CONFIRM_TIMES = ("5m", "15m", "1h", "")
"""How long a configuration may be in force unconfirmed; "" is for good at once."""


def page(visit: Visit) -> Response:
    """Every value with its origin, and the generations."""
    values = visit.get("/admin/v1/config/effective")["values"]
    return visit.render("configuration.html", title="Configuration", values=values, history=visit.get("/admin/v1/config/history"))


def edit(visit: Visit) -> Response:
    """The text in force, to be changed. Secrets that stand in it are placeholders, which are put back."""
    return visit.render("configuration_edit.html", title="Edit the configuration", text=visit.text("/admin/v1/config"), checked=None, times=CONFIRM_TIMES)


def check(visit: Visit) -> Response:
    """Every fault with its line, or what would change."""
    return visit.render("configuration_checked.html", checked=_check(visit, _text(visit)))


def apply(visit: Visit) -> Response:
    """Puts it in force."""
    text = _text(visit)
    checked = _check(visit, text)
    within = visit.field("confirm_within")
    if checked["valid"] and within in CONFIRM_TIMES:
        try:
            made = visit.send("POST", "/admin/v1/config", text.encode(), confirm_within=within)
        except Refused as error:
            checked = {**checked, "refused": error.message}
        else:
            until = f" It reverts in {within} unless it is confirmed." if within and made["changed"] else ""
            words = f"Generation {made['generation']} is in force.{until}" if made["changed"] else "This is the configuration in force already."
            return visit.go("/ui/configuration", words)
    return visit.render("configuration_edit.html", 400, title="Edit the configuration", text=text, checked=checked, times=CONFIRM_TIMES)


def confirm(visit: Visit) -> Response:
    """Keeps what would revert."""
    made = visit.send("POST", "/admin/v1/config/confirm", {})
    return visit.go("/ui/configuration", f"Generation {made['generation']} stays in force.")


def rollback(visit: Visit) -> Response:
    """Puts an earlier one in force again."""
    number = visit.field("generation")
    asked: Json = {"generation": int(number)} if number.isascii() and number.isdigit() and len(number) < 9 else {}
    made = visit.send("POST", "/admin/v1/config/rollback", asked)
    return visit.go("/ui/configuration", f"Generation {made['generation']} is in force: it is what {number or 'the one before'} was.")


def countdown(visit: Visit) -> Response:
    """How long the generation in force has until it reverts, asked for again and again while the page is open."""
    return visit.render("countdown.html", history=visit.get("/admin/v1/config/history"))


def _text(visit: Visit) -> str:
    # Browsers send the lines of a form with CR LF: https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#constructing-entry-list.
    return visit.request.form.get("text", "").replace("\r\n", "\n")


def _check(visit: Visit, text: str) -> Json:
    try:
        found: Json = visit.send("POST", "/admin/v1/config/validate", text.encode())
    except Refused as error:
        found = {"valid": False, "errors": [{"path": "", "message": error.message, "line": None, "column": None, "hint": ""}], "warnings": [], "changes": []}
    return found


PAGES = (
    Page("/ui/configuration", ("GET",), "viewer", page, "configuration", "Configuration"),
    Page("/ui/configuration/edit", ("GET",), "admin", edit, "configuration_edit"),
    Page("/ui/configuration/check", ("POST",), "admin", check, "configuration_check"),
    Page("/ui/configuration/apply", ("POST",), "admin", apply, "configuration_apply", is_dangerous=True),
    Page("/ui/configuration/confirm", ("POST",), "admin", confirm, "configuration_confirm"),
    Page("/ui/configuration/rollback", ("POST",), "admin", rollback, "configuration_rollback", is_dangerous=True),
    Page("/ui/configuration/countdown", ("GET",), "viewer", countdown, "countdown"),
)
