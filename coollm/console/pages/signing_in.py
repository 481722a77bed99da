"""Signing in and out."""

from __future__ import annotations

import re
import time
from urllib.parse import urlencode

from flask import Response, redirect

from coollm.api.sign_in import proof_of, sign_in
from coollm.console import sessions
from coollm.console.page import Page, Visit
from coollm.core.errors import LimitReached, RequestError
from coollm.ledger.threads import in_thread

HOME = "/ui/"
PATH = "/ui/sign-in"
LONGEST_PLACE = 1000

# A path of ours, and nothing that a browser could take for another host.
_OURS = re.compile(r"/ui(?:/[A-Za-z0-9_.~%/-]*)?(?:\?[A-Za-z0-9_.~%&=:+-]*)?")


def address(place: str) -> str:
    """Where to sign in on the way to a place."""
    return PATH if place in ("/ui", HOME) else f"{PATH}?{urlencode({'next': place})}"


def safe(place: str) -> str:
    """The place, if it is one of the console's; else its first page."""
    return place if len(place) <= LONGEST_PLACE and _OURS.fullmatch(place) and "//" not in place else HOME


def page(visit: Visit) -> Response:
    """GET: the form. POST: a session, with a token that nobody had before."""
    place = safe(visit.request.values.get("next", HOME))
    if visit.request.method == "GET":
        return _go(place) if visit.session is not None else _form(visit, place)
    if sessions.is_overheard(visit.services, visit.request):
        return _form(visit, place, "This connection is not encrypted, and a password would be read on its way: use https, or `ssh -L`.", status=403)
    services, name = visit.services, visit.field("name")
    password, code = visit.request.form.get("password", ""), visit.field("code")
    if not name or not password:
        return _form(visit, place, "A name and a password are needed.", status=400)
    try:
        principal = sign_in(services, name, password, code, visit.address)
    except RequestError as error:
        is_code = error.code in ("second_factor_required", "wrong_code")
        message = "" if error.code == "second_factor_required" else services.redact(error.message)
        wait = error.retry_after_seconds if isinstance(error, LimitReached) else None
        response = _form(visit, place, message, status=error.status, name=name, asks_code=is_code)
        if wait:
            response.headers["retry-after"] = str(max(1, round(wait)))
        return response
    assert principal.role is not None  # noqa: S101  who has none was refused
    role, oldest = principal.role, int((time.time() - float(services.settings.server.webui.session_timeout)) * 1000)
    if visit.session is not None:
        before = visit.session
        in_thread(lambda: services.console_book.end(before))
    proof = proof_of(services, principal)
    token, session = in_thread(lambda: services.console_book.begin(principal.kind, principal.name, role, proof, oldest))
    services.audit.tell(principal, "console_sign_in", state="done", session=session.id)
    response = _go(place)
    sessions.give(services, visit.request, response, token)
    return response


def _form(visit: Visit, place: str, wrong: str = "", *, status: int = 200, name: str = "", asks_code: bool = False) -> Response:
    return visit.render("sign_in.html", status, title="Sign in", place=place, wrong=wrong, name=name, asks_code=asks_code)


def _go(place: str) -> Response:
    response: Response = redirect(place, 303)  # type: ignore[assignment]  # Flask's Response is Werkzeug's
    return response


def out(visit: Visit) -> Response:
    """Ends the session, here and in the ledger."""
    session = visit.session
    if session is not None:
        in_thread(lambda: visit.services.console_book.end(session))
        visit.services.audit.tell(visit.principal, "console_sign_out", session=session.id)
    response = _go(PATH)
    sessions.take(response)
    return response


PAGES = (
    Page(PATH, ("GET", "POST"), None, page, "sign_in"),
    Page("/ui/sign-out", ("POST",), "viewer", out, "sign_out"),
)
