"""Who has signed in, by a cookie that says nothing: sessions are kept in the ledger, end when nothing is done or after some hours, and change their token.

Sources: OWASP's cheat sheets on session management and cross-site request forgery, https://www.rfc-editor.org/rfc/rfc6265 with its draft 6265bis (SameSite,
`__Host-`), https://www.w3.org/TR/fetch-metadata/.
"""

from __future__ import annotations

import hmac
import time
from typing import Literal
from urllib.parse import urlsplit

from flask import Request, Response

from coollm.api.access import is_local, is_within
from coollm.api.sign_in import is_proven
from coollm.core.config.schema import WebUi
from coollm.identity.principal import Principal
from coollm.ledger.console_book import ConsoleSession
from coollm.ledger.threads import in_thread
from coollm.services import Services

COOKIE = "coollm_console"
SECURE_COOKIE = f"__Host-{COOKIE}"
FORM_TOKEN = "form_token"  # noqa: S105  the name of a field
FORM_TOKEN_HEADER = "x-form-token"  # noqa: S105

NOTED_EVERY_MS = 60_000
"""When a session was used last is written down this often."""

ROTATED_EVERY_MS = 15 * 60_000
CONFIRMED_MS = 5 * 60_000
"""Who has said who he is within this time may do what is dangerous."""

LONGEST_TOKEN = 200
KINDS: dict[str, Literal["ldap", "key", "password"]] = {"ldap": "ldap", "key": "key"}


def is_encrypted(services: Services, request: Request) -> bool:
    """Whether the browser speaks to us, or to a proxy that is trusted, over TLS."""
    if request.environ["wsgi.url_scheme"] == "https":
        return True
    trusted = services.settings.server.trusted_proxies
    return bool(trusted) and is_within(request.environ.get("REMOTE_ADDR", ""), trusted) and request.headers.get("x-forwarded-proto", "").lower() == "https"


def is_overheard(services: Services, request: Request) -> bool:
    """Whether what is sent goes over a network in clear."""
    return not (is_encrypted(services, request) or is_local(request.environ) or is_within(request.environ.get("REMOTE_ADDR", ""), ("127.0.0.0/8", "::1")))


def token_of(request: Request) -> str:
    """What the browser keeps; "" if nothing."""
    token = request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE) or ""
    return token if len(token) <= LONGEST_TOKEN else ""


def find(services: Services, token: str, address: str) -> tuple[ConsoleSession, Principal] | None:
    """The session of a token, and who that is, if it still goes on: one that has ended is forgotten."""
    if not token:
        return None
    session = in_thread(lambda: services.console_book.find(token))
    if session is None:
        return None
    principal = _principal(services, session, address)
    if principal is None or has_ended(services.settings.server.webui, session) or not is_proven(services, session.kind, session.name, session.proof):
        in_thread(lambda: services.console_book.end(session))
        return None
    return session, principal


def has_ended(told: WebUi, session: ConsoleSession) -> bool:
    """Whether nothing was done for too long, or it is too long ago that it began. What was noted of its use may be a minute old."""
    now = _now()
    return now - session.used_ms > float(told.idle_timeout) * 1000 + NOTED_EVERY_MS or now - session.began_ms > float(told.session_timeout) * 1000


def _principal(services: Services, session: ConsoleSession, address: str) -> Principal | None:
    """Who that is now: the role of an administrator with a key may have changed, and whoever was shut out is nobody."""
    roster = services.watcher.roster
    if session.name in roster.shut_out:
        return None
    role = session.role
    if session.kind == "key":
        known = roster.stored.find_admin(session.name)
        if known is None:
            return None
        role = known.role
    if session.kind == "ldap" and services.settings.auth is None:
        return None
    return Principal(kind=KINDS.get(session.kind, "password"), name=session.name, role=role, address=address, via="console")


def note_use(services: Services, session: ConsoleSession) -> None:
    """It was used now."""
    now = _now()
    if now - session.used_ms >= NOTED_EVERY_MS:
        in_thread(lambda: services.console_book.set(session, used_ms=now))


def is_confirmed(session: ConsoleSession) -> bool:
    """Whether he has lately said who he is."""
    return _now() - session.confirmed_ms <= CONFIRMED_MS


def confirm(services: Services, session: ConsoleSession) -> None:
    """He has said so now."""
    now = _now()
    in_thread(lambda: services.console_book.set(session, confirmed_ms=now, used_ms=now))


def is_due(session: ConsoleSession) -> bool:
    """Whether the token is old enough to be replaced."""
    return _now() - session.rotated_ms >= ROTATED_EVERY_MS


def give(services: Services, request: Request, response: Response, token: str) -> None:
    """Lets the browser keep a token, for as long as it is open. It sends it with requests from our own pages alone."""
    is_secure = is_encrypted(services, request)
    name, path = (SECURE_COOKIE, "/") if is_secure else (COOKIE, "/ui")
    response.set_cookie(name, token, path=path, secure=is_secure, httponly=True, samesite="Strict")


def take(response: Response) -> None:
    """Lets the browser forget it."""
    response.delete_cookie(SECURE_COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
    response.delete_cookie(COOKIE, path="/ui", httponly=True, samesite="Strict")


def is_from_here(request: Request) -> bool:
    """Whether a form was sent by a page of ours. Over TLS and on loopback a browser says itself whether it was, which no page can make it say; elsewhere it
    says where the page is from. Who says neither is no browser.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return urlsplit(request.headers.get("origin", "")).netloc == request.host


def has_form_token(request: Request, session: ConsoleSession) -> bool:
    """Whether a form has the token of its session."""
    given = request.headers.get(FORM_TOKEN_HEADER) or request.form.get(FORM_TOKEN, "")
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), session.form_token.encode())


def _now() -> int:
    return int(time.time() * 1000)
