"""The console as an application of its own: who may see which page, and the headers that keep what is not ours out of it.

Sources: https://www.w3.org/TR/CSP3/, https://cheatsheetseries.owasp.org/cheatsheets/HTTP_Headers_Cheat_Sheet.html, https://htmx.org/docs/#security.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from flask import Flask, Response, redirect, request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from coollm.api.sign_in import sign_in
from coollm.app import LARGEST_ADMIN_BYTES, GatewayApp
from coollm.console import assets, sessions, shown
from coollm.console.ask import Refused
from coollm.console.page import Page, Visit
from coollm.console.pages import account, audit, clients, configuration, operations, overview, playground, providers, requests, signing_in, usage
from coollm.core.errors import OperationFailed, RequestError
from coollm.ledger.threads import in_thread

PAGES: tuple[Page, ...] = (
    *signing_in.PAGES,
    *overview.PAGES,
    *usage.PAGES,
    *requests.PAGES,
    *providers.PAGES,
    *clients.PAGES,
    *configuration.PAGES,
    *operations.PAGES,
    *audit.PAGES,
    *playground.PAGES,
    *account.PAGES,
)
"""Every page; there is none without a rule who may see it."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # With `no-referrer` a browser would say of our own forms that they come from nowhere: https://fetch.spec.whatwg.org/#append-a-request-origin-header.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

WORDS = {404: "There is no such page.", 405: "This page does not take that.", 413: "This form is too large."}

_log = logging.getLogger("coollm.console")


def create_console(gateway: GatewayApp) -> Flask:
    """The console of a gateway."""
    app = Flask("coollm.console", static_folder=None)
    app.url_map.strict_slashes = False
    app.config.update(MAX_CONTENT_LENGTH=LARGEST_ADMIN_BYTES, MAX_FORM_MEMORY_SIZE=LARGEST_ADMIN_BYTES)
    app.jinja_env.filters.update(shown.FILTERS)
    app.jinja_env.globals.update(asset=assets.address, menu=[page for page in PAGES if page.title])
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.add_url_rule("/ui/static/<stamp>/<name>", "static", assets.serve)
    for page in PAGES:
        view = functools.partial(_serve, gateway, page)
        app.add_url_rule(page.path, page.name, view, methods=list(page.methods), provide_automatic_options=False)
    app.after_request(_finish)
    app.register_error_handler(Exception, functools.partial(_failed, gateway))
    return app


def _serve(gateway: GatewayApp, page: Page, **arguments: Any) -> Response:
    """A page, for who may see it."""
    visit = Visit(gateway.wsgi_app, gateway.services, request._get_current_object())  # type: ignore[attr-defined]  # noqa: SLF001  a stream outlives its context
    services = visit.services
    is_form = request.method == "POST"
    if is_form and request.content_length is None:
        return _error(visit, 411, "A form without a length is not taken.")
    if is_form and not sessions.is_from_here(request):
        services.audit.tell(None, "denied", address=visit.address, reason="cross_site_form", method="POST", path=request.path[:200])
        return _error(visit, 403, "This form was not sent by a page of this console. Open the console itself, and try again.")
    visit.token = sessions.token_of(request)
    found = sessions.find(services, visit.token, visit.address)
    # As in the admin API; who has signed in counts by himself, for an office has one address.
    services.guard.admit(visit.address if found is None else f"console-session/{found[0].id}")
    if found is None:
        return _public(visit, page, arguments)
    visit.session, visit.principal = found
    principal = visit.principal
    if page.needs is not None and not principal.may(page.needs):
        services.audit.tell(principal, "denied", reason="role", method=request.method, path=request.path[:200])
        return _error(visit, 403, f"This needs the role {page.needs}; you are {principal.role}.")
    if is_form and not sessions.has_form_token(request, visit.session):
        services.audit.tell(principal, "denied", reason="form_token", method="POST", path=request.path[:200])
        return _error(visit, 403, "This form is of a session that has ended. Go back, load the page again and repeat what you wanted to do.")
    if is_form and page.is_dangerous and not sessions.is_confirmed(visit.session) and (refusal := _confirm(visit)) is not None:
        return refusal
    sessions.note_use(services, visit.session)
    response = _view(visit, page, arguments)
    if request.method == "GET" and response.mimetype == "text/html" and sessions.is_due(visit.session):
        _rotate(visit, response)
    return response


def _public(visit: Visit, page: Page, arguments: dict[str, Any]) -> Response:
    """What somebody sees who has not signed in."""
    if page.needs is None:
        return _view(visit, page, arguments)
    query = f"?{request.query_string.decode('latin-1')}" if request.query_string else ""
    place = signing_in.address(f"{request.path}{query}" if request.method == "GET" else "/ui/")
    if "hx-request" in request.headers:
        return Response(status=401, headers={"hx-redirect": signing_in.address("/ui/")})
    if page.is_stream:
        return Response(status=401)
    response: Response = redirect(place, 303)  # type: ignore[assignment]  # Flask's Response is Werkzeug's
    return response


def _view(visit: Visit, page: Page, arguments: dict[str, Any]) -> Response:
    try:
        found = page.view(visit, **arguments)
    except Refused as error:
        return _error(visit, error.status, error.message)
    return found if isinstance(found, Response) else Response(found, mimetype="text/html")


def _confirm(visit: Visit) -> Response | None:
    """None once somebody has said again who he is; else the page that asks for it, which sends the same form then."""
    session, services = visit.session, visit.services
    assert session is not None  # noqa: S101  who has none does not come here
    password, wrong = request.form.get("confirm_password", ""), ""
    if password:
        try:
            principal = sign_in(services, session.name, password, request.form.get("confirm_code", ""), visit.address)
        except RequestError as error:
            wrong = error.message
        else:
            if principal.kind == session.kind:
                sessions.confirm(services, session)
                return None
            wrong = "this is another way of signing in than you have used"
    fields = [(name, value) for name, value in request.form.items(multi=True) if name not in (sessions.FORM_TOKEN, "confirm_password", "confirm_code")]
    return visit.render("confirm.html", 403 if wrong else 200, title="Confirm who you are", fields=fields, wrong=wrong)


def _rotate(visit: Visit, response: Response) -> None:
    session = visit.session
    assert session is not None  # noqa: S101  who has none does not come here
    token = in_thread(lambda: visit.services.console_book.rotate(session, visit.token))
    if token is not None:
        sessions.give(visit.services, request, response, token)


def _finish(response: Response) -> Response:
    response.headers.update(HEADERS)
    response.headers.setdefault("cache-control", "no-store")
    return response


def _error(visit: Visit, status: int, message: str) -> Response:
    if "hx-request" in request.headers:
        return visit.render("refusal.html", status, message=visit.services.redact(message))
    return visit.render("error.html", status, title="Not done", message=visit.services.redact(message), status_code=status)


def _failed(gateway: GatewayApp, error: Exception) -> Response:
    """A page also for what goes wrong: never a traceback."""
    visit = Visit(gateway.wsgi_app, gateway.services, request._get_current_object())  # type: ignore[attr-defined]  # noqa: SLF001  a stream outlives its context
    if isinstance(error, RequestError):
        response = _error(visit, error.status, error.message)
        wait = getattr(error, "retry_after_seconds", None)
        if wait:
            response.headers["retry-after"] = str(max(1, round(wait)))
        return response
    if isinstance(error, HTTPException):
        status = error.code or 500
        return _error(visit, status, WORDS.get(status, error.name))
    if isinstance(error, SQLAlchemyError | OperationFailed):
        _log.warning("the console cannot ask the ledger", extra={"reason": type(error).__name__})
        return _error(visit, 503, "The ledger does not answer, and sessions are kept there. The host's administrator can still do everything with coollm.")
    _log.exception("a page of the console failed")
    return _error(visit, 500, "This page failed; the gateway's log says why.")
